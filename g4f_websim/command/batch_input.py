"""Read and check what `g4f-websim batch` is given: its arguments and its input.

The input has OpenAI's batch format, or is a text file with a prompt a line.
"""

import argparse
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..provider import Websim
from ..wire import bodies
from ..wire.arguments import check_timeout
from .files import FileError, stem_of

DEFAULT_CONCURRENCY = 2
MAX_CONCURRENCY = 100

CHAT_URL = "/v1/chat/completions"
IMAGE_URL = "/v1/images/generations"

# The fields of `body` that are used. The kind of a row is decided by its URL, so `model` is a label.
COMMON_FIELDS = frozenset({"messages", "prompt", "media", "project_id", "timeout"})
CHAT_FIELDS = COMMON_FIELDS | {"response_format", "json"}
IMAGE_FIELDS = COMMON_FIELDS | {"n", "aspect_ratio", "size", "width", "height", "seed", "transparent"}

HASH_CHARS = 12
# The custom_id of a prompt in a text file.
_LINE_ID = re.compile(rf"[0-9]{{1,20}}-[0-9a-f]{{{HASH_CHARS}}}")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments, and create the folder for the images."""
    parser = argparse.ArgumentParser(
        "g4f-websim batch",
        description="Send many prompts and write each response as it arrives. The same command again continues where "
        "it stopped.",
        epilog="example: g4f-websim batch prompts.txt -o responses.jsonl",
    )
    parser.add_argument("input", type=Path, metavar="INPUT", help="OpenAI's batch format (*.jsonl), or a prompt a line")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUTPUT", help="the file to write or to continue"
    )
    parser.add_argument("--model", metavar="NAME", help="for a text file: flux makes images of the prompts")
    parser.add_argument("--image-dir", type=Path, metavar="DIR", help="a folder in which to save the images")
    parser.add_argument(
        "--concurrency", type=int, default=DEFAULT_CONCURRENCY, metavar="N",
        help=f"the number of requests at a time (default: {DEFAULT_CONCURRENCY})",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if options.model and not _is_image_model(options.model):
        try:
            bodies.check_chat_model(options.model, Websim.image_models)
        except ValueError as error:
            parser.error(f"argument --model: {error}")
    if not 1 <= options.concurrency <= MAX_CONCURRENCY:
        parser.error(f"argument --concurrency: expected a number from 1 to {MAX_CONCURRENCY}")
    # A link stays, and the file that the link names is written.
    options.output = Path(os.path.realpath(options.output))
    if problem := _problem(options.input, options.output):
        parser.error(problem)
    if options.image_dir:
        try:
            options.image_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"argument --image-dir: {options.image_dir}: {error.strerror}")
    return options


def _is_image_model(model: str | None) -> bool:
    return bodies.strip_provider_prefix(model, Websim.image_models) in Websim.image_models


def _problem(source: Path, output: Path) -> str | None:
    """Return why the two files cannot be used, or None."""
    if not source.exists():
        return f"argument INPUT: no such file: {source}"
    if not source.is_file():
        return f"argument INPUT: {source} is not a regular file, which is read twice; save the prompts to a file first"
    if not output.parent.is_dir():
        return f"argument -o/--output: no such folder: {output.parent}; create it first"
    if output.exists() and not output.is_file():
        return f"argument -o/--output: {output} is not a regular file; name one, as in responses.jsonl"
    if output.exists() and output.samefile(source):
        return "argument -o/--output: the output would replace the input; name another file"
    return None


class Row(NamedTuple):
    """A row of the input.

    Attributes:
        custom_id: the name of the row in the output.
        is_image: whether the row requests images.
        body: the arguments, in OpenAI's form.
    """

    custom_id: str
    is_image: bool
    body: dict[str, Any]

    @property
    def known_fields(self) -> frozenset[str]:
        """The names of the fields of a body that are used."""
        return IMAGE_FIELDS if self.is_image else CHAT_FIELDS

    @property
    def image_count(self) -> int:
        """The number of images."""
        return bodies.check_count(self.body.get("n"))

    def arguments(self, index: int = 0) -> dict[str, Any]:
        """Return the arguments of `Websim.create_async_generator` for the chat or for one of the images.

        With a seed, each image has the next one.
        """
        known = self.known_fields - {"n"}
        arguments = {"messages": None, **{name: value for name, value in self.body.items() if name in known}}
        if index and arguments.get("seed") is not None:
            arguments["seed"] += index
        return arguments

    def image_stem(self, index: int) -> str:
        """Return the name of the file of an image, without a suffix.

        A custom_id may contain any characters, so only its letters and digits are used. The hash keeps the names of
        two rows apart.
        """
        name = self.custom_id
        stem = name if _LINE_ID.fullmatch(name) else f"{stem_of(name)}-{_hash(name)}"
        return f"{stem}-{index + 1}" if self.image_count > 1 else stem


def is_jsonl(file: Path) -> bool:
    """Return whether an input has OpenAI's batch format."""
    return file.suffix.lower() == ".jsonl"


def check_input(file: Path, model: str | None) -> tuple[set[str], set[str]]:
    """Read all rows, and return their custom_ids and the names of the fields that Websim does not know.

    Raises:
        FileError: a line is malformed, or its custom_id occurs twice.
    """
    custom_ids: set[str] = set()
    unknown_fields: set[str] = set()
    for number, row in read_rows(file, model):
        if row.custom_id in custom_ids:
            name = f"{row.custom_id!r:.80}"
            raise FileError(f"{file}: line {number}: the custom_id {name} stands in an earlier line too")
        custom_ids.add(row.custom_id)
        unknown_fields |= row.body.keys() - row.known_fields - {"model"}
    return custom_ids, unknown_fields


def read_rows(file: Path, model: str | None) -> Iterator[tuple[int, Row]]:
    """Yield the rows of an input, each with the number of its line.

    Args:
        file: the input.
        model: the model of the prompts in a text file, or None; an image model makes images of them.

    Raises:
        FileError: a line is malformed.
    """
    with file.open("rb") as opened:
        # Other characters that Python takes for line ends may stand in a line.
        for number, line in enumerate(opened, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if "\0" in text:
                    raise ValueError("a NUL character: save the file as UTF-8 text")
                if text:
                    yield number, _parse_json(text) if is_jsonl(file) else _parse_prompt(number, text, model)
            except UnicodeDecodeError:
                raise FileError(f"{file}: line {number}: no UTF-8 text; save the file as UTF-8") from None
            except (ValueError, RecursionError) as error:
                raise FileError(f"{file}: line {number}: {error}") from None


def _parse_prompt(number: int, prompt: str, model: str | None) -> Row:
    if prompt.startswith('{"custom_id":'):
        raise ValueError("a row of OpenAI's batch format, not a prompt: give the file the suffix .jsonl")
    return Row(f"{number}-{_hash(prompt)}", _is_image_model(model), {"model": model, "prompt": prompt})


def _parse_json(text: str) -> Row:
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
    parsed = Row(custom_id, url == IMAGE_URL, body)
    _check_body(parsed)
    return parsed


def _require(ok: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"expected {expected}")


def _check_body(row: Row) -> None:
    """Raise the `ValueError` that Websim would raise for the body of a row."""
    check_timeout(row.body.get("timeout"))
    bodies.check_project_id(row.body.get("project_id"))
    if row.is_image:
        for index in range(row.image_count):
            bodies.image_body(**{"project_id": "", "prompt": None, "aspect_ratio": None, **row.arguments(index)})
    else:
        bodies.chat_body(**{"project_id": "", **row.arguments()})


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_CHARS]
