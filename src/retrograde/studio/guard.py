"""Who may talk to the studio: pages of its own, under a name that cannot be made to point here by somebody else.

A page of another site can make a browser send requests to this machine; it can even rebind its own name to 127.0.0.1, and
then counts as the same site. Both are told by the headers `Origin` and `Host`, which a page cannot set.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any, final
from urllib.parse import urlsplit

Message = dict[str, Any]

MOST_BYTES = 64 * 2**20
"""Larger requests are refused unread."""

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
        b"form-action 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@final
class Guard:
    """An ASGI application that lets through what its own page asks, and puts the safety headers on the answers.

    `Host` must be a loopback address or localhost. Where the studio serves other hosts, it must be an address, or the very
    name it was told to serve: rebinding needs a name, and not that one. `Origin`, where a browser sends it, must be the
    page's own. Anything else gets 403, before a line of the studio runs.
    """

    def __init__(self, app: Any, host: str = "127.0.0.1") -> None:
        self._app, self._host = app, host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        problem = self._problem(headers)
        if problem is None:

            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], *HEADERS]
                await send(message)

            await self._app(scope, receive, answer)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        else:
            allowed = "requests of the studio's own page"
            mend = "open the address that `retrograde studio` prints"
            body = json.dumps({"given": problem, "allowed": allowed, "mend": mend}).encode()
            sent = [(b"content-type", b"application/json"), *HEADERS]
            await send({"type": "http.response.start", "status": 403, "headers": sent})
            await send({"type": "http.response.body", "body": body})

    def _problem(self, headers: dict[str, str]) -> str | None:
        """Say what is wrong with a request, None where nothing is."""
        host = headers.get("host", "")
        if not self._serves(host):
            return f"Host: {host}"
        origin = headers.get("origin")
        if origin is not None and (urlsplit(origin).scheme not in ("http", "https") or urlsplit(origin).netloc != host):
            return f"Origin: {origin}"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and "sec-fetch-user" not in headers:
            return f"Sec-Fetch-Site: {headers['sec-fetch-site']}"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BYTES:
            return f"Content-Length: {length}"
        return None

    def _serves(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if is_loopback(name):
            return True
        if is_loopback(self._host):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == self._host.lower()
        return True
