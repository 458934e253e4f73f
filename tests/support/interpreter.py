"""Run Python in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.limits import MAX_SECONDS
from tests.support.paths import ROOT


def run_python(*arguments: str, status: int = 0, folder: Path | None = None, **variables: str) -> tuple[str, str]:
    """Return what a Python process prints on stdout and on stderr.

    A test whose server runs in this event loop calls this function by `asyncio.to_thread`.

    Args:
        arguments: the command-line arguments of the interpreter.
        status: the exit status that the process must have.
        folder: the working folder; None means that of this process.
        variables: additional environment variables.

    Raises:
        AssertionError: the process ended with another status.
        TimeoutExpired: the process did not end in time, and was killed.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=MAX_SECONDS
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr
