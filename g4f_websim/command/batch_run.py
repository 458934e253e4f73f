"""Send the rows of a batch, a few at a time, write each response as it arrives, and report on stderr.

A progress bar on a terminal (tqdm), or else a line now and then, shows how far the batch is.
"""

import argparse
import asyncio
import importlib
import math
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

from ..provider import Websim
from ..transport.target import PROXY_VARIABLE
from ..wire.redaction import redact
from .batch_input import Input, InputError, Row, image_stem
from .batch_output import Output, error_row, response_row
from .files import replace_file
from .images import DownloadError, fetch_image, request_image
from .terminal import one_line, warn

# The reasons (`error.reason`) of failures that every other row would have too.
COMMON_REASONS = frozenset(
    {"project_refused", "login_needed", "login_expired", "bot_challenge", "api_moved", "no_credits", "no_connection"}
    | {"proxy_failed", "region_blocked"}
)
# The number of such failures in a row that stops the batch.
MAX_COMMON_FAILURES = 3

# The seconds between two lines of progress.
LINE_INTERVAL = 10.0


class PatientWebsim(Websim):
    """Websim whose calls wait for their turn as long as necessary; a batch has no other provider to fall back on."""

    max_wait = math.inf


class Batch:
    """The run of a batch.

    Args:
        source: the rows.
        pending: the custom_ids of the rows to send.
        options: the parsed arguments.
    """

    def __init__(self, source: Input, pending: set[str], options: argparse.Namespace) -> None:
        self._rows = source.rows()
        self._pending = pending
        self._file: Path = options.output
        self._image_dir: Path | None = options.image_dir
        self._concurrency: int = options.concurrency
        total = len(source.custom_ids)
        self._progress = Progress(total, total - len(pending))
        self._common_failures = 0
        self._problem = ""  # why no further row is sent

    async def run(self) -> int:
        """Send the rows and return the exit status."""
        try:
            with closing(Output(self._file)) as self._output:
                await asyncio.gather(*(self._work() for _ in range(self._concurrency)))
        finally:
            self._progress.end()
        if self._problem:
            warn(f"stopped: {self._problem}")
        return 1 if self._problem or self._progress.failed or self._progress.unsaved else 0

    async def _work(self) -> None:
        # All workers take their rows from one iterator.
        try:
            for row in self._rows:
                if self._problem:
                    return
                if row.custom_id in self._pending:
                    self._pending.remove(row.custom_id)
                    await self._send_row(row)
        except InputError as error:
            self._problem = f"the input has changed: {error}"

    async def _send_row(self, row: Row) -> None:
        try:
            body = await (self._images(row) if row.is_image else self._chat(row))
        except Exception as error:  # whatever it is, it becomes a row of the output
            self._fail_row(row, error)
        else:
            if self._write(response_row(row.custom_id, body)):
                self._progress.count_row()
            self._common_failures = 0

    def _fail_row(self, row: Row, error: Exception) -> None:
        code, message = _code_of(error), redact(one_line(error))
        if self._write(error_row(row.custom_id, code, message)):
            self._progress.count_row(message)
        self._common_failures = self._common_failures + 1 if code in COMMON_REASONS else 0
        if self._common_failures >= MAX_COMMON_FAILURES:
            self._problem = f"{MAX_COMMON_FAILURES} failures in a row, which the other rows would have too: {message}"

    def _write(self, row: dict[str, Any]) -> bool:
        """Write a row and return whether it is on the disk; if it is not, the batch stops."""
        try:
            self._output.write(row)
        except OSError as error:
            self._problem = f"the output cannot be written: {error.strerror or error}"
            return False
        return True

    async def _chat(self, row: Row) -> dict[str, Any]:
        """Return the response to a chat in OpenAI's form."""
        model, proxy = PatientWebsim.default_model, os.environ.get(PROXY_VARIABLE)
        responses = PatientWebsim.create_async_generator(model, proxy=proxy, **row.arguments())
        text = "".join([str(response) async for response in responses])
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "id": f"chatcmpl-{uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": row.body.get("model") or model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        }

    async def _images(self, row: Row) -> dict[str, Any]:
        """Return the response to a request for images in OpenAI's form: the images that did not fail."""
        body: dict[str, Any] = {"created": int(time.time()), "data": []}
        failures: list[Exception] = []
        try:
            # One after the other: the concurrency is that of requests.
            for number in range(row.count):
                try:
                    url = await request_image(PatientWebsim, **row.arguments(number))
                except Exception as error:  # the other images of the row may succeed
                    failures.append(error)
                    if _code_of(error) in COMMON_REASONS:
                        break
                    continue
                stem = image_stem(row.custom_id, len(body["data"]), row.count)
                body["data"].append({"url": url})
                await self._save(body["data"][-1], stem)
        except asyncio.CancelledError:
            if body["data"]:  # what has arrived is kept
                self._write(response_row(row.custom_id, body))
            raise
        if not body["data"]:
            raise failures[0]
        for failure in failures:
            self._progress.image_unsaved(redact(one_line(failure)))
        return body

    async def _save(self, image: dict[str, str], stem: str) -> None:
        """Save an image of a response and add the name of the file to the response."""
        if not self._image_dir:
            return
        try:
            data, image_format = await fetch_image(image["url"])
            file = self._image_dir / f"{stem}{image_format.suffixes[0]}"
            replace_file(file, data)
        except DownloadError as error:
            self._progress.image_unsaved(f"an image was not saved: {error}")
        except OSError as error:
            self._progress.image_unsaved(f"{stem} was not saved: {error.strerror or error}; its URL is in the output")
        else:
            image["file"] = str(file)
            if image["url"].startswith("data:"):
                del image["url"]  # it is the image itself


def _code_of(error: Exception) -> str:
    """Return the reason of one of Websim's errors, or the class of any other."""
    return str(getattr(error, "reason", None) or type(error).__name__)


class Progress:
    """The counts of a batch.

    Args:
        total: the number of rows.
        done: the number of rows that have a response already.

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

    def count_row(self, failure: str | None = None) -> None:
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
    # tqdm shows nothing on a terminal that does not say how large it is.
    is_known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    size: dict[str, Any] = {"dynamic_ncols": True} if is_known else {"ncols": 80, "nrows": 24}
    return tqdm(total=total, initial=done, unit="row", file=sys.stderr, **size)
