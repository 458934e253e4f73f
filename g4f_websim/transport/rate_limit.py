"""Let calls wait in a queue while a server limits its rate: one queue for each endpoint, login and proxy.

All threads and event loops of the process share the queues. gate.py decides when the next request may be sent. Calls
leave a queue in the order of their arrival, except that a call on its last attempt lets the others go first. Each call
waits in its own event loop; a call whose event loop has ended or is blocked is passed over.
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
from operator import attrgetter
from time import monotonic

from .gate import Gate
from .log import log
from .target import Target

# A waiting call looks at the queue at this interval, in seconds, even if nobody wakes it.
POLL_INTERVAL = 1.0
# The seconds between two log lines about a queue.
REPORT_INTERVAL = 5.0
# The number of endpoints, logins and proxies whose limits are remembered.
MAX_LIMITS = 256


class WaitTooLongError(Exception):
    """A call has waited as long as it may, or the server says that it would; never raised to the caller.

    Attributes:
        seconds: the seconds until a request may be sent.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass(eq=False)
class Call:
    """A call, which sends one request or several.

    Attributes:
        arrival: the number of the call.
        may_wait: the seconds that the call may still wait.
        is_last_attempt: whether the call fails if its next request is refused.
        not_before: the end of the call's own delay, which applies while the gate is open.
        looked_at: when the call last looked at the queue.
        is_queued: whether the call is in the queue.
        loop, woken: the event loop of the call, and an event of that loop that lets the call look again.
    """

    arrival: int
    may_wait: float
    is_last_attempt: bool = False
    not_before: float = -math.inf
    looked_at: float = -math.inf
    is_queued: bool = False
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def rank(self) -> tuple[bool, int]:
        """The sort key of the queue."""
        return self.is_last_attempt, self.arrival


class RateLimit:
    """The queue of one endpoint, login and proxy.

    Args:
        host: the host, for the log.
    """

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

    def send(self, call: Call) -> float | None:
        """Return the time if the call may send a request now, else None.

        The caller sends the request at once, and then calls `accepted`, `refused` or `failed`.
        """
        with self._lock:
            now = monotonic()
            if self._due(call, now) > now:
                return None
            self._gate.sent(now)
            return now

    async def wait(self, call: Call) -> None:
        """Wait until the call may send a request.

        Raises:
            WaitTooLongError: the call may not wait that long.
        """
        start = monotonic()
        try:
            while (delay := self._look(call, start + call.may_wait)) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await call.woken.wait()
        # Not on GeneratorExit: the garbage collector raises it, perhaps in a thread that holds the lock.
        except (asyncio.CancelledError, WaitTooLongError):
            self._leave(call)
            raise
        self._leave(call)
        call.may_wait -= monotonic() - start

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

    def _look(self, call: Call, deadline: float) -> float:
        """Return 0 if the call may send a request now, else the seconds after which to look again."""
        with self._lock:
            now = monotonic()
            call.looked_at = now
            call.woken.clear()
            if not call.is_queued:
                call.is_queued = True
                bisect.insort(self._queue, call, key=attrgetter("rank"))
            due = self._due(call, now)
            if due <= now:
                return 0.0
            left = deadline - now
            if left <= 0 or self._gate.retry_at - now > left:
                raise WaitTooLongError(max(0.0, self._gate.due(now, call.is_last_attempt) - now))
            report = self._report(due, now)
        if report:
            log(logging.INFO, report)
        return min(due - now, left, POLL_INTERVAL)

    def _due(self, call: Call, now: float) -> float:
        """Return when the call may send a request, as far as is known now."""
        due = self._gate.due(now, call.is_last_attempt)
        if self._gate.is_open:
            due = max(due, call.not_before)
        if due <= now and (first := self._first(now)) and first.rank < call.rank:
            return now + POLL_INTERVAL  # or until the first call has sent its request and wakes the next one
        return due

    def _first(self, now: float) -> Call | None:
        """Return the first call in the queue whose own delay is over, and pass over calls that do not wake up."""
        for call in self._queue.copy():
            if call.looked_at < now - 2 * POLL_INTERVAL:
                self._remove(call)
            elif call.not_before <= now or not self._gate.is_open:
                return call
        return None

    def _leave(self, call: Call) -> None:
        with self._lock:
            self._remove(call)
            self._wake_first()

    def _remove(self, call: Call) -> None:
        if call.is_queued:
            call.is_queued = False
            self._queue.remove(call)

    def _wake_first(self) -> None:
        if self._queue and (first := self._first(monotonic())):
            with suppress(RuntimeError):  # the event loop is closed
                first.loop.call_soon_threadsafe(first.woken.set)

    def _report(self, due: float, now: float) -> str:
        """Return a line about the queue; empty if there was one a few seconds ago."""
        if now < self._next_report:
            return ""
        self._next_report = now + REPORT_INTERVAL
        calls = len(self._queue)
        waiting = "1 call waits" if calls == 1 else f"{calls} calls wait"
        return f"rate limit of {self._host}: {waiting}, the next one is sent in about {max(1.0, due - now):.0f} s"


_Key = tuple[int, str, str | None, str | None]
_limits: dict[_Key, RateLimit] = {}


def rate_limit_of(target: Target) -> RateLimit:
    """Return the queue of all calls to the same endpoint, with the same login and through the same proxy."""
    # A forked child starts afresh: the calls in the queues and the threads that hold locks are its parent's.
    key = os.getpid(), target.url, target.token, target.proxy
    limit = _limits.get(key)
    if limit is None:
        if len(_limits) >= MAX_LIMITS:
            _limits.clear()  # a limit in use stays with its calls
        limit = _limits.setdefault(key, RateLimit(target.host))
    return limit


def forget_limits() -> None:
    """Forget all rate limits. A new server may have received the port of an old one."""
    _limits.clear()
