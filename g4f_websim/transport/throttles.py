"""One throttle for each host and login, shared by all calls of the process."""

import os
import threading
from functools import lru_cache
from weakref import WeakValueDictionary

from .throttle import Throttle

# The number of hosts and logins whose pace is remembered.
MAX_THROTTLES = 256

_lock = threading.Lock()
# Every throttle that a call uses or that the cache of `shared_throttle` contains.
_throttles: WeakValueDictionary[tuple[str, str], Throttle] = WeakValueDictionary()


@lru_cache(MAX_THROTTLES)
def shared_throttle(host: str, token: str) -> Throttle:
    """Return the throttle of all calls with the same host and login.

    Args:
        host: the host and port.
        token: the login token; empty for anonymous calls.
    """
    with _lock:  # several threads may miss the cache at the same time
        return _throttles.setdefault((host, token), Throttle(host))


def forget_limits() -> None:
    """Forget all rate limits. A new server may have received the port of an old one."""
    # In the other order, a thread could put a forgotten throttle into the cache again.
    _throttles.clear()
    shared_throttle.cache_clear()


def _leave_limits_to_parent() -> None:
    """Forget all rate limits in a forked child: the queued calls and the threads that hold locks are the parent's."""
    global _lock
    _lock = threading.Lock()
    forget_limits()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # not on Windows
    os.register_at_fork(after_in_child=_leave_limits_to_parent)
