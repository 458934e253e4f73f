"""Share one pace between all calls to the same host with the same login, once the server has answered 429.

The pace is what the server was seen to accept: requests accepted between two pauses, divided by the time that passed.
A round begins with a pause and one request that is accepted after it. Its pace then grows with the cube of the
requests accepted, as the window of TCP CUBIC grows with time, until the next 429 ends the round.
"""

import asyncio
import bisect
import itertools
import logging
import os
import random
import threading
from time import monotonic

QUIET = 30.0  # seconds without a waiting call after which the limit is forgotten
PATIENCE = 1.0  # seconds between two looks at the queue; a call that is so late lets the next one pass
JITTER = 0.1  # the largest part of the backoff that is added to a pause, so that processes do not resume together
BACKOFF_GROWTH = 1.6  # the factor from one guessed pause to the next; 2 would miss the end of a long limit by more
PROBE, CRUISE = 4, 24  # accepted requests that double the pace: before a limit is confirmed, and afterwards
WIDEN = 120  # accepted requests that double the number of requests in flight
MARGIN = 1.1  # how much slower than the known pace a call on its last attempt is sent
MAX_THROTTLES = 1024

log = logging.getLogger("g4f_websim")


class QueueTooLong(Exception):
    """A call would wait longer than it may.

    Attributes:
        seconds: the whole wait of this attempt.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the wait in the queue would take {seconds:.0f} s")
        self.seconds = seconds


class _Place:
    """The place of a call in the queue: fewer attempts first, then first come, first served."""

    def __init__(self, attempt: int, is_last: bool, number: int) -> None:
        self.order, self.is_last = (attempt, number), is_last
        self.loop = asyncio.get_running_loop()
        self._woken = self.loop.create_future()

    async def sleep(self, seconds: float) -> None:
        self._woken = self.loop.create_future()
        timer = self.loop.call_later(seconds, self._wake)
        try:
            await self._woken
        finally:
            timer.cancel()

    def wake(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)


class Throttle:
    """The pace and the queue of one host and login, for all threads."""
