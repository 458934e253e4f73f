"""An event loop whose clock jumps to the next timer, so that minutes of waiting take milliseconds."""

import asyncio
from typing import Any


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that never sleeps; it is for coroutines that wait for timers and for each other only."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        select = self._selector.select

        def jump(timeout: float | None = None) -> Any:
            events = select(0)
            if not events and timeout is None:
                raise RuntimeError("deadlock: no timer is scheduled")
            if not events:
                self._now += timeout
            return events

        self._selector.select = jump

    def time(self) -> float:
        return self._now
