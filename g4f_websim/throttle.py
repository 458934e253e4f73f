"""One queue for all calls to the same host with the same login, from the first request that the host refuses with 429.

pace.py knows when the next request may be sent. The calls of all threads wait here, those with the fewest attempts
first, then first come, first served. The first call sleeps until its time has come, and wakes the next when it leaves.
A call that cannot wake, because its event loop is closed or blocked, is passed over.
"""

import asyncio
import bisect
import itertools
import logging
import math
import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from time import monotonic

from .pace import Pace

logger = logging.getLogger("g4f_websim")

# A waiting call checks the queue at this interval, in seconds, even if nobody wakes it. A first call that is later than
# this is passed over.
POLL_INTERVAL = 1.0
# Seconds between two reports, and until the first one, so that it counts all calls of a burst.
REPORT_INTERVAL = 5.0
REPORT_DELAY = 0.1

# The number of hosts and logins whose pace is remembered.
MAX_THROTTLES = 256


class QueueTooLongError(Exception):
    """A call would wait `seconds`, longer than `max_wait`; never leaves the package."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass(eq=False)
class _Waiter:
    """A call in the queue, which is sorted by `rank`: the number of the attempt, then the order of arrival."""

    rank: tuple[int, int]
    is_last_attempt: bool
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class Throttle:
    """The queue of one host and login."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._pace = Pace()
        self._queue: list[_Waiter] = []
        self._arrivals = itertools.count()
        self._next_report = -math.inf

    async def wait_turn(self, attempt: int, is_last_attempt: bool, max_wait: float) -> float:
        """Wait until a request may be sent, and return the time at which it is sent.

        The caller sends it at once, and then calls `accepted`, `refused` or `failed`.

        Args:
            attempt: the number of the call's attempt.
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
        waiter = _Waiter((attempt, next(self._arrivals)), is_last_attempt)
        try:
            while (delay := self._send_or_wait(waiter, start, max_wait)) > 0:
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
        """Record a refusal; `retry_after` or else `backoff` are the seconds to wait."""
        with self._lock:
            is_first = not self._pace.limited
            self._pace.refused(monotonic(), sent_at, retry_after, backoff)
            # A call whose wait has become too long leaves, and wakes the next one.
            self._wake_first()
        if is_first:
            logger.info("%s limits the rate of requests: calls wait in a queue", self._host)

    def failed(self, sent_at: float) -> None:
        """Record a request that ended without a response."""
        with self._lock:
            self._pace.failed(sent_at)
            self._wake_first()

    def _send_or_wait(self, waiter: _Waiter, start: float, max_wait: float) -> float:
        """Return 0 if the call may send its request now, else the seconds after which to look again."""
        with self._lock:
            now = monotonic()
            self._pace.touch(now)
            waiter.woken.clear()
            if waiter not in self._queue:
                bisect.insort(self._queue, waiter, key=attrgetter("rank"))
            while (first := self._queue[0]) is not waiter and self._is_lost(first, now):
                self._queue.remove(first)
            due = self._pace.due(now, first.is_last_attempt)
            if first is waiter and due <= now:
                self._pace.sent(now, waiter.is_last_attempt)
                return 0.0
            self._schedule_report(waiter.loop, now)
            delay = max(0.0, due - now)
            wait = now - start + delay + self._queue.index(waiter) * self._pace.interval()
            if wait > max_wait:
                raise QueueTooLongError(wait)
            return delay if first is waiter else POLL_INTERVAL

    def _is_lost(self, waiter: _Waiter, now: float) -> bool:
        return not waiter.loop.is_running() or self._pace.due(now, waiter.is_last_attempt) < now - POLL_INTERVAL

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock:
            with suppress(ValueError):  # it was passed over
                self._queue.remove(waiter)
            self._wake_first()

    def _wake_first(self) -> None:
        if self._queue:
            first = self._queue[0]
            with suppress(RuntimeError):  # the event loop is closed
                first.loop.call_soon_threadsafe(first.woken.set)

    def _schedule_report(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        if now >= self._next_report:
            self._next_report = now + REPORT_INTERVAL
            loop.call_later(REPORT_DELAY, self._report)

    def _report(self) -> None:
        with self._lock:
            now, calls, interval = monotonic(), len(self._queue), self._pace.interval()
            delay = max(0.0, self._pace.due(now, False) - now)
        if calls:
            waiting = "1 call waits" if calls == 1 else f"{calls} calls wait"
            which = "the last one" if interval else "the next one"
            logger.info(
                "rate limit of %s: %s, %s is sent in about %.0f s",
                self._host, waiting, which, max(1.0, delay + calls * interval),
            )  # fmt: skip


_lock = threading.Lock()


@lru_cache(MAX_THROTTLES)
def _throttle(host: str, token: str) -> Throttle:
    return Throttle(host)


def throttle_for(host: str, token: str) -> Throttle:
    """Return the throttle that all calls to `host` with the login token `token`, or without one, share."""
    with _lock:  # lru_cache would let two threads create one each
        return _throttle(host, token)


def forget_limits() -> None:
    """Forget all rate limits, for a new server that the operating system may give the port of an old one."""
    _throttle.cache_clear()


def _leave_limits_to_parent() -> None:
    """Forget all rate limits in a forked child: the calls in the queues and the owners of the locks stay behind."""
    global _lock
    _lock = threading.Lock()
    forget_limits()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # not on Windows
    os.register_at_fork(after_in_child=_leave_limits_to_parent)
