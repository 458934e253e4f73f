"""Images as Python programs have them: each becomes a data URI or a web URL, or an error that names the formats."""

import asyncio
import base64
import io
import os
import re
import tempfile
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from g4f_websim.wire.images import image_urls
from tests.support.calls import HELLO, PNG, PNG_URI, call_websim
from tests.support.interpreter import run_python

FORMATS = "as JPEG, PNG, GIF or WebP"
# The number of an EXIF field.
ORIENTATION = 0x0112
RED = Image.new("RGB", (4, 2), "red")


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def photo(orientation: int = 1) -> bytes:
    """Return a JPEG of 4 x 2 pixels, red, that is to be turned as its EXIF orientation says."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(RED, "JPEG", exif=exif)


def sent_image(image: object) -> Image.Image:
    """Return the image that is sent for `image`."""
    (url,) = image_urls([image])
    return opened(base64.b64decode(url.partition(",")[2]))


def png_path() -> Path:
    path = Path("cat.png")
    path.write_bytes(PNG)
    return path


def dir_entry() -> os.DirEntry:
    png_path()
    with os.scandir() as entries:
        return next(entries)


def pipe(buffering: int) -> io.IOBase:
    reader, writer = os.pipe()
    os.write(writer, PNG)
    os.close(writer)
    return open(reader, "rb", buffering)  # noqa: PTH123  # image_urls reads it


def at_end(file: io.IOBase) -> io.IOBase:
    file.write(PNG)
    return file


IMAGES = {
    "bytes": lambda: PNG,
    "bytearray": lambda: bytearray(PNG),
    "part of a memoryview": lambda: memoryview(PNG + PNG)[: len(PNG)],
    "path": png_path,
    "other path object": dir_entry,
    "open file": lambda: png_path().open("rb"),
    "BytesIO": lambda: io.BytesIO(PNG),
    "BytesIO at its end": lambda: at_end(io.BytesIO()),
    "temporary file at its end": lambda: at_end(tempfile.TemporaryFile()),  # noqa: SIM115
    "file URL": lambda: urllib.request.urlopen(png_path().resolve().as_uri()),
    "pipe": lambda: pipe(-1),
    "unbuffered pipe": lambda: pipe(0),
    "data URI": lambda: PNG_URI,
    "data URI in capitals": lambda: PNG_URI.replace("data:image/png;base64", "DATA:IMAGE/PNG;BASE64"),
    "data URI of no particular type": lambda: PNG_URI.replace("image/png", "application/octet-stream"),
    "data URI with blanks around": lambda: f" {PNG_URI}\n",
}


@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
@pytest.mark.parametrize("make_image", IMAGES.values(), ids=IMAGES)
def test_image_becomes_data_uri(make_image, named):
    image = make_image()
    try:
        assert image_urls([(image, "cat.png") if named else image]) == [PNG_URI]
    finally:
        if hasattr(image, "close"):
            image.close()


def test_response_of_server_becomes_data_uri(websim_server):
    websim_server.reply_image(PNG)
    (response,) = asyncio.run(call_websim("flux", HELLO))
    with urllib.request.urlopen(response.get_list()[0]) as image:
        assert image_urls([image]) == [PNG_URI]


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://example.com/cat.png", "https://example.com/cat.png"),
        ("Https://Example.com/Cat.PNG?Size=1", "https://Example.com/Cat.PNG?Size=1"),
        ("HTTP://example.com", "http://example.com"),
        (" https://example.com/cat.png\n", "https://example.com/cat.png"),
        ("https://example.com/\ud83d\ude00\ud83d", "https://example.com/😀\ufffd"),
        ("data:image/jpg;base64,AA", "data:image/jpg;base64,AA"),
        ("data:image/webp,%52%49", "data:image/webp,%52%49"),
    ],
)
def test_url_is_sent_as_it_is_except_for_its_scheme(url, sent):
    assert image_urls([url]) == [sent]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_accepted_format_is_kept(kind):
    data = encoded(RED, kind)
    (url,) = image_urls([data])
    assert url == f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"
    assert sent_image(opened(data)).format == kind


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "ICO"])
def test_other_format_becomes_png(kind):
    data = encoded(Image.new("RGB", (4, 4), "red"), kind)
    uri = f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"
    for image in (data, io.BytesIO(data), opened(data), uri):
        sent = sent_image(image)
        assert (sent.format, sent.convert("RGB").getpixel((1, 1))) == ("PNG", (255, 0, 0))


def with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(3)
    return image


# Each row: an opened photo, the format, the mode and the size of the image that is sent.
PHOTOS = {
    **{
        f"orientation {orientation}": (opened(photo(orientation)), "JPEG", "RGB", size)
        for orientation, size in ((1, (4, 2)), (3, (4, 2)), (6, (2, 4)), (8, (2, 4)))
    },
    # Some cameras write MPO, a JPEG that is followed by more images.
    "several images": (opened(encoded(RED, "MPO", save_all=True, append_images=[RED])), "JPEG", "RGB", (4, 2)),
    "made transparent": (with_alpha(opened(photo())), "PNG", "RGBA", (4, 2)),
    "CMYK": (opened(encoded(Image.new("CMYK", (4, 2)), "JPEG")), "JPEG", "RGB", (4, 2)),
}


@pytest.mark.parametrize(("image", "kind", "mode", "size"), PHOTOS.values(), ids=PHOTOS)
def test_opened_photo_is_sent_upright_in_a_format_that_websim_accepts(image, kind, mode, size):
    sent = sent_image(image)
    assert (sent.format, sent.mode, sent.size) == (kind, mode, size)
    assert sent.getexif().get(ORIENTATION, 1) == 1


def test_bytes_of_photo_are_sent_unchanged():
    assert sent_image(photo(6)).getexif()[ORIENTATION] == 6


# Each mode with a color, and that color in the image that is sent.
MODES = [
    *[("1", 1, "1", 255), ("L", 7, "L", 7), ("LA", (7, 9), "LA", (7, 9)), ("P", 0, "P", 0)],
    *[("RGBA", (1, 2, 3, 4), "RGBA", (1, 2, 3, 4)), ("CMYK", (0, 255, 255, 0), "RGB", (255, 0, 0))],
    *[("PA", 0, "RGBA", (0, 0, 0, 0)), ("La", (0, 0), "LA", (0, 0)), ("RGBa", (0, 0, 0, 0), "RGBA", (0, 0, 0, 0))],
    *[("YCbCr", (255, 128, 128), "RGB", (255, 255, 255)), ("HSV", (0, 0, 255), "RGB", (255, 255, 255))],
    *[("I;16", 65535, "L", 255), ("I;16", 32768, "L", 127), ("I;16B", 65535, "L", 255)],
    *[("I", 200, "L", 200), ("I", 65535, "L", 255), ("I", 100_000, "L", 0), ("I", -4, "L", 0)],
    *[("F", 0.5, "L", 127), ("F", 200.0, "L", 200), ("F", -1.0, "L", 0)],
]


@pytest.mark.parametrize(("mode", "color", "sent_mode", "sent_color"), MODES, ids=repr)
def test_pil_image_of_any_mode_becomes_png(mode, color, sent_mode, sent_color):
    sent = sent_image(Image.new(mode, (3, 2), color))
    assert (sent.format, sent.mode, sent.getpixel((0, 0))) == ("PNG", sent_mode, sent_color)


NO_IMAGES = {
    "no bytes": b"",
    "text": b"text",
    "PDF": b"%PDF-1.7",
    "audio": (b"RIFF\0\0\0\0WAVE", "cat.wav"),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "file name": "cat.png",
    "data URI of a text": "data:text/plain;base64,dGV4dA==",
    "data URI without data": "data:image/png;base64,",
    "URL without a host": "https://",
    "URL of a file": "file:///etc/passwd",
    "number": 7,
    "None": None,
    "tuple of one": (PNG,),
}


@pytest.mark.parametrize("image", NO_IMAGES.values(), ids=NO_IMAGES)
def test_error_names_item_and_accepted_formats(image):
    message = rf'^media\[1\]: an image: bytes, a path object like Path\("cat.png"\), .* {FORMATS}, not '
    with pytest.raises(ValueError, match=message):
        image_urls([PNG, image])


UNREADABLE = {
    "missing file": (Path("none.png"), "No such file"),
    "folder": (Path(), "directory"),
    "text file": (io.StringIO("text"), 'not binary: open it with the mode "rb"'),
    "empty PIL image": (Image.new("RGB", (0, 0)), ""),
    "truncated PIL image": (opened(photo()[:-9]), "truncated"),
    "truncated BMP": (encoded(RED, "BMP")[:-9], "truncated"),
    "base64 that is none": ("data:application/pdf;base64,A", ""),
}


@pytest.mark.parametrize(("image", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_error_says_why_image_cannot_be_read(image, reason):
    with pytest.raises(ValueError, match=rf"^media\[0\]: the image cannot be read \(.*{re.escape(reason)}"):
        image_urls([image])


@pytest.mark.parametrize(
    "media", [PNG, "cat.png", Path("cat.png"), 7, {"cat.png": PNG}], ids=lambda media: repr(media)[:9]
)
def test_single_image_is_an_error_that_shows_a_list(media):
    with pytest.raises(ValueError, match=r'^media: a list of images, as in media=\[Path\("cat.png"\)\], not '):
        image_urls(media)


def test_works_without_pillow():
    Path("cat.bmp").write_bytes(encoded(RED, "BMP"))
    png_path()
    program = """
import io, sys
sys.modules["PIL"] = None
from pathlib import Path
from g4f_websim.wire.images import image_urls
file = Path("cat.png")
print(len({*image_urls([file, io.BytesIO(file.read_bytes()), file.read_bytes()])}))
try:
    image_urls([Path("cat.bmp")])
except ValueError as error:
    print(error)
"""
    printed, _ = run_python("-c", program)
    count, error = printed.splitlines()
    assert count == "1"
    assert f"{FORMATS} (BMP, TIFF and PPM too once pillow is installed: pip install pillow), not " in error
