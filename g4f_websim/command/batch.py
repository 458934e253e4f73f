"""The command `g4f-websim batch`: send many prompts, so that no response is lost and none is requested twice.

batch_input.py reads the arguments and the prompts, and batch_output.py writes the responses.
"""

import argparse
import asyncio
import math
import os
import time
from collections.abc import Sequence
from typing import Any, BinaryIO
from uuid import uuid4

from ..errors import Reason
from ..provider import Websim
from ..transport.target import PROXY_VARIABLE, Target
from ..wire import bodies
from ..wire.redaction import redact
from .batch_input import Row, check_input, is_jsonl, parse_arguments, read_rows
from .batch_output import Progress, append, clean
from .files import FileError, exclusive_lock, replace_file, run
from .images import DownloadError, fetch_image, request_image
from .terminal import fail, one_line, warn

# The maximum length of the list of unknown fields in a warning.
MAX_SHOWN_CHARS = 300

# The reasons of failures that every other row would have too.
COMMON_REASONS = frozenset(
    {
        Reason.PROJECT_REFUSED,
        Reason.API_MOVED,
        Reason.BOT_CHALLENGE,
        Reason.NO_CREDITS,
        Reason.LOGIN_NEEDED,
        Reason.LOGIN_EXPIRED,
        Reason.REGION_BLOCKED,
        Reason.NO_CONNECTION,
        Reason.PROXY_FAILED,
    }
)
# The number of such failures in a row that stops the batch.
MAX_COMMON_FAILURES = 3


def main(argv: Sequence[str]) -> int:
    """Send the rows that have no response yet, write each response as it arrives, and return the exit status.

    Raises:
        ValueError: a setting such as WEBSIM_PROJECT_ID is malformed.
        KeyboardInterrupt: Ctrl-C was pressed; the responses that had arrived are written.
    """
    options = parse_arguments(argv)
    # A malformed setting would fail each row.
    bodies.check_project_id(None)
    Target(str(Websim.chat_api_endpoint), proxy=os.environ.get(PROXY_VARIABLE))
    try:
        custom_ids, unknown_fields = check_input(options.input, options.model)
        with exclusive_lock(options.output):
            if options.model and is_jsonl(options.input):
                warn("--model is for text files: the url of each row decides whether it is a chat or an image")
            if unknown_fields:
                fields = redact(", ".join(sorted(unknown_fields)))[:MAX_SHOWN_CHARS]
                warn(f"Websim does not know these fields of body, which are ignored: {fields}")
            pending = clean(options.output, custom_ids)
            return run(_send(options, pending, total=len(custom_ids)))
    except FileError as error:
        fail(f"{error}; nothing was sent", status=2)
    except BrokenPipeError:
        raise
    except OSError as error:
        file = error.filename or options.output
        fail(f"{file}: {error.strerror or error}; the responses in the output stay", status=1)


async def _send(options: argparse.Namespace, pending: set[str], total: int) -> int:
    """Send the rows whose custom_ids are pending, and return the exit status."""
    progress = Progress(total, total - len(pending))
    try:
        with options.output.open("ab", buffering=0) as output:
            batch = _Batch(options, pending, output, progress)
            workers = [batch.work() for _ in range(options.concurrency)]
            # At Ctrl-C, the output must stay open until every worker has written what has arrived.
            errors = await asyncio.gather(*workers, return_exceptions=True)
        for error in filter(None, errors):
            raise error
    finally:
        progress.end()
    if batch.problem:
        warn(f"stopped: {batch.problem}")
    return 1 if batch.problem or progress.failed or progress.unsaved else 0


class _PatientWebsim(Websim):
    """Websim whose calls wait for their turn as long as necessary; a batch has no other provider to fall back on."""

    max_wait = math.inf


class _Batch:
    """The rows that are sent, by several workers at the same time.

    Attributes:
        problem: why no further row is sent.
    """

    def __init__(self, options: argparse.Namespace, pending: set[str], output: BinaryIO, progress: Progress) -> None:
        self._rows = read_rows(options.input, options.model)
        self._pending = pending
        self._image_dir = options.image_dir
        self._output = output
        self._progress = progress
        self._common_failures = 0
        self.problem = ""

    async def work(self) -> None:
        """Send rows until there are no more; all workers take them from one iterator."""
        try:
            for _, row in self._rows:
                if self.problem:
                    return
                if row.custom_id in self._pending:
                    self._pending.remove(row.custom_id)
                    await self._send_row(row)
        except FileError as error:
            self.problem = f"the input has changed: {error}"

    async def _send_row(self, row: Row) -> None:
        response = failure = None
        try:
            response = await (self._images(row) if row.is_image else self._chat(row))
        except Exception as error:  # whatever it is, it becomes a row of the output
            failure = {"code": _code_of(error), "message": redact(one_line(error))}
        self._write(row, response, failure)
        is_common = failure is not None and failure["code"] in COMMON_REASONS
        self._common_failures = self._common_failures + 1 if is_common else 0
        if failure and self._common_failures >= MAX_COMMON_FAILURES:
            reason = failure["message"]
            self.problem = f"{MAX_COMMON_FAILURES} failures in a row, which the other rows would have too: {reason}"

    def _write(self, row: Row, response: dict[str, Any] | None, failure: dict[str, str] | None) -> None:
        """Write a row and count it; if the row cannot be written, the batch stops."""
        try:
            append(self._output, row.custom_id, response, failure)
        except OSError as error:
            self.problem = f"the output cannot be written: {error.strerror or error}"
        else:
            self._progress.count_row(failure["message"] if failure else None)

    async def _chat(self, row: Row) -> dict[str, Any]:
        """Return the response to a chat in OpenAI's form."""
        model, proxy = _PatientWebsim.default_model, os.environ.get(PROXY_VARIABLE)
        responses = _PatientWebsim.create_async_generator(model, proxy=proxy, **row.arguments())
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
        images: list[dict[str, str]] = []
        body = {"created": int(time.time()), "data": images}
        failures: list[Exception] = []
        try:
            # One after the other: the concurrency is that of requests.
            for index in range(row.image_count):
                try:
                    url = await request_image(_PatientWebsim, **row.arguments(index))
                except Exception as error:  # the other images of the row may succeed
                    failures.append(error)
                    if _code_of(error) in COMMON_REASONS:
                        break
                else:
                    images.append({"url": url})
                    await self._save(images[-1], row.image_stem(len(images) - 1))
        except asyncio.CancelledError:
            if images:  # what has arrived is kept
                self._write(row, body, None)
            raise
        if not images:
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
