"""Draw the emulator's PNG images without an image library."""

import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# The fields after width and height (PNG 1.2, section 4.1.1): 8 bits per channel, RGB, deflate, no interlacing.
_FORMAT = (8, 2, 0, 0, 0)
_NO_FILTER = b"\0"


def draw_gradient(width: int, height: int, top: bytes, bottom: bytes) -> bytes:
    """Return a PNG image that blends one colour into another from top to bottom.

    Args:
        width: the width in pixels.
        height: the height in pixels.
        top: the red, green and blue bytes of the first row.
        bottom: the red, green and blue bytes of the colour below the last row.
    """
    rows = (_NO_FILTER + _blend(top, bottom, y / height) * width for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, *_FORMAT)
    pixels = zlib.compress(b"".join(rows))
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _blend(top: bytes, bottom: bytes, share: float) -> bytes:
    return bytes(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
