"""One job at a time, which can be stopped, and which stops when nobody watches it any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, final

import anyio
import anyio.from_thread
import anyio.to_thread

from retrograde.errors import RetrogradeError

Event = dict[str, Any]
Send = Callable[[Event], Coroutine[Any, Any, None]]

_EVERY = 0.1
"""Seconds between two reports of progress."""


class Busy(RetrogradeError):
    """Another job is running."""

    def __init__(self, job: Job) -> None:
        super().__init__(
            f"a second job while {job.what} is running",
            "one job at a time",
            f"wait, or stop job {job.number}",
        )
        self.job = job


class Stopped(Exception):
    """Raised inside a job that was cancelled."""


@final
class Job:
    """Work in a thread of its own, that tells events to one page.

    Told from the worker: `tell` waits until the page has taken the event, so a slow page slows the work down instead of
    piling up pictures, and raises `Stopped` once the job is cancelled or its page is gone.
    """

    def __init__(self, number: int, what: str, send: Send) -> None:
        self.number, self.what = number, what
        self._send = send
        self._cancelled = threading.Event()
        self._told = 0.0
        self.ended = anyio.Event()

    def cancel(self) -> None:
        """Ask the job to stop; it does before its next evaluation is told."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to stop."""
        return self._cancelled.is_set()

    def check(self) -> None:
        """Raise Stopped where the job was cancelled."""
        if self.cancelled:
            raise Stopped

    def tell(self, event: Event) -> None:
        """Send an event from the worker thread."""
        self.check()
        anyio.from_thread.run(self._send, event)

    def progress(self, stage: str, part: float) -> None:
        """Tell how far the work is, at most ten times a second; called more often, it only looks for a cancel."""
        self.check()
        now = time.monotonic()
        if now - self._told >= _EVERY:
            self._told = now
            self.tell({"event": "progress", "stage": stage, "part": part})


@final
class Desk:
    """Where jobs are done, one at a time. Used from the event loop only."""

    def __init__(self) -> None:
        self._number = 0
        self.job: Job | None = None

    async def take(self, what: str, send: Send, replaces: int | None = None) -> Job:
        """Return a new job that holds the desk, after the one it replaces has ended.

        Raises:
            Busy: another job is running.
        """
        while self.job is not None:
            if self.job.number != replaces:
                raise Busy(self.job)
            self.job.cancel()
            await self.job.ended.wait()
        self._number += 1
        self.job = Job(self._number, what, send)
        return self.job

    async def do(self, job: Job, work: Callable[[Job], None], failed: Callable[[Exception], Event]) -> None:
        """Do the work of a job and free the desk, whatever happens; the page is told how it ended."""
        events: list[Event] = []
        try:
            await job._send({"event": "begun", "job": job.number, "what": job.what})
            await anyio.to_thread.run_sync(partial(work, job))
        except Stopped:
            pass
        except Exception as error:
            events.append(failed(error))
        finally:
            if self.job is job:
                self.job = None
            job.ended.set()
        events.append({"event": "ended", "job": job.number, "cancelled": job.cancelled})
        for event in events:
            await job._send(event)

    def cancel(self, number: int) -> None:
        """Stop the job of a number; nothing where it is not running any more."""
        if self.job is not None and self.job.number == number:
            self.job.cancel()
