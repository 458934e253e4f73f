"""The time limit for what a test waits for: a response, an event or a process."""

import time
from collections.abc import Callable

# What a test waits for usually takes less than a second, but a process may take longer on a busy machine.
MAX_SECONDS = 60

POLL_SECONDS = 0.005


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true, or fail after the time limit."""
    deadline = time.monotonic() + MAX_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)
