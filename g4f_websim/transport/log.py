"""Log to the logger `g4f_websim` and to g4f's debug log."""

import logging
from functools import lru_cache

import g4f.debug

# Some messages contain names that clients of a server choose, so not all of them are kept.
MAX_KEPT_MESSAGES = 1000

logger = logging.getLogger("g4f_websim")


def log(level: int, message: str) -> None:
    """Log a message.

    Args:
        level: a level of `logging`; g4f's debug log has none.
        message: the message, without secrets.
    """
    logger.log(level, message)
    g4f.debug.log(f"Websim: {message}")


@lru_cache(MAX_KEPT_MESSAGES)
def log_once(level: int, message: str) -> None:
    """Log a message unless it was logged before; see `log`."""
    log(level, message)
