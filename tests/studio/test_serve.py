"""The command: loopback unless told otherwise, an address that can be opened, errors that mend."""

import json
import socket
import sys
from typing import ClassVar

import pytest

from retrograde.cli import main
from retrograde.errors import BadValue
from retrograde.studio import serve as serving
from retrograde.studio.guard import is_loopback
from retrograde.studio.serve import listen

module = __import__("retrograde.studio.serve", fromlist=["uvicorn"])


class Server:
    """Stands in for uvicorn: notes what it was given and returns at once."""

    given: ClassVar[list] = []
    started, should_exit = True, False

    def __init__(self, config):
        self.config = config

    def run(self, sockets):
        Server.given.append((self.config, sockets[0].getsockname()))


@pytest.fixture
def served(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Server, "given", [])
    monkeypatch.setattr(module.uvicorn, "Server", Server)
    return Server.given


def test_the_command_listens_on_loopback_and_says_where(served, capsys):
    with pytest.raises(SystemExit) as left:
        main(["studio", "digits", "--no-browser", "--port", "0"])
    assert not left.value.code
    ((_, (host, port)),) = served
    assert host == "127.0.0.1"
    out, err = capsys.readouterr()
    assert f"http://127.0.0.1:{port}/" in out
    assert "warning" not in err


def test_a_program_reads_the_address(served, capsys):
    with pytest.raises(SystemExit):
        main(["studio", "--no-browser", "--port", "0", "--json"])
    ((_, (_, port)),) = served
    assert json.loads(capsys.readouterr().out) == {"address": f"http://127.0.0.1:{port}/"}


def test_a_host_that_others_reach_is_warned_of(served, capsys):
    serving(host="0.0.0.0", port=0, browser=False)
    out, err = capsys.readouterr()
    assert "warning: 0.0.0.0 can be reached from other machines" in err
    assert "http://127.0.0.1:" in out


def test_the_browser_is_opened_once_it_serves(served, monkeypatch):
    opened = []
    monkeypatch.setattr(module.webbrowser, "open", opened.append)
    server = Server(None)
    module._open(server, "http://127.0.0.1:1/")
    assert opened == ["http://127.0.0.1:1/"]
    server.started, server.should_exit = False, True
    module._open(server, "http://127.0.0.1:2/")
    assert len(opened) == 1


def test_a_taken_port_is_an_error_that_mends_and_the_usual_one_moves_on():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BadValue, match="--port 0"):
            listen("127.0.0.1", taken.getsockname()[1])
    with listen("127.0.0.1", None) as first, listen("127.0.0.1", None) as second:
        assert first.getsockname()[1] != second.getsockname()[1]
    with pytest.raises(BadValue):
        listen("203.0.113.1", 0)


@pytest.mark.parametrize(
    ("host", "answer"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.example", False)],
)
def test_loopback_is_told_apart(host, answer):
    assert is_loopback(host) is answer


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_without_the_extra_the_command_says_what_to_install(package, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == package or name.startswith("retrograde.studio")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as left:
        main(["studio"])
    assert left.value.code
    assert f"{package} is needed" in (said := capsys.readouterr().err)
    assert "pip install 'retrograde[studio]'" in said
