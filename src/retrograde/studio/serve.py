"""Serving the studio, on this machine only unless told otherwise."""

from __future__ import annotations

import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import uvicorn

from retrograde.errors import BadValue, MissingExtra
from retrograde.studio.app import create
from retrograde.studio.guard import is_loopback

_TRIES = 20
"""How many ports are tried after the usual one, where none was asked for."""


def listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens: at `port` (0: any free one), or at the first free one from 8787.

    Raises:
        BadValue: the address is not this machine's, or the port is taken.
    """
    tried = [port] if port is not None else list(range(8787, 8787 + _TRIES))
    problem: OSError | None = None
    for number in tried:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, number))
            made.listen(128)
        except OSError as error:
            made.close()
            problem = error
        else:
            return made
    given = f"{host}:{tried[0]}{'' if len(tried) == 1 else f' to {tried[-1]}'}: {problem}"
    raise BadValue(given, "an address of this machine and a free port", "--port 0")


def serve(
    model: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = True,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve the studio until it is interrupted, and open it in the browser.

    Announces the address; for a host that others can reach, it also prints a warning: whoever reaches it can use it.

    Raises:
        BadValue: the port is taken, or the address is not this machine's.
        MissingExtra: without websockets, uvicorn has no sockets to offer the page.
    """
    if find_spec("websockets") is None:
        raise MissingExtra("websockets", "studio")
    listening = listen(host, port)
    bound = listening.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    address = f"http://[{name}]:{bound}/" if ":" in name else f"http://{name}:{bound}/"
    if not is_loopback(host):
        warning = f"warning: {host} can be reached from other machines. Whoever reaches it can use the models, read the plan"
        print(f"{warning} files of {Path.cwd()} and keep this machine busy.", file=sys.stderr)
    announce(address)
    settings = {"log_level": "warning", "ws_max_size": 2**20, "timeout_graceful_shutdown": 5}
    server = uvicorn.Server(uvicorn.Config(create(model, host=host), lifespan="on", **settings))
    if browser:
        threading.Thread(target=_open, args=(server, address), daemon=True).start()
    with listening:
        server.run(sockets=[listening])


def _open(server: uvicorn.Server, address: str) -> None:
    while not server.started and not server.should_exit:
        time.sleep(0.05)
    if server.started:
        webbrowser.open(address)
