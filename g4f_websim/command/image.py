"""The command `g4f-websim image`: request images from Websim and save each as it arrives.

images.py requests, downloads and recognizes an image, files.py names and writes the files.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..provider import Websim
from ..transport.log import logger
from ..transport.target import host_in, without_login
from ..wire.bodies import MAX_IMAGES, image_body
from .files import create_file, replace_file, run, stem_of
from .images import DownloadError, Format, fetch_image, request_image
from .terminal import one_line, warn

STDOUT = "-"


def main(argv: Sequence[str]) -> int:
    """Request images, save them, print the names of the files, and return the exit status: 0 if all were saved.

    Raises:
        Exception: Websim's error, if one image was requested.
        KeyboardInterrupt: Ctrl-C was pressed; the images that had arrived are saved.
    """
    return run(_Images(_parse(argv)).request_all())


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "g4f-websim image",
        description="Request images from Websim and save them.",
        epilog='example: g4f-websim image "a cat" -O cat.png -n 2',
    )
    parser.add_argument("prompt", nargs="+", help="what the image shows")
    parser.add_argument(
        "-O", "--output", metavar="FILE",
        help="the file to write, replaced if it exists; several images become cat-1.png, cat-2.png, ...; - is stdout "
        "(default: a new file, named for the prompt)",
    )  # fmt: skip
    parser.add_argument(
        "-n", type=int, choices=range(1, MAX_IMAGES + 1), default=1, metavar="N",
        help=f"the number of images, 1 to {MAX_IMAGES} (default: 1)",
    )  # fmt: skip
    parser.add_argument("--aspect-ratio", metavar="W:H", help="as in 16:9 (default: 1:1)")
    parser.add_argument("--size", metavar="WxH", help="in pixels, as in 1024x768")
    parser.add_argument("--seed", type=int, metavar="N", help="as in 42; further images get the seeds 43, 44, ...")
    parser.add_argument("--transparent", action="store_true", default=None, help="request a transparent background")
    options = parser.parse_args(argv)
    options.prompt = " ".join(options.prompt)
    try:
        for index in range(options.n):
            image_body("", None, **_arguments(options, index))
    except ValueError as error:
        parser.error(str(error))
    if problem := _output_problem(options.output, options.n):
        parser.error(f"argument -O/--output: {problem}")
    return options


def _arguments(options: argparse.Namespace, index: int) -> dict[str, Any]:
    """Return the arguments of `Websim.create_async_generator` for one of the images."""
    names = ("prompt", "aspect_ratio", "size", "transparent")
    seed = None if options.seed is None else options.seed + index
    return {**{name: getattr(options, name) for name in names}, "seed": seed}


def _output_problem(output: str | None, count: int) -> str | None:
    """Return why the images cannot be saved, or None."""
    if output is None:
        return None
    if output == STDOUT:
        if count > 1:
            return "stdout takes one image; name a file, as in cat.png"
        is_terminal = not sys.stdout or sys.stdout.isatty()
        return "a terminal cannot show an image; use a pipe, as in -O - | open-image" if is_terminal else None
    file = Path(output)
    if file.is_dir():
        return f"{file} is a folder; name a file, as in {file / 'cat.png'}"
    return None if file.parent.is_dir() else f"no such folder: {file.parent}; create it first"


class _Images:
    """The images of one command, and how many are saved."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._saved = 0
        self._reported: set[str] = set()

    async def request_all(self) -> int:
        """Request the images at the same time, save each as it arrives, and return the exit status."""
        count = self._options.n
        noun = "image" if count == 1 else "images"
        logger.info("requesting %s %s from %s", count, noun, host_in(urlsplit(Websim.url)))
        await asyncio.gather(*map(self._request, range(count)))
        if self._saved < count:
            warn(f"{self._saved} of {count} {noun} saved")
        return 0 if self._saved == count else 1

    async def _request(self, index: int) -> None:
        options = self._options
        try:
            url = await request_image(**_arguments(options, index))
        except Exception as error:
            if options.n == 1:
                raise
            message = one_line(error)
            if message not in self._reported:
                self._reported.add(message)
                warn(message)
            return
        shown = "the image" if url.startswith("data:") else without_login(url)
        try:
            self._save(*await fetch_image(url), index)
        except DownloadError as error:
            warn(f"an image was not saved: {error}")
        except BrokenPipeError:
            raise
        except OSError as error:
            warn(f"{shown} was not saved: {error.strerror or error}")
        except asyncio.CancelledError:
            warn(f"{shown} was not saved")
            raise

    def _save(self, data: bytes, image_format: Format, index: int) -> None:
        options = self._options
        if options.output == STDOUT:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            file = self._write(data, image_format, index)
            # If the reader of stdout has ended, as in `| head -1`, the other images are saved all the same.
            with suppress(BrokenPipeError):
                print(file, flush=True)
            if file.suffix.lower() not in image_format.suffixes:
                warn(f"{file} is a {image_format.name} image; its usual suffix is {image_format.suffixes[0]}")
        self._saved += 1
        if options.n > 1:
            warn(f"{self._saved} of {options.n}")

    def _write(self, data: bytes, image_format: Format, index: int) -> Path:
        """Write an image and return the name of its file."""
        options = self._options
        if options.output is None:
            return create_file(stem_of(options.prompt), image_format.suffixes[0], options.n, data)
        file = Path(options.output)
        if options.n > 1:
            # With a seed, the number of a file says which seed it has. Without one, the numbers have no gap.
            number = (self._saved if options.seed is None else index) + 1
            file = file.with_name(f"{file.stem}-{number}{file.suffix}")
        replace_file(file, data)
        return file
