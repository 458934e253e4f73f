"""The command `g4f-websim batch`: send many prompts, so that no response is lost and none is requested twice.

batch_input.py reads the prompts, batch_run.py sends them, and batch_output.py writes the responses.
"""

import argparse
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ..provider import Websim
from ..transport.target import PROXY_VARIABLE, Target
from ..wire import bodies
from ..wire.redaction import redact
from .batch_input import Input, InputError
from .batch_output import OutputError, clean, exclusive_lock
from .batch_run import Batch
from .signals import run
from .terminal import fail, warn

DEFAULT_CONCURRENCY = 2
MAX_CONCURRENCY = 100
MAX_SHOWN_FIELDS = 300


def main(argv: Sequence[str]) -> int:
    """Send the rows of a file that have no response yet, and write each response as it arrives.

    Args:
        argv: the arguments after `g4f-websim batch`.

    Returns:
        The exit status: 0 if all rows have a response.

    Raises:
        ValueError: a setting such as WEBSIM_PROJECT_ID is malformed.
        KeyboardInterrupt: Ctrl-C was pressed; the responses that had arrived are written.
    """
    options = _parse(argv)
    # A malformed setting would fail each row.
    bodies.check_project_id(None)
    Target(str(Websim.chat_api_endpoint), proxy=os.environ.get(PROXY_VARIABLE))
    try:
        with closing(Input(options.input, options.model)) as source:
            source.check()
            with exclusive_lock(options.output):
                return _send(options, source)
    except InputError as error:
        fail(f"{options.input}: {error}; nothing was sent", status=2)
    except OutputError as error:
        fail(f"{error}; nothing was sent", status=2)
    except BrokenPipeError:
        raise
    except OSError as error:
        file = error.filename or options.output
        fail(f"{file}: {error.strerror or error}; the responses in the output stay", status=1)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
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
        "--concurrency", type=_concurrency, default=DEFAULT_CONCURRENCY, metavar="N",
        help=f"the number of requests at a time (default: {DEFAULT_CONCURRENCY})",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if options.model and bodies.strip_provider_prefix(options.model).lower() not in Websim.image_models:
        try:
            bodies.check_chat_model(options.model, Websim.image_models)
        except ValueError as error:
            parser.error(f"argument --model: {error}")
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


def _concurrency(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= MAX_CONCURRENCY):
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {MAX_CONCURRENCY}, not {text!r}")
    return int(text)


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


def _send(options: argparse.Namespace, source: Input) -> int:
    """Send the rows without a response."""
    if options.model and source.is_jsonl:
        warn("--model is for text files: the url of each row decides whether it is a chat or an image")
    if source.unknown_fields:
        fields = redact(", ".join(sorted(source.unknown_fields)))[:MAX_SHOWN_FIELDS]
        warn(f"Websim does not know these fields of body, which are ignored: {fields}")
    done = clean(options.output, source.custom_ids)
    return run(Batch(source, source.custom_ids - done, options).run())
