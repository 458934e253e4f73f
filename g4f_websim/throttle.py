"""Share one pace between all calls to the same host with the same login, once the server has answered 429.

The interval between requests is measured: the time from one pause to the next, divided by the requests that the server
accepted in it. After a pause one request probes the server. Once it is accepted, a round begins: the interval shrinks
with the cube of the requests accepted (as in TCP CUBIC) while no more requests are in flight than the server was seen to
serve at once. The next 429 ends the round. All threads share the queue; each call in it also wakes up by itself, because
the event loop of the call before it may have stopped.
"""

import asyncio
import bisect
import contextlib
import itertools
import logging
import math
import os
import random
import threading
from time import monotonic
from typing import NamedTuple

QUIET = 30.0  # seconds without a waiting call after which the limit is forgotten
POLL = 1.0  # seconds between two looks at the queue; a call that is late by as much loses its place
LOG_INTERVAL = 5.0  # seconds
JITTER = 0.1  # the largest part of the backoff that is added to a pause
PAUSE_GROWTH = 1.6  # after a pause that proved too short; doubling overshoots the end of a long limit
PROBING, CRUISING, WIDENING = 4, 24, 120  # accepted requests that double the pace, at first and later; and the flight
CAUTION = 1.1  # the interval before a last attempt, in intervals that the server accepted
MAX_THROTTLES = 1000

_log = logging.getLogger("g4f_websim")


class QueueTooLong(Exception):
    """A call would wait longer than `max_wait`; the argument is its whole wait in seconds."""


class _Place(NamedTuple):
    """A call's place in the queue: fewer attempts first, then first come, first served."""

    attempt: int
    number: int
    is_last: bool
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Event


