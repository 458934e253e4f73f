"""Run a server in a process of its own, which prints its port and ends with its standard input."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.paths import ROOT


@contextmanager
def server_process(module: str, *arguments: str) -> Iterator[int]:
    """Run a module that calls `serve_until_stopped`, yield the port, and end the process.

    Args:
        module: the name of the module.
        arguments: the words after the name of the module.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield int(process.stdout.readline())
        # Popen closes the standard input and waits for the process.


async def serve_until_stopped(port: int) -> None:
    """Tell the parent process the port of a server that is running, and return when the parent stops it."""
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
