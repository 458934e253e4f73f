"""Let calls wait in a queue while a server limits its rate: one queue for each endpoint, login and proxy.

All threads and event loops of the process share the queues. gate.py decides when the next request may be sent. Calls
are served in the order of their arrival, but a call on its last attempt lets the others go first. Each call waits in
its own event loop, and polls the queue every second; a call that does not, because its event loop has ended or is
blocked, is passed over.
"""

import asyncio
import bisect
import itertools
import logging
import math
import os
import threading
from contextlib import suppress
from operator import attrgetter
from time import monotonic

from .gate import Gate, State
from .log import log
from .target import Target

# The seconds after which a waiting call polls the queue again, and those between two log lines about a queue.
POLL_INTERVAL = 1.0
REPORT_INTERVAL = 5.0
# The number of endpoints, logins and proxies whose limits are remembered.
MAX_LIMITS = 256


class Call:
    """A call.

    Attributes:
        arrival: the place of the call among all calls.
        remaining_wait: the seconds that the call may still wait.
        is_last_attempt: whether the call fails if its next request is refused.
        is_queued: whether the call waits in the queue.
        not_before: when its own delay is over; it counts only while the gate is open.
        deadline: when it has waited in the queue for too long.
        polled_at: when it last polled the queue.
        loop, woken: the event loop in which it waits, and the event that wakes it.
    """

    is_last_attempt = is_queued = False
    not_before = polled_at = -math.inf
    deadline = math.inf
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Event

    def __init__(self, arrival: int, remaining_wait: float) -> None:
        self.arrival = arrival
        self.remaining_wait = remaining_wait

    @property
    def rank(self) -> tuple[bool, int]:
        """The sort key of the queue."""
        return self.is_last_attempt, self.arrival


class RateLimit:
    """The queue of one endpoint, login and proxy; `host` is the host, for the log."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._gate = Gate()
        self._queue: list[Call] = []
        self._arrivals = itertools.count()
        self._next_report = -math.inf

    def new_call(self, max_wait: float) -> Call:
        """Return a call that may wait for `max_wait` seconds, in one stretch or several."""
        return Call(next(self._arrivals), max_wait)

    def admit(self, call: Call) -> float | None:
        """Return the time if the call may send a request now, else None.

        The caller sends the request at once, and then calls `accepted`, `refused` or `failed` with that time.
        """
        with self._lock:
            now = monotonic()
            # The usual case, in which a call must cost next to nothing here.
            is_free = self._gate.state is State.FREE and not self._queue and call.not_before <= now
            return self._gate.sent(now) if is_free or self._due(call, now) <= now else None

    async def wait(self, call: Call) -> float | None:
        """Wait until the call may send a request, or until it may not wait any longer.

        Returns:
            None if the call may send a request, else the seconds until the server accepts requests.
        """
        start = monotonic()
        call.loop, call.woken, call.is_queued = asyncio.get_running_loop(), asyncio.Event(), True
        call.deadline = start + call.remaining_wait
        try:
            while (delay := self._poll(call)) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await call.woken.wait()
        except asyncio.CancelledError:  # not GeneratorExit: the garbage collector may run while a thread has the lock
            self._leave(call)
            raise
        self._leave(call)
        call.is_queued = False
        call.remaining_wait -= monotonic() - start
        return -delay if delay < 0 else None

    def accepted(self, sent_at: float) -> None:
        """Record a response other than a refusal."""
        with self._lock:
            self._gate.accepted(sent_at)
            self._wake_first()

    def refused(self, sent_at: float, retry_after: float | None, backoff: float) -> None:
        """Record a refusal; see `Gate.refused`."""
        with self._lock:
            self._gate.refused(monotonic(), sent_at, retry_after, backoff)
            self._wake_first()

    def failed(self, sent_at: float) -> None:
        """Record a request that ended without a response."""
        with self._lock:
            self._gate.failed(sent_at)
            self._wake_first()

    def wake_all(self) -> None:
        """Let all calls in the queue poll it."""
        with self._lock:
            for call in self._queue:
                with suppress(RuntimeError):  # the event loop is closed
                    call.loop.call_soon_threadsafe(call.woken.set)

    def _poll(self, call: Call) -> float:
        """Return 0 if the call may send a request now, or the seconds after which to poll again.

        A negative number means that the call may not wait so long.
        """
        report = ""
        with self._lock:
            call.polled_at = now = monotonic()
            call.woken.clear()
            if call not in self._queue:
                bisect.insort(self._queue, call, key=attrgetter("rank"))
            delay = self._due(call, now) - now
            if delay <= 0:
                return 0.0
            left = -math.inf if _is_stopping.is_set() else call.deadline - now
            if left <= 0 or self._gate.retry_at - now > left:
                return -max(1.0, self._gate.due(now, call.is_last_attempt) - now)
            if now >= self._next_report:
                self._next_report = now + REPORT_INTERVAL
                waiting = f"{len(self._queue)} calls wait" if len(self._queue) > 1 else "1 call waits"
                seconds = delay if delay < math.inf else self._gate.due(now, False) - now
                report = f"{waiting}, the next one is sent in about {max(1.0, seconds):.0f} s"
        if report:
            log(logging.INFO, f"rate limit of {self._host}: {report}")
        return min(delay, left, POLL_INTERVAL)

    def _due(self, call: Call, now: float) -> float:
        """Return when the call may send a request, as far as is known now."""
        # A call that waits too long is lost as surely as one that is refused: all calls must get their turns in time.
        calls = len(self._queue) + (call not in self._queue)
        due = self._gate.due(now, call.is_last_attempt, (call.deadline - now) / calls)
        if self._gate.is_open:
            due = max(due, call.not_before)
        if due <= now and (first := self._first(now)) and first.rank < call.rank:
            return math.inf  # the first call wakes the next one
        return due

    def _first(self, now: float) -> Call | None:
        """Return the first call in the queue, except calls with a delay of their own and calls that are passed over."""
        for call in self._queue.copy():
            if call.polled_at < now - 2 * POLL_INTERVAL:
                self._queue.remove(call)
            elif call.not_before <= now or not self._gate.is_open:
                return call
        return None

    def _leave(self, call: Call) -> None:
        with self._lock:
            with suppress(ValueError):  # the call was passed over
                self._queue.remove(call)
            self._wake_first()

    def _wake_first(self) -> None:
        if self._queue and (first := self._first(monotonic())):
            with suppress(RuntimeError):  # the event loop is closed
                first.loop.call_soon_threadsafe(first.woken.set)


_limits: dict[tuple[object, ...], RateLimit] = {}
_is_stopping = threading.Event()


def rate_limit_of(target: Target) -> RateLimit:
    """Return the queue of all calls to the same endpoint, with the same login and through the same proxy."""
    # A forked child has queues of its own: the calls in the queues and the threads that hold locks are its parent's.
    key = (os.getpid(), target.url, target.token, target.proxy)
    limit = _limits.get(key)
    if limit is None:
        if len(_limits) >= MAX_LIMITS:
            _limits.clear()
        limit = _limits.setdefault(key, RateLimit(target.host))
    return limit


def end_waiting() -> None:
    """Let all calls in the queues fail, and all that would wait there, because the server of this process stops."""
    _is_stopping.set()
    for limit in list(_limits.values()):
        limit.wake_all()


def forget_limits() -> None:
    """Forget all rate limits. A new server may have received the port of an old one."""
    _limits.clear()
