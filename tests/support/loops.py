"""What programs that test event loops share; `run_program` runs each of them in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import stat
import sys
import threading
import warnings
from collections.abc import Callable

# The tests check that a program prints no warning, but g4f's modules issue some when they are imported.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import g4f.client  # noqa: F401
    import nest_asyncio2  # noqa: F401
    import uvicorn  # noqa: F401
    import uvloop  # noqa: F401

    from tests.support.calls import HELLO, call_websim

# A process may have any of these file descriptors.
MAX_DESCRIPTORS = 1024


def used_loop(new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> asyncio.AbstractEventLoop:
    """Return an event loop that has an idle connection."""
    loop = new_loop()
    loop.run_until_complete(call_websim(None, HELLO))
    return loop


def abandon_loop() -> None:
    """Leave an event loop with an idle connection to the garbage collector."""
    used_loop()


def run_in_threads(count: int, function: Callable[[], object]) -> None:
    """Run a function in several threads at once, and wait for them."""
    threads = [threading.Thread(target=function) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def open_sockets() -> int:
    """Return the number of sockets that this process has open."""
    count = 0
    for descriptor in range(MAX_DESCRIPTORS):
        with contextlib.suppress(OSError):
            count += stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    return count


# What runs a function in a child process, and returns the exit status


def _fork_process(work: Callable[[], object], leave: Callable[[], object]) -> int:
    child = os.fork()
    if not child:
        work()
        leave()
    return os.waitpid(child, 0)[1]


def _start_process(work: Callable[[], object]) -> int | None:
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    return child.exitcode


FORKS: dict[str, Callable[[Callable[[], object]], int | None]] = {
    "os.fork and os._exit": lambda work: _fork_process(work, lambda: os._exit(0)),
    "os.fork and sys.exit": lambda work: _fork_process(work, sys.exit),
    "multiprocessing": _start_process,
}


def set_up() -> None:
    """Let a program receive Ctrl-C, and ignore asyncio's remarks on slow callbacks."""
    # A shell starts a process in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.getLogger("asyncio").addFilter(lambda record: "took" not in record.msg)
