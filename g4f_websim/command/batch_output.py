"""Write the output of `g4f-websim batch`, OpenAI's batch output format, and show on stderr how far the batch is.

Each row is on the disk before the next one is written. A later run of the same command keeps the rows with a response.
"""

import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO
from uuid import uuid4

from .files import FileError, replacing
from .terminal import warn

# How each line begins. A line that a crash cut off is recognized by it.
START = b'{"id": "batch_req_'

# The seconds between two lines of progress.
LINE_INTERVAL = 10.0


def append(output: BinaryIO, custom_id: str, response: dict[str, Any] | None, error: dict[str, str] | None) -> None:
    """Append a row to an output, and return once it is on the disk.

    Args:
        output: the file, opened without a buffer, so that no part of a row can be written later.
        custom_id: the name of the row.
        response: the body of the response, or None.
        error: the code and the message of a failure, or None.

    Raises:
        OSError: the row cannot be written, because the disk is full for example; nothing of it is in the file.
    """
    if response is not None:
        response = {"status_code": 200, "request_id": f"req_{uuid4().hex}", "body": response}
    row = {"id": f"batch_req_{uuid4().hex}", "custom_id": custom_id, "response": response, "error": error}
    # In ASCII, so that no program takes a character such as U+2028 for a line end.
    line = json.dumps(row).encode("ascii") + b"\n"
    start = output.seek(0, os.SEEK_END)
    try:
        written = 0
        while written < len(line):
            written += output.write(line[written:])
        os.fsync(output.fileno())
    except OSError:
        output.truncate(start)
        raise


def clean(file: Path, custom_ids: set[str]) -> set[str]:
    """Remove from an output what will be requested again, and return the custom_ids that have no response yet.

    Removed are failed rows and what a crash left of the last row. Rows of other inputs stay.

    Args:
        file: the path of the output; it may not exist.
        custom_ids: the custom_ids of the input.

    Raises:
        FileError: the command did not write one of the lines; the file is unchanged.
        OSError: the file cannot be read or replaced.
    """
    if not file.exists():
        return set(custom_ids)
    done: set[str] = set()
    removed: set[int] = set()
    is_complete = True
    with file.open("rb") as opened:
        for number, line in enumerate(opened):
            custom_id, is_done = _parse(line, f"line {number + 1} of {file}")
            if custom_id is None or custom_id in done or (custom_id in custom_ids and not is_done):
                removed.add(number)
            elif is_done:
                done.add(custom_id)
            is_complete = line.endswith(b"\n")
    # An output that has nothing to remove may be larger than the free space.
    if removed or not is_complete:
        with file.open("rb") as opened, replacing(file) as new:
            for number, line in enumerate(opened):
                if number not in removed:
                    new.write(line.rstrip(b"\0\r\n") + b"\n")
    return custom_ids - done


def _parse(line: bytes, place: str) -> tuple[str | None, bool]:
    """Return the custom_id of a row, and whether the row has a response; None for a blank or torn line."""
    text = line.rstrip(b"\0\r\n")  # a file system may have filled a torn line with zeros
    if not text.strip():
        return None, False
    try:
        row = json.loads(text)
        if not isinstance(row["custom_id"], str):
            raise TypeError
        return row["custom_id"], bool(row["response"]) and not row["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        if not line.endswith(b"\n") and (text.startswith(START) or START.startswith(text)):
            return None, False
        raise FileError(f"{place} is not a row of a batch: name another file") from None


class Progress:
    """The counts of a batch, shown as a progress bar on a terminal (tqdm), or else as a line now and then.

    Attributes:
        failed: the number of rows that failed.
        unsaved: the number of images that could not be saved.
    """

    def __init__(self, total: int, done: int) -> None:
        self._total = total
        self._done = done
        self.failed = 0
        self.unsaved = 0
        self._last_failure = ""
        self._bar = _progress_bar(total, done)
        self._next_line = monotonic() + LINE_INTERVAL

    def count_row(self, failure: str | None) -> None:
        """Count a row that has a response now, or one that failed, with the message of its error."""
        if failure is None:
            self._done += 1
        else:
            self.failed += 1
            self._last_failure = failure
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix(failed=self.failed)
        elif monotonic() >= self._next_line:
            self._next_line = monotonic() + LINE_INTERVAL
            warn(f"{self._done} of {self._total} rows, {self.failed} failed")

    def image_unsaved(self, message: str) -> None:
        """Count an image that could not be saved, and print why."""
        self.unsaved += 1
        if self._bar is not None:
            self._bar.clear()
        warn(message)

    def end(self) -> None:
        """Remove the progress bar and print a summary."""
        if self._bar is not None:
            self._bar.close()
        summary = f"{self._done} of {self._total} rows have a response"
        if self.failed:
            summary += f", {self.failed} failed (the last: {self._last_failure})"
        if self.unsaved:
            summary += f", {self.unsaved} {'image was' if self.unsaved == 1 else 'images were'} not saved"
        if self._done < self._total:
            summary += "; the same command continues"
        warn(summary)


def _progress_bar(total: int, done: int) -> Any:
    """Return a progress bar, or None if stderr is not a terminal or tqdm is not installed."""
    if not (sys.stderr and sys.stderr.isatty()):
        return None
    try:
        tqdm = importlib.import_module("tqdm").tqdm
    except ImportError:
        return None
    # Without a size, tqdm shows nothing on a terminal that does not say how large it is.
    columns, lines = shutil.get_terminal_size()
    return tqdm(total=total, initial=done, unit="row", file=sys.stderr, ncols=columns, nrows=lines)
