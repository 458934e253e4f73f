"""Run Python in a process of its own, while a server runs in this event loop."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE

from tests.support.limits import MAX_SECONDS


async def run_python(*arguments: str, status: int = 0, **variables: str) -> tuple[str, str]:
    """Return what a Python process prints on stdout and on stderr.

    Args:
        arguments: the command-line arguments of the interpreter.
        status: the exit status that the process must have.
        variables: additional environment variables.

    Raises:
        TimeoutError: the process did not end in time, and was killed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=os.environ | variables, stdout=PIPE, stderr=PIPE
    )
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), MAX_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == status, stderr.decode()
    return stdout.decode(), stderr.decode()
