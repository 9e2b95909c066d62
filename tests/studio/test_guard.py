"""Who may talk to the studio: nobody through a name of their own, nobody from another site's page."""

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from retrograde.studio import create

LOCAL = "127.0.0.1:8787"


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"host": "localhost:8787"}, True),
        ({"host": "[::1]:8787"}, True),
        ({"host": "evil.example:8787"}, False),  # a name rebound to 127.0.0.1
        ({"host": "127.0.0.1.evil.example"}, False),
        ({"host": "localhost.evil.example"}, False),
        ({"host": "192.168.0.7:8787"}, False),
        ({"host": "[::1"}, False),
        ({"host": ""}, False),
        ({"origin": f"http://{LOCAL}"}, True),
        ({"origin": "http://127.0.0.1:9999"}, False),  # another local server's page
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"content-length": str(10**9)}, False),
    ],
)
def test_requests_under_foreign_names_and_from_foreign_pages_are_refused(client, connect, headers, allowed):
    for address in ("/", "/api/catalogue"):
        answer = client.get(address, headers=headers)
        assert answer.status_code == (200 if allowed else 403)
        if not allowed:
            assert answer.json()["mend"]
    if "content-length" in headers:
        return
    if allowed:
        with connect(**headers) as talk:
            assert talk.run({"nfe": 1}, reference=False)
    else:
        with pytest.raises(WebSocketDisconnect), connect(**headers) as talk:
            pass


def test_a_link_from_elsewhere_may_open_the_page(client):
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-user": "?1", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=headers).status_code == 200


def test_where_other_machines_are_let_in_addresses_and_the_given_name_are_served(tmp_path):
    with TestClient(create(folder=tmp_path, host="workstation"), base_url=f"http://{LOCAL}") as client:
        for host, allowed in (("workstation:8787", 200), ("192.168.0.7:8787", 200), ("evil.example", 403)):
            assert client.get("/api/plans", headers={"host": host}).status_code == allowed


def test_answers_forbid_what_the_page_does_not_need(client):
    for address in ("/", "/studio.js", "/api/catalogue", "/nothing"):
        headers = client.get(address).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_files_outside_the_page_are_not_served(client):
    for address in ("/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "/docs", "/openapi.json"):
        assert client.get(address).status_code == 404
