"""The command `g4f-websim image`: request images from Websim and save each as it arrives.

images.py requests and downloads an image, files.py names and writes the files.
"""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..provider import Websim
from ..transport.log import logger
from ..wire.bodies import MAX_IMAGES, MAX_INT, RATIO, SIZE
from .files import Format, create_file, free_names, replace_file, stem_of
from .images import DownloadError, fetch_image, request_image, without_login
from .signals import run
from .terminal import one_line, warn

STDOUT = "-"


def main(argv: Sequence[str]) -> int:
    """Request images, save them, and print the names of the files.

    Args:
        argv: the arguments after `g4f-websim image`.

    Returns:
        The exit status: 0 if all images were saved.

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
    parser.add_argument("--aspect-ratio", type=_aspect_ratio, metavar="W:H", help="as in 16:9 (default: 1:1)")
    parser.add_argument("--size", type=_size, metavar="WxH", help="in pixels, as in 1024x768")
    parser.add_argument(
        "--seed", type=_seed, metavar="N", help="a whole number, as in 42; further images get 43, 44, ..."
    )
    parser.add_argument("--transparent", action="store_true", default=None, help="request a transparent background")
    options = parser.parse_args(argv)
    if not " ".join(options.prompt).strip():
        parser.error("argument prompt: expected what the image shows, as in 'a cat on a couch'")
    if options.seed is not None and options.seed + options.n - 1 > MAX_INT:
        parser.error(f"argument --seed: expected at most {MAX_INT - options.n + 1} for {options.n} images")
    if problem := _output_problem(options.output, options.n):
        parser.error(f"argument -O/--output: {problem}")
    return options


def _aspect_ratio(text: str) -> str:
    _check_option(RATIO.fullmatch(text), "W:H with positive numbers, as in 16:9", text)
    return text


def _size(text: str) -> str:
    _check_option(SIZE.fullmatch(text), "WxH in pixels, as in 1024x768", text)
    return text


def _seed(text: str) -> int:
    is_seed = re.fullmatch("-?[0-9]{1,16}", text) and abs(int(text)) <= MAX_INT
    _check_option(is_seed, f"a whole number from {-MAX_INT} to {MAX_INT}", text)
    return int(text)


def _check_option(ok: object, expected: str, text: str) -> None:
    """Raise the error that argparse reports with the name of the option, unless `ok`."""
    if not ok:
        raise argparse.ArgumentTypeError(f"expected {expected}, not {text!r}")


def _output_problem(output: str | None, count: int) -> str | None:
    """Return why the images cannot be saved, or None."""
    if output == STDOUT:
        if count > 1:
            return "stdout takes one image; name a file, as in cat.png"
        is_terminal = not sys.stdout or sys.stdout.isatty()
        return "a terminal cannot show an image; use a pipe, as in -O - | open-image" if is_terminal else None
    if output is None:
        return None if os.access(".", os.W_OK) else "no permission to write into this folder; name a file elsewhere"
    file = Path(output)
    if file.is_dir():
        return f"{file} is a folder; name a file, as in {file / 'cat.png'}"
    if not file.parent.is_dir():
        return f"no such folder: {file.parent}; create it first"
    for numbered in _files(file, count):
        if numbered.is_file() and not os.access(numbered, os.W_OK):
            return f"no permission to write {numbered}"
        # A file is replaced by a new one in the same folder; a device is not replaced.
        if not numbered.exists() or numbered.is_file():
            folder = Path(os.path.realpath(numbered)).parent
            if not os.access(folder, os.W_OK):
                return f"no permission to write into the folder {folder}"
    return None


def _files(output: Path, count: int) -> list[Path]:
    """Return the name of each file: cat.png, or cat-1.png, cat-2.png and so on for several images."""
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(1, count + 1)]


class _Images:
    """The images of one command.

    Args:
        options: the parsed arguments.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._prompt = " ".join(options.prompt)
        self._saved = 0
        self._reported: set[str] = set()

    async def request_all(self) -> int:
        """Request the images at the same time, save each as it arrives, and return the exit status."""
        count = self._options.n
        logger.info("requesting %s from %s", _format_count(count), _host())
        if count == 1:
            await self._request(0)
        else:
            await asyncio.gather(*(self._request_one_of_several(index) for index in range(count)))
        if self._saved < count:
            warn(f"{self._saved} of {_format_count(count)} saved")
        return 0 if self._saved == count else 1

    async def _request_one_of_several(self, index: int) -> None:
        try:
            await self._request(index)
        except Exception as error:  # the other images may still arrive
            message = one_line(error)
            if message not in self._reported:
                self._reported.add(message)
                warn(f"{message}")

    async def _request(self, index: int) -> None:
        options = self._options
        url = await request_image(
            Websim,
            self._prompt,
            aspect_ratio=options.aspect_ratio,
            size=options.size,
            seed=None if options.seed is None else options.seed + index,
            transparent=options.transparent,
        )
        shown = "the image" if url.startswith("data:") else without_login(url)
        try:
            data, image_format = await fetch_image(url)
            self._save(data, image_format, index)
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
        elif options.output is None:
            file = create_file(free_names(stem_of(self._prompt), image_format.suffixes[0], options.n), data)
            _show(file)
        else:
            # With a seed, the number of a file says which seed it has. Without one, the numbers have no gap.
            file = _files(Path(options.output), options.n)[self._saved if options.seed is None else index]
            replace_file(file, data)
            _show(file)
            if file.suffix.lower() not in image_format.suffixes:
                usual = image_format.suffixes[0]
                print(
                    f"g4f-websim: {file} is a {image_format.name} image; its usual suffix is {usual}", file=sys.stderr
                )
        self._saved += 1
        if options.n > 1:
            warn(f"{self._saved} of {options.n}")


def _show(file: Path) -> None:
    """Print the name of a saved file."""
    # If the reader of stdout has ended, as in `| head -1`, the other images are saved all the same.
    with suppress(BrokenPipeError):
        print(file, flush=True)


def _host() -> str:
    """Return the host and port of the site."""
    return Websim.url.rpartition("@")[2].rpartition("//")[2]


def _format_count(count: int) -> str:
    """Return `1 image`, `2 images` and so on."""
    return f"{count} image" if count == 1 else f"{count} images"
