"""Recognize images by their contents, name their files, and write files that are complete or not there at all.

The commands `image` and `batch` share this module. images.py requests and downloads the images.
"""

import contextlib
import os
import re
import shutil
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..wire.redaction import MAX_SEARCHED_CHARS, is_html

# Names that Windows reserves for devices, with any suffix.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin|conout|com\d|lpt\d)", re.IGNORECASE)
# File systems limit a name to 255 bytes. The rest is room for a number and a suffix.
MAX_STEM_BYTES = 120


class Format(NamedTuple):
    """An image format.

    Attributes:
        name: the name.
        suffixes: the suffixes of its files, the usual one first.
        start: a pattern for the first bytes.
        is_complete: whether data with such a start has its end too.
    """

    name: str
    suffixes: tuple[str, ...]
    start: bytes
    is_complete: Callable[[bytes], object]


# A download shorter than its Content-Length is an error of aiohttp. The ends of the usual formats are checked too,
# because a data: URI has no Content-Length. Software may add a few bytes after the end of a PNG or JPEG image.
FORMATS = (
    Format("PNG", (".png",), rb"\x89PNG\r\n\x1a\n", lambda data: b"IEND\xaeB`\x82" in data),
    Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), rb"\xff\xd8\xff", lambda data: b"\xff\xd9" in data),
    Format("GIF", (".gif",), rb"GIF8[79]a", lambda data: data.rstrip(b"\0").endswith(b";")),
    Format("WebP", (".webp",), rb"RIFF.{4}WEBP", lambda data: len(data) >= 8 + int.from_bytes(data[4:8], "little")),
    Format("AVIF", (".avif",), rb".{4}ftyp(avif|avis|mif1)", bool),
    # "BM" alone may begin a text: two reserved fields are zero, and the second header has one of seven sizes.
    Format("BMP", (".bmp", ".dib"), rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}", bool),
)


class NotAnImageError(Exception):
    """Data is not an image that can be saved; the message says what it is."""


def recognize(data: bytes) -> Format:
    """Return the format of an image.

    Args:
        data: the contents of a file.

    Raises:
        NotAnImageError: the data is empty, truncated or something else.
    """
    if not data:
        raise NotAnImageError("an empty body instead of an image")
    found = next((known for known in FORMATS if re.match(known.start, data, re.DOTALL)), None)
    if found is None:
        kind = "an HTML page" if is_html(data[:MAX_SEARCHED_CHARS].decode("latin-1")) else "other data"
        raise NotAnImageError(f"{kind} instead of an image")
    if not found.is_complete(data):
        raise NotAnImageError(f"a truncated {found.name} image")
    return found


def stem_of(prompt: str) -> str:
    """Return a file name without a suffix that is made from a prompt and valid on every system."""
    # NFKC: macOS and Windows treat some different characters as the same.
    characters = (
        char if char.isalnum() or unicodedata.category(char).startswith("M") else "-"
        for char in unicodedata.normalize("NFKC", prompt)
    )
    words = "-".join(filter(None, "".join(characters).split("-")))
    stem = words.encode()[:MAX_STEM_BYTES].decode(errors="ignore")
    if stem != words:
        stem = stem.rpartition("-")[0] or stem
    return f"image-{stem}".rstrip("-") if not stem or _RESERVED.fullmatch(stem) else stem


def create_file(stem: str, suffix: str, count: int, data: bytes) -> Path:
    """Write one of `count` images under a name that no file has, and return the name.

    The names are cat.png, cat-2.png, ... for one image, and cat-1.png, cat-2.png, ... for several.

    Raises:
        OSError: the file cannot be written.
    """
    number = 0
    while True:
        number += 1
        file = Path(f"{stem}{suffix}" if number == count == 1 else f"{stem}-{number}{suffix}")
        try:
            file.open("xb").close()
        except FileExistsError:
            continue
        try:
            replace_file(file, data)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        return file


def replace_file(file: Path, data: bytes) -> None:
    """Write a file, or replace it as a whole: if this fails, the old file is unchanged.

    Args:
        file: the file. A device or a pipe, such as /dev/stdout, is written to.
        data: the contents.

    Raises:
        OSError: the file cannot be written.
    """
    if file.exists() and not file.is_file():
        file.write_bytes(data)
        return
    with replacing(file) as opened:
        opened.write(data)


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces `file` at the end, unless the block raises an exception.

    Args:
        file: the file to replace. A link stays, and the file that the link names is replaced.
    """
    file = Path(os.path.realpath(file))
    temporary = file.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        if file.exists():
            shutil.copymode(file, temporary)  # the user may have made the file private
        os.replace(temporary, file)  # noqa: PTH105  # the name in the documentation of atomic writes
    finally:
        temporary.unlink(missing_ok=True)
