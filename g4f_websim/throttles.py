"""One throttle for each host and login, shared by all calls of the process."""

import os
import threading
from functools import lru_cache

from .throttle import Throttle

# The number of hosts and logins whose pace is remembered.
MAX_THROTTLES = 256

_lock = threading.Lock()


@lru_cache(MAX_THROTTLES)
def _throttle(host: str, token: str) -> Throttle:
    return Throttle(host)


def shared_throttle(host: str, token: str) -> Throttle:
    """Return the throttle of all calls to `host` with the login token `token`, or with an empty one for none."""
    with _lock:  # lru_cache would let two threads create one each
        return _throttle(host, token)


def forget_limits() -> None:
    """Forget all rate limits, for a new server that the operating system may give the port of an old one."""
    _throttle.cache_clear()


def _leave_limits_to_parent() -> None:
    """Forget all rate limits in a forked child: the calls in the queues and the owners of the locks stay behind."""
    global _lock
    _lock = threading.Lock()
    forget_limits()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # not on Windows
    os.register_at_fork(after_in_child=_leave_limits_to_parent)
