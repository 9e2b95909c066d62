"""The gallery of the docs: every method has lines that run, and the picture that they make."""

import importlib.util
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")


def test_every_heading_has_lines_and_a_picture():
    sections = re.split(r"^## ", PAGE, flags=re.M)[1:]
    assert len(sections) > 12
    for section in sections:
        (picture,) = re.findall(r"\(images/gallery/(.+?)\)", section)
        assert (ROOT / "docs" / "images" / "gallery" / picture).is_file()
        (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
        assert "made = " in code
        assert len(code.splitlines()) <= 5


@pytest.mark.slow
def test_the_lines_make_the_pictures(tmp_path):
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "examples" / "gallery.py")
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    kept = ROOT / "docs" / "images" / "gallery"
    names = []
    for name, made, taught in gallery.drawn(PAGE, share=0.01):
        names.append(name)
        if taught:  # of networks trained for a moment the lines run, and the picture is another
            assert made.isfinite().all()
            continue
        mine = gallery.mosaic(made.clamp(-1, 1), columns=min(6, len(made))).convert("L")
        with Image.open(kept / name) as image:
            theirs = image.convert("L")
        assert mine.size == theirs.size
        apart = [abs(a - b) for a, b in zip(mine.tobytes(), theirs.tobytes(), strict=True)]
        assert sum(apart) / len(apart) < 12  # grey values: sixteen shades are kept of 256
    assert sorted(names) == sorted(file.name for file in kept.glob("*.png"))
