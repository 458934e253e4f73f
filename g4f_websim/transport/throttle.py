"""The queue of one host and login, in which calls wait from the first request that the host refuses with 429.

pace.py knows when the next request may be sent. The calls of all threads wait here, first come, first served. A refused
call returns to the end of the queue; a call on its last attempt lets all others go first. The first call sleeps until
its time has come, and wakes the next when it leaves. A call that cannot wake, because its event loop is closed or
blocked, is passed over.
"""

import asyncio
import bisect
import itertools
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from time import monotonic

from .pace import Pace
from .queue_report import QueueReport

# A waiting call checks the queue at this interval, in seconds, even if nobody wakes it. If the first call is later than
# this, the next call goes instead.
POLL_INTERVAL = 1.0


class QueueTooLongError(Exception):
    """A call would wait `seconds`, longer than `max_wait`; never raised to the caller."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass(eq=False)
class _Waiter:
    """A call in the queue, which is sorted by `rank`."""

    is_last_attempt: bool
    arrival: int
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def rank(self) -> tuple[bool, int]:
        """The sort key. Last attempts come last, so that no call uses up its attempts while others wait."""
        return self.is_last_attempt, self.arrival


class Throttle:
    """A queue that all calls of the process to a host with the same login share."""

    def __init__(self, host: str) -> None:
        self._lock = threading.Lock()
        self._pace = Pace()
        self._queue: list[_Waiter] = []
        self._arrivals = itertools.count()
        self._report = QueueReport(host, self._measure)

    async def wait_turn(self, is_last_attempt: bool, max_wait: float) -> float:
        """Wait until a request may be sent, and return the time at which it is sent.

        The caller sends it at once, and then calls `accepted`, `refused` or `failed`.

        Args:
            is_last_attempt: whether the call fails if this attempt is refused.
            max_wait: the seconds that the call may wait.

        Raises:
            QueueTooLongError: the call would wait longer.
        """
        with self._lock:
            start = monotonic()
            if not self._pace.limited:
                self._pace.sent(start, is_last_attempt)
                return start
        waiter = _Waiter(is_last_attempt, next(self._arrivals))
        try:
            while (delay := self._send_or_wait(waiter, start, max_wait)) > 0:
                self._report.schedule()
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await waiter.woken.wait()
        # Not on GeneratorExit: the garbage collector raises it, perhaps in a thread that holds the lock.
        except (asyncio.CancelledError, QueueTooLongError):
            self._leave(waiter)
            raise
        self._leave(waiter)
        return monotonic()

    def accepted(self, sent_at: float) -> None:
        """Record a response other than a refusal."""
        with self._lock:
            self._pace.accepted(monotonic(), sent_at)
            self._wake_first()

    def refused(self, sent_at: float, retry_after: float | None, backoff: float) -> None:
        """Record a refusal. Nothing is sent for `retry_after` seconds, or for `backoff` seconds if that is None."""
        with self._lock:
            self._pace.refused(monotonic(), sent_at, retry_after, backoff)
            # A call that would now wait longer than max_wait leaves the queue, and wakes the next one.
            self._wake_first()

    def failed(self, sent_at: float) -> None:
        """Record a request that ended without a response."""
        with self._lock:
            self._pace.failed(sent_at)
            self._wake_first()

    def _send_or_wait(self, waiter: _Waiter, start: float, max_wait: float) -> float:
        """Return 0 if the call may send its request now, else the seconds after which to check the queue again."""
        with self._lock:
            now = monotonic()
            self._pace.end_if_quiet(now)
            waiter.woken.clear()
            if waiter not in self._queue:
                bisect.insort(self._queue, waiter, key=attrgetter("rank"))
            while (first := self._queue[0]) is not waiter and self._is_lost(first, now):
                self._queue.remove(first)
            due = self._pace.due(now, first.is_last_attempt)
            if first is waiter and due <= now:
                self._pace.sent(now, waiter.is_last_attempt)
                return 0.0
            self._pace.call_waits(now)
            delay = max(0.0, due - now)
            seconds = now - start + delay + self._queue.index(waiter) * self._pace.interval()
            if seconds > max_wait:
                raise QueueTooLongError(seconds)
            return delay if first is waiter else POLL_INTERVAL

    def _is_lost(self, waiter: _Waiter, now: float) -> bool:
        return not waiter.loop.is_running() or self._pace.due(now, waiter.is_last_attempt) < now - POLL_INTERVAL

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock:
            with suppress(ValueError):  # the call was passed over
                self._queue.remove(waiter)
            self._wake_first()

    def _wake_first(self) -> None:
        if self._queue:
            first = self._queue[0]
            with suppress(RuntimeError):  # the event loop is closed
                first.loop.call_soon_threadsafe(first.woken.set)

    def _measure(self) -> tuple[int, float, float]:
        """Return the number of calls in the queue, the seconds until the next request, and those between two."""
        with self._lock:
            now = monotonic()
            return len(self._queue), max(0.0, self._pace.due(now, False) - now), self._pace.interval()
