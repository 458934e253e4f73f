"""The calls that wait in a queue, so that a server that stops can end them at once."""

import asyncio
from types import TracebackType

from .throttle import QueueTooLongError

_tasks: set[asyncio.Task[object]] = set()
_ended: set[asyncio.Task[object]] = set()
_is_stopping = False


class Waiting:
    """A context manager for the time that a call waits in the queue; `end_waiting` raises `QueueTooLongError` in it."""

    def __enter__(self) -> None:
        if _is_stopping:
            raise QueueTooLongError(0)
        if task := asyncio.current_task():
            _tasks.add(task)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        _tasks.discard(task)
        if task in _ended:
            _ended.discard(task)
            if not task.uncancel() and kind is asyncio.CancelledError:
                raise QueueTooLongError(0) from None


def end_waiting() -> None:
    """End all calls of this event loop that wait in a queue, and all that will."""
    global _is_stopping
    _is_stopping = True
    for task in list(_tasks):
        if task.get_loop() is asyncio.get_running_loop():
            _ended.add(task)
            task.cancel()
