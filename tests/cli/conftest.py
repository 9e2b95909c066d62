"""The command, run in an empty folder beside the toys."""

import json
import shutil
from pathlib import Path

import pytest

from retrograde.cli import main


class Ran:
    """What a call left: its exit code and what it printed."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Run the command in an empty folder that holds toys.py; return what it left."""
    shutil.copy(Path(__file__).with_name("toys.py"), tmp_path / "toys.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    capsys.readouterr()

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Ran(left.value.code or 0, printed.out, printed.err)

    return run