class Throttle:
    """The queue and the pace of the calls to one host with one login."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the limit, the calls and the lock; in a forked process they are the parent's."""
        self._lock, self._queue, self._numbers = threading.Lock(), list[_Place](), itertools.count()
        self._open()

    def _open(self) -> None:
        self._limited = self._paused = self._confirmed = False
        self._start = self._resume = -math.inf  # of the round; of sending, after the last pause
        self._interval = self._latency = self._pause = self._guess = self._longest_pause = 0.0
        self._slot = self._last_wait = self._last_log = 0.0
        self._sent = self._accepted = self._in_flight = self._served_at_once = self._refusals = 0

    async def wait_turn(self, attempt: int, is_last: bool, max_wait: float) -> float:
        """Wait until the request may be sent, which is at once unless the server limits its rate.

        Args:
            attempt: the number of the attempt; calls with fewer attempts go first.
            is_last: whether the call has no other attempt.
            max_wait: the longest wait in seconds.

        Returns:
            The turn, to be handed to `accepted`, `refused` or `abandoned`.

        Raises:
            QueueTooLong: the wait would be longer than `max_wait`.
        """
        arrival = monotonic()
        place = _Place(attempt, next(self._numbers), is_last, asyncio.get_running_loop(), asyncio.Event())
        try:
            while (delay := self._look(place, arrival, max_wait)) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(delay, POLL)):
                        await place.woken.wait()
                place.woken.clear()
        except (asyncio.CancelledError, QueueTooLong):  # GeneratorExit comes from the garbage collector: never lock there
            with self._lock:
                self._leave(place)
            raise
        return monotonic()

    def _look(self, place: _Place, arrival: float, max_wait: float) -> float:
        """Take the turn and return 0, or return the seconds until another look."""
        with self._lock:
            now = monotonic()
            if self._limited and now - self._last_wait > QUIET:
                self._open()
            if self._limited and (delay := self._delay(place, now)) > 0:
                wait = now - arrival + delay
                if wait > max_wait:
                    raise QueueTooLong(round(wait, 1))
                self._last_wait = now
                if now - self._last_log > LOG_INTERVAL:
                    self._last_log = now
                    _log.info("Websim limits its rate: %d calls wait, this one for %.0f s", len(self._queue), delay)
                return delay if self._queue[0] is place else POLL
            if not self._limited and now - self._start > QUIET:
                self._start, self._accepted = now, 0
            if self._limited:
                self._take(place, now)
            self._leave(place)
            self._in_flight += 1
            return 0

    def _delay(self, place: _Place, now: float) -> float:
        """Enter the queue, from which calls that are gone are removed, and return the seconds until the turn."""
        if place not in self._queue:
            bisect.insort(self._queue, place)
        while (first := self._queue[0]) is not place and (not first.loop.is_running() or now > self._due(first) + POLL):
            del self._queue[0]
        rank = self._queue.index(place)
        # An unconfirmed interval shrinks so fast that only the pause counts.
        return max(self._due(place) - now, 1e-3 * bool(rank)) + rank * self._gap() * self._confirmed

    def _gap(self) -> float:
        """Return the seconds between two requests at the present pace."""
        if self._in_flight + 1 > max(self._served_at_once, 1) * (1 + (self._accepted / WIDENING) ** 3):
            return max(self._interval, self._latency)  # not for ever: what is in flight may never be answered
        return self._interval / (1 + (self._accepted / (CRUISING if self._confirmed else PROBING)) ** 3)

    def _due(self, place: _Place) -> float:
        """Return when the first in the queue may send."""
        paced = self._slot if self._paused else self._slot + self._gap()
        if self._paused or not place.is_last:
            return paced
        return max(paced, min(self._careful(), self._slot + self._longest_pause))

    def _careful(self) -> float:
        """Return when the next request would be due if the round had not been faster than the interval measured."""
        return self._start + CAUTION * self._interval * self._sent

    def _take(self, place: _Place, now: float) -> None:
        due, gap = self._due(place), self._gap()
        if self._paused:
            self._slot = now + self._pause  # for another probe, should this one not be answered
        else:
            self._slot = max(due, now - gap)
            if place.is_last and self._careful() > now:
                self._start, self._sent, self._accepted = now, 0, 0
        self._sent += 1

    def _leave(self, place: _Place) -> None:
        if place in self._queue:
            self._queue.remove(place)
        self._wake_first()

    def _wake_first(self, everybody: bool = False) -> None:
        for place in self._queue if everybody else self._queue[:1]:
            with contextlib.suppress(RuntimeError):  # a closed event loop
                place.loop.call_soon_threadsafe(place.woken.set)

    def accepted(self, turn: float) -> None:
        """Report a response other than 429."""
        with self._lock:
            now = monotonic()
            if self._paused:
                self._served_at_once = max(self._served_at_once, self._in_flight)
            self._in_flight -= 1
            self._latency = max(self._latency, now - turn)
            if self._paused and turn >= self._resume:
                # A guessed pause ends later than the limit: by half of it, on average.
                self._interval = (self._resume - self._start - self._guess / 2) / max(self._accepted, 1)
                self._longest_pause = max(self._longest_pause, self._pause)
                self._start = self._slot = turn
                self._sent = self._accepted = 1
                self._paused = False
            elif self._paused or turn >= self._start:
                self._accepted += 1
            self._wake_first()

    def refused(self, turn: float, retry_after: float | None, backoff: float) -> None:
        """Report a 429.

        Args:
            turn: what `wait_turn` returned.
            retry_after: the seconds for which the server asks, if it does.
            backoff: the seconds to wait at first if it does not.
        """
        with self._lock:
            now = monotonic()
            self._in_flight -= 1
            if turn >= self._resume:
                if not self._paused:
                    self._confirmed, self._limited = self._limited, True
                    self._served_at_once = self._refusals = 0
                guess = backoff * PAUSE_GROWTH**self._refusals
                self._pause = guess if retry_after is None else max(retry_after, guess / 4)
                self._pause += random.uniform(0, JITTER) * guess
                self._guess = self._pause if retry_after is None else 0.0
                self._refusals += 1
                self._paused = True
                self._resume = self._slot = self._last_wait = now + self._pause
            elif retry_after is not None and now + retry_after > self._resume:
                self._resume = self._slot = self._last_wait = now + retry_after
                self._guess = 0.0
            self._wake_first(everybody=True)

    def abandoned(self, turn: float) -> None:
        """Report a request that got no response."""
        with self._lock:
            self._in_flight -= 1
            if self._paused and turn >= self._resume:
                self._slot = monotonic()
            self._wake_first()


_throttles: dict[tuple[str, str], Throttle] = {}
_throttles_lock = threading.Lock()


def throttle_for(host: str, login: str) -> Throttle:
    """Return the throttle of a host and a login."""
    throttle = _throttles.get((host, login))
    if throttle is None:
        with _throttles_lock:
            throttle = _throttles.setdefault((host, login), Throttle())
            if len(_throttles) > MAX_THROTTLES:
                del _throttles[next(iter(_throttles))]
    return throttle


def _forget_parent() -> None:
    global _throttles_lock
    _throttles_lock = threading.Lock()
    for throttle in list(_throttles.values()):
        throttle.reset()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_parent)
