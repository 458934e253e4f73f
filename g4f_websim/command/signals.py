"""Run the coroutine of a command so that Ctrl-C and SIGTERM cancel it, and it can keep what has arrived."""

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any


def run(command: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine to its end and return its result, or the exit status after SIGTERM.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed. `asyncio.run` cancels the coroutine then.
    """
    try:
        return asyncio.run(_cancel_at_sigterm(command))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM


async def _cancel_at_sigterm(command: Coroutine[Any, Any, int]) -> int:
    # Python allows signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        return await command
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task
    # The method add_signal_handler() of the loop does not exist on Windows.
    before = signal.signal(signal.SIGTERM, lambda number, frame: loop.call_soon_threadsafe(task.cancel) and None)
    try:
        return await command
    finally:
        signal.signal(signal.SIGTERM, before)
