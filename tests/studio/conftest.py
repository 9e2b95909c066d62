"""The studio without a browser: its application under Starlette's client, and a talk on its socket."""

import pytest
from starlette.testclient import TestClient

from retrograde.studio import create
from retrograde.tune import tuner

ADDRESS = "http://127.0.0.1:8787"
SMALL = tuner.Effort(32, 8, 8, 16, 12, 4, 1, 6, 32, ("ddim",))
"""An effort that a test can wait for; the page offers what the tuner has."""


class Talk:
    """A page's socket: sends what it asks, and collects what comes until the job ends."""

    def __init__(self, socket):
        self.socket = socket

    def send(self, **asks):
        self.socket.send_json(asks)

    def next(self, *kinds):
        """The next event of these kinds; others are passed over."""
        while True:
            event = self.socket.receive_json()
            if not kinds or event["event"] in kinds:
                return event

    def until_ended(self):
        found = []
        while not found or found[-1]["event"] != "ended":
            found.append(self.next())
        return found

    def run(self, *samplers, reference=True, **batch):
        asks = {"batch": {"model": "digits8-flow", "n": 3} | batch, "samplers": list(samplers), "reference": reference}
        self.send(do="run", **asks)
        return self.until_ended()


@pytest.fixture
def client(tmp_path, monkeypatch):
    """The studio over an empty folder."""
    monkeypatch.setitem(tuner.EFFORTS, "small", SMALL)
    with TestClient(create(folder=tmp_path), base_url=ADDRESS) as made:
        yield made


@pytest.fixture
def connect(client):
    """Open a page's socket: `with connect() as talk`."""

    class Connection:
        def __init__(self, **headers):
            self.session = client.websocket_connect(f"ws{ADDRESS[4:]}/ws", headers=headers)

        def __enter__(self):
            return Talk(self.session.__enter__())

        def __exit__(self, *failure):
            self.session.__exit__(*failure)

    return Connection
