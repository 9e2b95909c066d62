"""The page of complaints: every number is there, and every test it names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "complaints.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \|$", PAGE, re.M)
NUMBERS = [*range(1, 29), *range(43, 53)]


def test_every_complaint_is_there_once_and_in_order():
    assert [int(number) for number, *_ in ROWS] == NUMBERS


@pytest.mark.parametrize(("number", "held_by"), [(number, held_by) for number, _, _, held_by in ROWS])
def test_the_tests_that_hold_it_exist(number, held_by):
    named = re.findall(r"`(tests/\w+(?:/\w+)*\.py)::(test_\w+)`", held_by)
    assert named
    assert held_by.count("::") == len(named)
    for file, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.M), test


def test_tests_of_complaints_are_on_the_page():
    """No test here is forgotten there."""
    files = [*(ROOT / "tests" / "complaints").glob("test_*.py"), ROOT / "tests" / "accelerate" / "test_complaints.py"]
    for file in files:
        if file != Path(__file__):
            for test in re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.M):
                assert f"`{file.relative_to(ROOT).as_posix()}::{test}`" in PAGE, test
