"""Turn the images of Python programs into URLs that Websim accepts: data URIs and web URLs."""

import base64
import os
import re
from contextlib import suppress
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

from .arguments import require, without_surrogates

# How the formats that Websim accepts begin.
_FORMATS = {
    "image/jpeg": re.compile(rb"\xff\xd8"),
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
}
# Other formats, by pillow's names, which are converted to PNG. Pillow would run Ghostscript for EPS.
_CONVERTED_FORMATS = ("BMP", "DIB", "TIFF", "PPM", "ICO", "AVIF", "HEIF", "JPEG2000")

IMAGE_FORM = (
    'an image: bytes, a path object like Path("cat.png"), an open file, a PIL image, a data:image/ URI or a web URL, '
    "as JPEG, PNG, GIF or WebP"
)
NEEDS_PILLOW = " (BMP, TIFF and PPM too once pillow is installed: pip install pillow)"

_WEB_URL = re.compile(r"(https?)(://[^\s/?#].*)", re.IGNORECASE | re.DOTALL)
_DATA_URI = re.compile(r"(data:image/(?:jpe?g|png|gif|webp)(?:;[^,]*)?),.", re.IGNORECASE | re.DOTALL)

# The largest values of images with more than 8 bits a pixel. The first one that an image does not exceed is white.
_WHITE = (255.0, 65535.0)
# Pillow's default for JPEG, 75, is visibly worse than the photo of a phone.
_JPEG_QUALITY = 95


def image_urls(media: Any) -> list[str]:
    """Return g4f's `media` as URLs that Websim accepts: `data:image/` URIs and web URLs.

    Args:
        media: None, or a list of images or of pairs (image, file name); see `image_url`.

    Raises:
        ValueError: an item is not an image or cannot be read.
    """
    if media is None:
        return []
    require(isinstance(media, (list, tuple)), "media", 'a list of images, as in media=[Path("cat.png")]', media)
    return [image_url(f"media[{index}]", item) for index, item in enumerate(media)]


def image_url(field: str, item: Any) -> str:
    """Return an image as a URL that Websim accepts.

    Args:
        field: the name of the argument, for an error.
        item: bytes or another buffer, a path object, an open binary file, a PIL image, a data URI, a web URL, or a
            pair (image, file name).

    Raises:
        ValueError: the item is not an image or cannot be read.
    """
    image = item[0] if isinstance(item, (list, tuple)) and len(item) == 2 else item
    try:
        url = _accepted_url(image.strip()) if isinstance(image, str) else _data_uri(_read(image))
    except Exception as error:  # files and pillow raise exceptions of many classes
        raise ValueError(f"{field}: the image cannot be read ({error!s:.200})") from error
    require(url, field, IMAGE_FORM if _pillow() else IMAGE_FORM + NEEDS_PILLOW, image)
    return url


def _accepted_url(text: str) -> str:
    """Return a web URL or a data URI in the form that Websim accepts, or an empty string for any other text."""
    if match := _WEB_URL.fullmatch(text):
        return match[1].lower() + without_surrogates(match[2])
    head, _, data = text.partition(",")
    if _DATA_URI.match(text):
        return f"{head.lower()},{without_surrogates(data)}"
    is_encoded = re.fullmatch("data:.*;base64", head, re.IGNORECASE | re.DOTALL)
    return _data_uri(base64.b64decode(data)) if is_encoded else ""


def _read(image: Any) -> bytes:
    """Return the bytes of an image; no bytes if the object is of another kind."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    pillow = _pillow()
    if pillow and isinstance(image, pillow.Image.Image):
        return _encode(image)
    if isinstance(image, os.PathLike):
        return Path(os.fsdecode(image)).read_bytes()
    if not hasattr(image, "read"):
        return b""
    # Responses and pipes cannot seek.
    with suppress(AttributeError, OSError):
        image.seek(0)
    data = image.read()
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ValueError('the file is not binary: open it with the mode "rb"')
    return bytes(data)


def _data_uri(data: bytes) -> str:
    """Return a data URI of an image, or an empty string if its format is not accepted and cannot be converted."""
    data = data if _media_type(data) else _convert(data)
    media_type = _media_type(data)
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}" if media_type else ""


def _media_type(data: bytes) -> str:
    return next((name for name, start in _FORMATS.items() if start.match(data)), "")


def _pillow() -> Any:
    """Return pillow with its modules Image and ImageOps, or None; the package does not depend on it."""
    try:
        import_module("PIL.ImageOps")  # imports PIL.Image too
    except ImportError:
        return None
    return import_module("PIL")


def _convert(data: bytes) -> bytes:
    """Return an image of another format as PNG, or no bytes if pillow cannot read it."""
    pillow = _pillow()
    if not pillow:
        return b""
    pillow.Image.init()
    formats = [name for name in _CONVERTED_FORMATS if name in pillow.Image.OPEN]
    try:
        with pillow.Image.open(BytesIO(data), formats=formats) as image:
            return _encode(image)
    except pillow.UnidentifiedImageError:
        return b""


def _encode(image: Any) -> bytes:
    """Return a PIL image as a file: upright, in its own format if that is accepted, else as PNG."""
    # Phones write MPO, a JPEG that is followed by more images.
    kind = "JPEG" if image.format == "MPO" else image.format
    upright = _in_plain_mode(_pillow().ImageOps.exif_transpose(image))
    if kind not in ("JPEG", "GIF", "WEBP") or (kind == "JPEG" and upright.mode not in ("L", "RGB")):
        kind = "PNG"
    file = BytesIO()
    upright.save(file, kind, **({"quality": _JPEG_QUALITY} if kind == "JPEG" else {}))
    return file.getvalue()


def _in_plain_mode(image: Any) -> Any:
    """Return a PIL image in a mode that PNG has, with 8 bits a channel."""
    if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        return image
    # The color profile describes the original mode.
    image.info.pop("icc_profile", None)
    if image.mode.startswith("I;16"):
        return _in_gray(image.convert("I"), 0.0, _WHITE[-1])
    if image.mode in ("I", "F"):
        low, high = image.getextrema()
        whites = (1.0, *_WHITE) if image.mode == "F" else _WHITE
        white = next((white for white in whites if low >= 0 and high <= white), None)
        return _in_gray(image, low, high) if white is None else _in_gray(image, 0.0, white)
    return image.convert({"La": "LA"}.get(image.mode, "RGBA" if image.mode in ("PA", "RGBa") else "RGB"))


def _in_gray(image: Any, black: float, white: float) -> Any:
    """Return an image of integers or floats with 8 bits a pixel."""
    scale = 255.0 / ((white - black) or 1.0)
    return image.convert("F").point(lambda value: value * scale - black * scale).convert("L")
