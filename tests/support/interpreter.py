"""Run Python in a process of its own, while a server runs in this event loop."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE


async def run_python(*arguments: str, **variables: str) -> tuple[str, str]:
    """Return what a Python process prints on stdout and on stderr.

    Args:
        arguments: the command-line arguments of the interpreter.
        variables: additional environment variables.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=os.environ | variables, stdout=PIPE, stderr=PIPE
    )
    stdout, stderr = await process.communicate()
    return stdout.decode(), stderr.decode()
