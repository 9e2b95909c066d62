"""Help and completion answer before anything heavy could be loaded, and the shipped names are the registered ones."""

import os
import subprocess
import sys

import pytest

from retrograde import grids, inverse, operators, recipes
from retrograde.cli import app, complete
from retrograde.zoo import models

COMMANDS = [command.name for command in app.registered_commands]


def heavy_after(arguments, environment=None):
    """What a call prints, and the heavy packages it loaded."""
    script = f"""
import sys
from retrograde.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
print("loaded:", *{{name.split(".")[0] for name in sys.modules}}, file=sys.stderr)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ | (environment or {})
    )
    loaded = ran.stderr.partition("loaded:")[2].split()
    return ran.stdout, {"torch", "numpy", "PIL", "matplotlib", "safetensors"}.intersection(loaded)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["models"], *([name, "--help"] for name in ("sample", "tune", "compare"))]
)
def test_help_loads_nothing_heavy(arguments):
    printed, heavy = heavy_after(arguments)
    assert printed
    assert heavy == set()


def test_the_package_runs_as_the_command():
    ran = subprocess.run([sys.executable, "-m", "retrograde", "--help"], capture_output=True, text=True, check=True)
    assert all(name in ran.stdout for name in ("sample", "solve", "tune"))


def test_the_watch_for_heavy_packages_sees_them():
    assert "torch" in heavy_after(["grids"])[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("retrograde sample --solver dpmpp_2", "dpmpp_2m"),
        ("retrograde compare digits --grid karras,lo", "karras,log_snr"),
        ("retrograde sample dig", "digits"),
        ("retrograde comp", "compare"),
    ],
)
def test_completion_knows_names_and_loads_nothing_heavy(words, expected):
    asked = {"_RETROGRADE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    printed, heavy = heavy_after([], asked)
    assert expected in printed.split()
    assert heavy == set()


def test_shipped_names_are_the_registered_ones():
    mend = 'python -c "from retrograde.cli import complete; complete.write()"'
    for kind, registry in (("recipes", recipes), ("grids", grids), ("operators", operators), ("methods", inverse)):
        assert complete.listed(kind) == list(registry.names()), mend
    assert tuple(complete.configurations()) == models()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(call, name):
    ran = call(name, "--help")
    assert ran.code == 0
    assert "--json" in ran.out


def test_version_and_unknown_commands(call):
    assert call("--version").out.startswith("retrograde ")
    assert call("smaple").code == 2
