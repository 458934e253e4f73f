"""The calls that wait in a queue, so that a server that stops can end them at once."""

import asyncio
from types import TracebackType
from weakref import WeakSet

from .throttle import QueueTooLongError

_tasks: set[asyncio.Task[object]] = set()
_ended: WeakSet[asyncio.Task[object]] = WeakSet()
_is_stopping = False


class Waiting:
    """A context manager for the time that a call waits in a queue; after `end_waiting`, it raises the queue's error."""

    def __enter__(self) -> None:
        if _is_stopping:
            raise QueueTooLongError(0)
        _tasks.add(_current_task())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = _current_task()
        _tasks.discard(task)
        # Another cancellation of the task is the caller's.
        if task in _ended and not task.uncancel():
            raise QueueTooLongError(0) from None


def end_waiting() -> None:
    """End all calls of this event loop that wait in a queue, and all that would."""
    global _is_stopping
    _is_stopping = True
    for task in [task for task in _tasks if task.get_loop() is asyncio.get_running_loop()]:
        _ended.add(task)
        task.cancel()


def _current_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task
    return task
