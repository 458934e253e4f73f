"""Recognize images by their contents, name their files, and write files that are complete or not there at all.

The commands `image` and `batch` share this module. images.py requests and downloads the images.
"""

import contextlib
import itertools
import os
import re
import shutil
import struct
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# Names that Windows reserves for devices, with any suffix.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin|conout|com\d|lpt\d)", re.IGNORECASE)
# File systems limit a name to 255 bytes. The rest is room for a number and a suffix.
MAX_STEM_BYTES = 120

# Software may add a few bytes after the end of a PNG or JPEG image.
TAIL_BYTES = 65536

_SVG = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]{0,200}>\s*)?(<!--.{0,2000}?-->\s*)?(<!DOCTYPE svg[^>]{0,500}>\s*)?<svg[\s/>]",
    re.DOTALL,
)
_SVG_END = re.compile(rb"(</svg\s*>|/>)\s*\Z")
_HTML = re.compile(rb"\s*<(!doctype html|html|head|body)\b", re.IGNORECASE)

# The sizes of the header that follows the file header of a BMP image.
_BMP_HEADER_SIZES = [struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124)]


class Format(NamedTuple):
    """An image format.

    Attributes:
        name: the name.
        suffixes: the suffixes of its files, the usual one first.
        begins: whether data begins like an image of the format.
        is_complete: whether such data has its end too.
    """

    name: str
    suffixes: tuple[str, ...]
    begins: Callable[[bytes], object]
    is_complete: Callable[[bytes], object]


def _has_boxes(data: bytes) -> bool:
    """Return whether the boxes of an ISO media file (AVIF) end where the data ends."""
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4])
        if size == 0:  # the last box, which extends to the end of the file
            return True
        position += max(size, 8)  # a box has at least a size and a type
    return position == len(data)


def _has_bmp_header(data: bytes) -> bool:
    # "BM" alone may begin a text. The two reserved fields are zero, and the header that follows has a known size.
    return data[:2] == b"BM" and data[6:10] == bytes(4) and data[14:18] in _BMP_HEADER_SIZES


FORMATS = (
    Format(
        "PNG", (".png",),
        lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), lambda data: b"IEND\xaeB`\x82" in data[-TAIL_BYTES:],
    ),
    Format(
        "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"),
        lambda data: data.startswith(b"\xff\xd8\xff"), lambda data: b"\xff\xd9" in data[-TAIL_BYTES:],
    ),
    Format(
        "GIF", (".gif",),
        lambda data: data.startswith((b"GIF87a", b"GIF89a")), lambda data: data.rstrip(b"\0").endswith(b";"),
    ),
    Format(
        "WebP", (".webp",),
        lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
        lambda data: len(data) >= 8 + int.from_bytes(data[4:8], "little"),
    ),
    Format(
        "AVIF", (".avif",),
        lambda data: data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1"), _has_boxes,
    ),
    Format("BMP", (".bmp", ".dib"), _has_bmp_header, lambda data: len(data) >= int.from_bytes(data[2:6], "little")),
    Format(
        "SVG", (".svg",),
        lambda data: _SVG.match(data, 0, TAIL_BYTES), lambda data: _SVG_END.search(data[-200:]),
    ),
)  # fmt: skip


class NotAnImageError(Exception):
    """Data is no image that can be saved; the message says what it is."""


def recognize(data: bytes) -> Format:
    """Return the format of an image.

    Args:
        data: the contents of a file.

    Raises:
        NotAnImageError: the data is empty, truncated or something else.
    """
    if not data:
        raise NotAnImageError("an empty body instead of an image")
    found = next((known for known in FORMATS if known.begins(data)), None)
    if found is None:
        raise NotAnImageError(
            f"{'an HTML page' if _HTML.match(data, 0, TAIL_BYTES) else 'other data'} instead of an image"
        )
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


def free_names(stem: str, suffix: str, count: int) -> Iterator[Path]:
    """Yield the names for `count` images, best first: cat.png, cat-2.png, ... for one, cat-1.png, ... for several."""
    if count == 1:
        yield Path(stem + suffix)
    for number in itertools.count(2 if count == 1 else 1):
        yield Path(f"{stem}-{number}{suffix}")


def create_file(names: Iterator[Path], data: bytes) -> Path:
    """Write a file under the first name that no file has, and return the name.

    Raises:
        OSError: the file cannot be written.
    """
    while True:
        name = next(names)
        try:
            name.open("xb").close()
        except FileExistsError:
            continue
        try:
            replace_file(name, data)
        except BaseException:
            name.unlink(missing_ok=True)
            raise
        return name


def replace_file(file: Path, data: bytes) -> None:
    """Write a file, or replace it as a whole: if this fails, the old file stays as it is.

    Args:
        file: the file. A device or a pipe, such as /dev/stdout, is written to.
        data: the contents.

    Raises:
        OSError: the file cannot be written.
    """
    if file.exists() and not file.is_file():
        file.write_bytes(data)
        return
    with replacing(file) as name, name.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield the name of a temporary file that replaces `file` at the end, unless the block raises an exception.

    Args:
        file: the file to replace. A link stays, and the file that the link names is replaced.
    """
    file = Path(os.path.realpath(file))
    temporary = file.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        if file.exists():
            shutil.copymode(file, temporary)
        os.replace(temporary, file)  # noqa: PTH105  # the name in the documentation of atomic writes
        sync_folder(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, where the system can: Windows cannot open a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
