"""Read and check the input of `g4f-websim batch`: OpenAI's batch format, or a text file with a prompt a line."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..provider import CHAT_OPTIONS, IMAGE_OPTIONS, Websim
from ..wire import bodies
from .files import stem_of

CHAT_URL = "/v1/chat/completions"
IMAGE_URL = "/v1/images/generations"

# The fields of `body` that are used. The kind of a row is decided by its URL, so `model` is a label.
COMMON_FIELDS = frozenset({"messages", "prompt", "project_id", "timeout"})
CHAT_FIELDS = COMMON_FIELDS | set(CHAT_OPTIONS)
IMAGE_FIELDS = COMMON_FIELDS | {"n", "aspect_ratio", *IMAGE_OPTIONS}

HASH_CHARS = 12
# The custom_id of a prompt in a text file.
_LINE_ID = re.compile(rf"[0-9]{{1,20}}-[0-9a-f]{{{HASH_CHARS}}}")


class InputError(Exception):
    """A line of the input is malformed; the message names the line."""


@dataclass(frozen=True)
class Row:
    """A row of the input.

    Attributes:
        line: the number of its line.
        custom_id: the name of the row in the output.
        is_image: whether the row requests images.
        body: the arguments, in OpenAI's form.
    """

    line: int
    custom_id: str
    is_image: bool
    body: dict[str, Any]

    @property
    def unknown_fields(self) -> set[str]:
        """The names of the fields of the body that are not used."""
        return self.body.keys() - (IMAGE_FIELDS if self.is_image else CHAT_FIELDS) - {"model"}

    @property
    def count(self) -> int:
        """The number of images."""
        return bodies.check_count(self.body.get("n"))

    def arguments(self, index: int = 0) -> dict[str, Any]:
        """Return the arguments of `Websim.create_async_generator` for the chat or for one of the images.

        With a seed, each image has the next one.
        """
        known = IMAGE_FIELDS - {"n"} if self.is_image else CHAT_FIELDS
        arguments = {"messages": None, **{name: value for name, value in self.body.items() if name in known}}
        if index and arguments.get("seed") is not None:
            arguments["seed"] += index
        return arguments


def image_stem(custom_id: str, index: int, count: int) -> str:
    """Return the name of the file of an image, without a suffix.

    A custom_id may contain any characters, so only its letters and digits are used. The hash keeps the names of two
    rows apart.
    """
    stem = custom_id if _LINE_ID.fullmatch(custom_id) else f"{stem_of(custom_id)}-{_hash(custom_id)}"
    return f"{stem}-{index + 1}" if count > 1 else stem


class Input:
    """The rows of a file, which is read once to check it and once to send it.

    Args:
        file: the path of a regular file.
        model: the model of the prompts in a text file, or None; an image model makes images of them.

    Attributes:
        custom_ids: the custom_ids of the file, once it is checked.
        unknown_fields: the names of fields that Websim does not know.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, file: Path, model: str | None) -> None:
        self.is_jsonl = file.suffix.lower() == ".jsonl"
        self._model = model
        self._makes_images = bodies.strip_provider_prefix(model).lower() in Websim.image_models
        self._file: BinaryIO = file.open("rb")
        self.custom_ids: set[str] = set()
        self.unknown_fields: set[str] = set()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def check(self) -> None:
        """Read all rows.

        Raises:
            InputError: a line is malformed, or its custom_id occurs twice.
        """
        for row in self.rows():
            if row.custom_id in self.custom_ids:
                raise InputError(f"line {row.line}: the custom_id {row.custom_id!r:.80} stands in an earlier line too")
            self.custom_ids.add(row.custom_id)
            self.unknown_fields |= row.unknown_fields

    def rows(self) -> Iterator[Row]:
        """Yield the rows, from the first on.

        Raises:
            InputError: a line is malformed.
        """
        self._file.seek(0)
        # Other characters that Python takes for line ends may stand in a line.
        for number, line in enumerate(self._file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if "\0" in text:
                    raise ValueError("a NUL character: save the file as UTF-8 text")
                if text:
                    yield self._parse_json(number, text) if self.is_jsonl else self._parse_prompt(number, text)
            except UnicodeDecodeError:
                raise InputError(f"line {number}: no UTF-8 text; save the file as UTF-8") from None
            except (ValueError, RecursionError) as error:
                raise InputError(f"line {number}: {error}") from None

    def _parse_prompt(self, number: int, prompt: str) -> Row:
        if prompt.startswith('{"custom_id":'):
            raise ValueError("a row of OpenAI's batch format, not a prompt: give the file the suffix .jsonl")
        custom_id = f"{number}-{_hash(prompt)}"
        body: dict[str, Any] = {"model": self._model} if self._model else {}
        body |= {"prompt": prompt} if self._makes_images else {"messages": [{"role": "user", "content": prompt}]}
        return Row(number, custom_id, self._makes_images, body)

    def _parse_json(self, number: int, text: str) -> Row:
        try:
            row = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not JSON ({error})") from None
        example = 'an object, as in {"custom_id": "a", "method": "POST", "url": ..., "body": ...}'
        _require(isinstance(row, dict), example)
        custom_id, url, body = (row.get(name) for name in ("custom_id", "url", "body"))
        _require(isinstance(custom_id, str) and custom_id, "custom_id: a text that is not empty")
        _require(row.get("method") == "POST", 'method: "POST"')
        _require(url in (CHAT_URL, IMAGE_URL), f"url: {CHAT_URL} or {IMAGE_URL}")
        _require(isinstance(body, dict), "body: an object")
        _require(isinstance(body.get("model"), str | None), "body.model: a name")
        parsed = Row(number, custom_id, url == IMAGE_URL, body)
        _check_body(parsed)
        return parsed


def _require(ok: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"expected {expected}")


def _check_body(row: Row) -> None:
    """Raise the `ValueError` that Websim would raise for the body of a row."""
    body = row.body
    bodies.check_timeout(body.get("timeout"))
    project_id = bodies.check_project_id(body.get("project_id"))
    if row.is_image:
        for index in range(row.count):
            arguments = {"prompt": None, "aspect_ratio": None, **row.arguments(index), "project_id": project_id}
            bodies.image_body(**arguments)
    else:
        bodies.chat_body(project_id, body.get("messages"), **{name: body.get(name) for name in CHAT_OPTIONS})


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_CHARS]
