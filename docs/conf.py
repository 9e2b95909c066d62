"""Sphinx configuration; the registry pages are written by `_ext/generate.py` on every build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from retrograde import __version__

project = "Retrograde"
author = "The Retrograde authors"
copyright = author
release = __version__
extensions = ["myst_parser", "generate"]
# Formulas are plain text, so that the built pages need nothing from elsewhere.
myst_heading_anchors = 3
html_theme = "furo"
html_title = "Retrograde"
exclude_patterns = ["_build", "_ext"]
nitpicky = True
