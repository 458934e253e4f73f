"""A lock of the operating system, which ends with the process that holds it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


class LockedError(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def exclusive_lock(file: Path) -> Iterator[None]:
    """Hold the lock that a file stands for. The file is created, and deleted at the end.

    A file that a killed process left behind does no harm: its lock ended with the process.

    Raises:
        LockedError: another process holds the lock.
        OSError: the file cannot be created, or its file system has no locks.
    """
    opened = _open_and_lock(file)
    try:
        yield
    finally:
        # Windows does not delete an open file. Elsewhere it is deleted while it is locked, so that no other process
        # has locked it already.
        if os.name == "nt":  # pragma: no cover
            opened.close()
        with contextlib.suppress(OSError):
            file.unlink()
        opened.close()


def _open_and_lock(file: Path) -> BinaryIO:
    while True:
        opened = file.open("ab")
        try:
            _lock(opened.fileno())
            # The previous holder may have deleted the file after it was opened here.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(opened.fileno()), file.stat()):
                    return opened
        except BaseException:
            opened.close()
            raise
        opened.close()


def _lock(descriptor: int) -> None:
    try:
        if os.name == "nt":  # pragma: no cover
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise LockedError from None
