"""Run an async generator for a sync caller, in an event loop whose connections are kept for the next call.

The package owns these event loops. A call takes an idle one and returns it, so that an event loop runs in one thread
at a time, and only while a call waits for it.
"""

import asyncio
import atexit
import os
import selectors
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextvars import Context, copy_context
from typing import Any, TypeVar

from g4f.providers.asyncio import to_sync_generator

T = TypeVar("T")

# The idle event loops that are kept. Each has a few open files; a call beyond them opens a new one.
MAX_IDLE = 16

_END = object()


def iterate(generator: AsyncGenerator[T, None]) -> Iterator[T]:
    """Yield what an async generator yields.

    If an event loop already runs in this thread, or if threads are greenlets, g4f's `to_sync_generator` runs the
    generator: an event loop of the package would have to run inside another one.

    Args:
        generator: a generator that was not started.
    """
    if _is_loop_running() or _are_threads_patched():
        yield from to_sync_generator(generator)
        return
    runner, process_id, context, chunk = _runners.take(), os.getpid(), copy_context(), None
    try:
        while (chunk := runner.run(_next(generator), context=context)) is not _END:
            yield chunk
    finally:
        if process_id != os.getpid():  # the caller forked between two chunks
            runner.get_loop().close()
        else:
            if chunk is not _END and not _is_loop_running():
                _close(runner, generator, context)
            _runners.give_back(runner)


async def _next(generator: AsyncGenerator[T, None]) -> T | Any:
    return await anext(generator, _END)


def _close(runner: asyncio.Runner, generator: AsyncGenerator[Any, None], context: Context) -> None:
    """End a call that failed, or whose caller needs no more of it."""
    # If a signal handler or another thread raised an exception, the task of the call is still pending.
    pending = asyncio.all_tasks(runner.get_loop())

    async def close() -> None:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await generator.aclose()

    runner.run(close(), context=context)


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _are_threads_patched() -> bool:
    """Return whether gevent or eventlet has replaced threads by greenlets."""
    return threading.local.__module__ != "_thread"


class _Loop(asyncio.ProactorEventLoop if sys.platform == "win32" else asyncio.SelectorEventLoop):  # type: ignore[misc]
    """The event loop of the platform, which also resolves host names in atexit handlers."""

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        try:
            return await super().getaddrinfo(host, port, **options)
        except RuntimeError:  # the interpreter exits, and its executors are shut down
            return socket.getaddrinfo(host, port, **options)


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return _Loop()
    # A forked child shares an epoll or kqueue object with its parent. Closing the event loop in the child would
    # remove the parent's sockets from it.
    return _Loop(selectors.PollSelector())


class _Runners:
    """The idle event loops of this process, the last one used first."""

    def __init__(self) -> None:
        self._idle: list[asyncio.Runner] = []
        self._process_id = os.getpid()
        self._exiting = False

    def take(self) -> asyncio.Runner:
        self._leave_to_parent()
        try:
            return self._idle.pop()
        except IndexError:
            return asyncio.Runner(loop_factory=_new_loop)

    def give_back(self, runner: asyncio.Runner) -> None:
        self._leave_to_parent()
        self._idle.append(runner)
        # The garbage collector may end a call while another event loop runs in this thread.
        if (self._exiting or len(self._idle) > MAX_IDLE) and not _is_loop_running():
            self._idle.pop(0).close()

    def close(self) -> None:
        """Close the idle event loops when the interpreter exits; later calls close their own."""
        self._leave_to_parent()
        self._exiting = True
        while self._idle:
            self._idle.pop().close()

    def _leave_to_parent(self) -> None:
        """In a forked child, close the files of the parent's event loops without touching the connections."""
        if self._process_id != os.getpid():
            inherited, self._idle = self._idle, []
            self._process_id = os.getpid()
            for runner in inherited:
                runner.get_loop().close()


_runners = _Runners()
atexit.register(_runners.close)
