"""Log how many calls wait in a queue, and for how long; the command prints the log on stderr."""

import asyncio
import logging
import math
from collections.abc import Callable
from time import monotonic

from .log import log

# The seconds between two reports, and the delay of each report, so that one report counts all calls of a burst.
REPORT_INTERVAL = 5.0
REPORT_DELAY = 0.1


class QueueReport:
    """The reports on the queue of one host.

    Args:
        host: the name of the host.
        measure: returns the number of calls that wait, the seconds until the next request, and the seconds between
            two requests (0 if unknown).
    """

    def __init__(self, host: str, measure: Callable[[], tuple[int, float, float]]) -> None:
        self._host = host
        self._measure = measure
        self._next = -math.inf

    def schedule(self) -> None:
        """Report the queue in a moment, unless a report is scheduled or was made a few seconds ago."""
        if monotonic() >= self._next:
            self._next = monotonic() + REPORT_INTERVAL
            asyncio.get_running_loop().call_later(REPORT_DELAY, self._log)

    def _log(self) -> None:
        calls, delay, interval = self._measure()
        if calls:
            waiting = "1 call waits" if calls == 1 else f"{calls} calls wait"
            which = "the last one" if interval else "the next one"
            seconds = max(1.0, delay + calls * interval)
            log(logging.INFO, f"rate limit of {self._host}: {waiting}, {which} is sent in about {seconds:.0f} s")
