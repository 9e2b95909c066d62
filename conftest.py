"""Python blocks of the README and of the documentation run as tests, each page in one namespace and an empty folder."""

import dataclasses
import os
import tempfile
from typing import Any

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser


def enter_empty_folder(namespace: dict[str, Any]) -> None:
    from retrograde.tune import EFFORTS

    # pages show how a fit is asked for; how good one is at the effort people have, the tests of the tuner measure
    namespace["_efforts"] = dict(EFFORTS)
    few = {"fit": 64, "search": 32, "levels": 24, "starts": 8, "refined": 1, "candidates": 6, "contest": ("dpmpp_2m",)}
    EFFORTS["seconds"] = dataclasses.replace(EFFORTS["seconds"], **few)
    namespace["_home"] = os.getcwd()
    namespace["_folder"] = tempfile.TemporaryDirectory()
    os.chdir(namespace["_folder"].name)


def leave_it(namespace: dict[str, Any]) -> None:
    from retrograde.tune import EFFORTS

    EFFORTS.update(namespace["_efforts"])
    os.chdir(namespace["_home"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md"],
    excludes=["docs/gallery.md"],  # a slow test runs it, with the script that draws its pictures
    setup=enter_empty_folder,
    teardown=leave_it,
).pytest()
