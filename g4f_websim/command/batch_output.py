"""Write the output of `g4f-websim batch`, OpenAI's batch output format, so that no response is lost.

Each row is on the disk before the next one is written. A later run of the same command keeps the rows with a response.
Only one run at a time writes the output: it holds a lock of the operating system, which ends with its process.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from .files import replacing

# How each line begins. A line that a crash cut off is recognized by it.
START = b'{"id": "batch_req_'


class OutputError(Exception):
    """Another process writes the file, or it is not an output of this command."""


class Output:
    """The output file of a batch, opened for appending.

    Args:
        file: the path of the file.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        # Without a buffer, no part of a row can be written later.
        self._opened = file.open("ab", buffering=0)

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def write(self, row: dict[str, Any]) -> None:
        """Append a row, and return once it is on the disk.

        Raises:
            OSError: the row cannot be written, because the disk is full for example; nothing of it is in the file.
        """
        line = _encode(row)
        start = self._opened.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):
                written += self._opened.write(line[written:])
            os.fsync(self._opened.fileno())
        except OSError:
            self._opened.truncate(start)
            raise


def clean(file: Path, custom_ids: set[str]) -> set[str]:
    """Remove from an output what will be requested again, and return the custom_ids of the rows with a response.

    Removed are failed rows and what a crash left of the last row. Rows of other inputs stay.

    Args:
        file: the path of the output; it may not exist.
        custom_ids: the custom_ids of the input.

    Raises:
        OutputError: the command did not write one of the lines; the file is unchanged.
        OSError: the file cannot be read or replaced.
    """
    done: set[str] = set()
    if not file.exists():
        return done
    # Read once without writing, because an output that has nothing to remove may be larger than the free space.
    if all(line == kept for line, kept in _sift(file, custom_ids, done)):
        return done
    done.clear()
    with replacing(file) as opened:
        opened.writelines(kept for _, kept in _sift(file, custom_ids, done))
    return done


def _sift(file: Path, custom_ids: set[str], done: set[str]) -> Iterator[tuple[bytes, bytes]]:
    """Yield each line of an output, and what is kept of the line: nothing if it is removed.

    The custom_ids of the rows with a response are added to `done`.
    """
    with file.open("rb") as opened:
        for number, line in enumerate(opened, 1):
            kept = b""
            if line.strip() and not _is_torn(line):
                complete = line.rstrip(b"\0\r\n") + b"\n"
                custom_id, is_done = _parse(complete, f"line {number} of {file}")
                if custom_id not in done and (is_done or custom_id not in custom_ids):
                    kept = complete
                if is_done:
                    done.add(custom_id)
            yield line, kept


def _parse(line: bytes, place: str) -> tuple[str, bool]:
    """Return the custom_id of a row, and whether the row has a response."""
    try:
        row = json.loads(line)
        custom_id, response, error = row["custom_id"], row["response"], row["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        custom_id = response = error = None
    if not isinstance(custom_id, str):
        raise OutputError(f"{place} is not a row of a batch: name another file")
    return custom_id, bool(response) and not error


def _is_torn(line: bytes) -> bool:
    """Return whether a line is what a crash left of the last row; a file system may have filled it with zeros."""
    rest = line.rstrip(b"\0")
    if line.endswith(b"\n") or not (rest.startswith(START) or START.startswith(rest)):
        return False
    try:
        json.loads(rest)
    except ValueError:
        return True
    return False  # only the line end is missing


def response_row(custom_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the row for a response."""
    response = {"status_code": 200, "request_id": f"req_{uuid4().hex}", "body": body}
    return {"id": _row_id(), "custom_id": custom_id, "response": response, "error": None}


def error_row(custom_id: str, code: str, message: str) -> dict[str, Any]:
    """Return the row for a failure."""
    return {"id": _row_id(), "custom_id": custom_id, "response": None, "error": {"code": code, "message": message}}


def _row_id() -> str:
    return f"batch_req_{uuid4().hex}"


def _encode(row: dict[str, Any]) -> bytes:
    # In ASCII, so that no program takes a character such as U+2028 for a line end.
    return json.dumps(row).encode("ascii") + b"\n"


@contextlib.contextmanager
def exclusive_lock(output: Path) -> Iterator[None]:
    """Hold the lock of an output: that of a file beside it, which is deleted at the end.

    A file that a killed process left behind does no harm: its lock ended with the process.

    Raises:
        OutputError: another process holds the lock.
        OSError: the file cannot be created, or its file system has no locks.
    """
    file = output.with_name(f"{output.name}.lock")
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
        raise OutputError("another g4f-websim batch writes this output: wait for it to end, or stop it") from None
