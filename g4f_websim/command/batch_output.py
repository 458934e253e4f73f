"""Write the output of `g4f-websim batch`, OpenAI's batch output format, so that no response is lost.

Each row is on the disk before the next one is written. A later run of the same command keeps the rows with a response.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from .files import replacing, sync_folder

# How each line begins. A line that a crash cut off is recognized by it.
START = b'{"id": "batch_req_'


class OutputError(Exception):
    """The file is not an output of this command; the message names the line."""


class Output:
    """The output file of a batch, opened for appending.

    Args:
        file: the path of the file.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        is_new = not file.exists()
        # Without a buffer, no part of a row can be written later.
        self._opened = file.open("ab", buffering=0)
        if is_new:
            sync_folder(file.parent)

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
    """Remove from an output what is asked again, and return the custom_ids of the rows with a response.

    Removed are failed rows and what a crash left of the last row. Rows of other inputs stay.

    Args:
        file: the path of the output; it may not exist.
        custom_ids: the custom_ids of the input.

    Raises:
        OutputError: a line is not one of this command; the file stays as it is.
        OSError: the file cannot be read or replaced.
    """
    done: set[str] = set()
    if not file.exists():
        return done
    # Read once without writing, because an output that has nothing to remove may be larger than the free space.
    if all(line == kept for line, kept in _sift(file, custom_ids, done)):
        return done
    done.clear()
    with replacing(file) as temporary, temporary.open("wb") as opened:
        for _, kept in _sift(file, custom_ids, done):
            opened.write(kept)
        opened.flush()
        os.fsync(opened.fileno())
    return done


def _sift(file: Path, custom_ids: set[str], done: set[str]) -> Iterator[tuple[bytes, bytes]]:
    """Yield each line of an output as it is, and as it is kept: empty if it is removed.

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


def unsaved_images(file: Path) -> dict[str, dict[str, Any]]:
    """Return the body of each response with an image that has a URL and no file, by custom_id.

    Args:
        file: the path of an output that `clean` has read.
    """
    bodies: dict[str, dict[str, Any]] = {}
    with file.open("rb") as opened:
        for row in map(json.loads, opened):
            body: Any = row["response"].get("body") if row["response"] else None
            images = body.get("data") if isinstance(body, dict) else None
            if any("url" in image and "file" not in image for image in images or ()):
                bodies[row["custom_id"]] = body
    return bodies


def replace_bodies(file: Path, bodies: dict[str, dict[str, Any]]) -> None:
    """Replace the bodies of responses in an output.

    Args:
        file: the path of an output that `clean` has read.
        bodies: the new bodies, by custom_id.

    Raises:
        OSError: the file cannot be read or replaced; it stays as it is.
    """
    with replacing(file) as temporary, temporary.open("wb") as opened, file.open("rb") as lines:
        for line in lines:
            row = json.loads(line)
            if row["response"] and row["custom_id"] in bodies:
                row["response"]["body"] = bodies[row["custom_id"]]
                line = _encode(row)
            opened.write(line)
        opened.flush()
        os.fsync(opened.fileno())


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
