"""Let Ctrl-C end the command without a traceback while its modules are imported.

`g4f_websim` imports this module first: the import of g4f takes a third of a second, in which Python would print a
traceback. Programs that import the package are not affected.
"""

import os
import signal
import sys
from pathlib import PurePath
from types import FrameType

STATUS = 128 + signal.SIGINT


def _is_command() -> bool:
    """Return whether this process is `g4f-websim` or `python -m g4f_websim`."""
    program = sys.argv[0] if sys.argv else ""
    # Python sets the first argument to -m until it has found the module.
    return PurePath(program).stem == "g4f-websim" or (program == "-m" and "g4f_websim" in sys.orig_argv)


def _exit(number: int, frame: FrameType | None) -> None:  # pragma: no cover  # the exit ends the measurement
    os._exit(STATUS)  # nothing is open yet, and an exception could be caught by a module that is being imported


def raise_again() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` again."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Another handler is the user's: a shell lets a process in the background ignore Ctrl-C.
if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _exit)
