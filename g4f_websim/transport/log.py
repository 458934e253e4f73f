"""Log to the logger `g4f_websim` and to g4f's debug log."""

import logging

import g4f.debug

logger = logging.getLogger("g4f_websim")


def log(level: int, message: str) -> None:
    """Log a message.

    Args:
        level: a level of `logging`; g4f's debug log has none.
        message: the message, without secrets.
    """
    logger.log(level, message)
    g4f.debug.log(f"Websim: {message}")
