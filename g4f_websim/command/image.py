"""The command `g4f-websim image`: request images from Websim and save them as files.

The images come from `Websim` like those of g4f's client. Unlike `g4f-websim client`, the command saves several images
and keeps no conversation.
"""

import argparse
import asyncio
import base64
import binascii
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from aiohttp import ClientResponse, ClientSession, ClientTimeout
from g4f.requests.aiohttp import get_connector

from ..provider import Websim
from ..transport.log import logger
from ..transport.target import PROXY_VARIABLE, Target, host_in
from ..wire.bodies import MAX_IMAGES, MAX_INT, RATIO, SIZE
from ..wire.endpoints import DEFAULT_URL

DOWNLOAD_TIMEOUT = ClientTimeout(total=120, sock_connect=30)

# Websim's images are a few megabytes large.
MAX_IMAGE_BYTES = 64 * 1024 * 1024


class _DownloadError(Exception):
    """An image could not be downloaded or decoded; the message contains no secret."""


def main(argv: Sequence[str]) -> int:
    """Request images, save them, and print the names of the files.

    Args:
        argv: the arguments after `g4f-websim image`.

    Returns:
        The exit status: 0 if all images were saved.

    Raises:
        Exception: Websim's error, if it returned no image at all.
    """
    return asyncio.run(_request_and_save(_parse(argv)))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "g4f-websim image",
        description="Request images from Websim and save them.",
        epilog='example: g4f-websim image "a cat on a couch" -O cat.png -n 2 --aspect-ratio 16:9',
    )
    parser.add_argument("prompt", nargs="+", help="what the image shows")
    parser.add_argument(
        "-O", "--output", type=Path, required=True, metavar="FILE",
        help="the file to write, replaced if it exists; several images become cat-1.png, cat-2.png, ...",
    )  # fmt: skip
    parser.add_argument(
        "-n", type=int, choices=range(1, MAX_IMAGES + 1), default=1, metavar="N",
        help=f"the number of images, 1 to {MAX_IMAGES} (default: 1)",
    )  # fmt: skip
    parser.add_argument("--aspect-ratio", type=_aspect_ratio, metavar="W:H", help="as in 16:9 (default: 1:1)")
    parser.add_argument("--size", type=_size, metavar="WxH", help="in pixels, as in 1024x768")
    parser.add_argument("--seed", type=_seed, metavar="N", help="a whole number, as in 42")
    parser.add_argument("--transparent", action="store_true", default=None, help="request a transparent background")
    options = parser.parse_args(argv)
    if not " ".join(options.prompt).strip():
        parser.error("argument prompt: expected what the image shows, as in 'a cat on a couch'")
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


def _output_problem(output: Path, count: int) -> str | None:
    """Return why the images cannot be saved, or None."""
    if output.is_dir():
        return f"{output} is a folder; name a file, as in {output / 'cat.png'}"
    if not output.parent.is_dir():
        return f"no such folder: {output.parent}; create it first"
    for file in _files(output, count):
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            return f"no permission to write {file}"
    return None


async def _request_and_save(options: argparse.Namespace) -> int:
    proxy = os.environ.get(PROXY_VARIABLE)
    logger.info("requesting %s from %s", _format_count(options.n), _host(Websim.url))
    urls = await _request(options, proxy)
    files = _files(options.output, options.n)[: len(urls)]
    logger.info("saving %s", _format_count(len(urls)))
    outcomes = await asyncio.gather(
        *(_save(url, file, proxy) for url, file in zip(urls, files, strict=True)), return_exceptions=True
    )
    saved = 0
    for file, outcome in zip(files, outcomes, strict=True):
        if outcome is None:
            print(file)
            saved += 1
        elif isinstance(outcome, (_DownloadError, OSError)):
            print(f"g4f-websim: {file} was not saved: {outcome}", file=sys.stderr)
        else:
            raise outcome
    if saved < options.n:
        print(f"g4f-websim: {saved} of {_format_count(options.n)} saved", file=sys.stderr)
    return 0 if saved == options.n else 1


async def _request(options: argparse.Namespace, proxy: str | None) -> list[str]:
    """Return the URLs of the images."""
    urls: list[str] = []
    async for response in Websim.create_async_generator(
        Websim.default_image_model,
        None,
        prompt=" ".join(options.prompt),
        proxy=proxy,
        aspect_ratio=options.aspect_ratio,
        n=options.n,
        size=options.size,
        seed=options.seed,
        transparent=options.transparent,
    ):
        urls += response.get_list()
    return urls


def _files(output: Path, count: int) -> list[Path]:
    """Return the name of each file: cat.png, or cat-1.png, cat-2.png and so on for several images."""
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(1, count + 1)]


async def _save(url: str, file: Path, proxy: str | None) -> None:
    image = _decode(url) if url.startswith("data:") else await _download(url, proxy)
    await asyncio.to_thread(file.write_bytes, image)


def _decode(data_uri: str) -> bytes:
    """Return the bytes in a `data:` URI (RFC 2397)."""
    header, _, data = data_uri.partition(",")
    try:
        return base64.b64decode(data, validate=True) if header.endswith(";base64") else unquote_to_bytes(data)
    except binascii.Error:
        raise _DownloadError("Websim returned a malformed data: URI") from None


async def _download(url: str, proxy: str | None) -> bytes:
    """Return the image at a URL. The request does not contain the user's token."""
    target = Target(DEFAULT_URL, proxy=proxy)  # only the proxy of the target is used
    try:
        async with (
            ClientSession(connector=get_connector(proxy=target.socks_proxy), timeout=DOWNLOAD_TIMEOUT) as session,
            session.get(url, proxy=target.http_proxy) as response,
        ):
            return await _read_image(response)
    except _DownloadError:
        raise
    except TimeoutError:
        raise _DownloadError(f"no response within {DOWNLOAD_TIMEOUT.total:g} s from {_host(url)}") from None
    except Exception as error:  # aiohttp, ssl and the SOCKS library raise unrelated types
        # Their messages may contain the password of the proxy.
        raise _DownloadError(f"the download failed ({type(error).__name__}) from {_host(url)}") from None


async def _read_image(response: ClientResponse) -> bytes:
    host = _host(str(response.url))
    if response.status != 200:
        raise _DownloadError(f"status {response.status} from {host}")
    # Storage services send images as application/octet-stream or binary/octet-stream.
    if not response.content_type.startswith("image/") and not response.content_type.endswith("/octet-stream"):
        raise _DownloadError(f"{response.content_type} instead of an image from {host}")
    image = bytearray()
    async for chunk in response.content.iter_any():
        image += chunk
        if len(image) > MAX_IMAGE_BYTES:
            raise _DownloadError(f"more than {MAX_IMAGE_BYTES >> 20} MiB from {host}")
    return bytes(image)


def _host(url: str) -> str:
    """Return the host in a URL. The rest of the URL may contain the signature of a storage service."""
    return host_in(urlsplit(url))


def _format_count(count: int) -> str:
    """Return `1 image`, `2 images` and so on."""
    return f"{count} image" if count == 1 else f"{count} images"
