"""Image files for tests: pairs of plain ones, and what no usual library writes: PNG of any depth, interlaced or not."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from feataug.data import MaskedImages
from feataug.errors import DataError

# Adam7: first row, first column, steps.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png(values, depth, kind, *, interlaced=False):
    """A PNG of ``(H, W)`` or ``(H, W, channels)`` values; ``kind`` is the colour type: 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""
    values = np.asarray(values)
    height, width = values.shape[:2]
    parts = [values[a::c, b::d] for a, b, c, d in _PASSES] if interlaced else [values]
    rows = b"".join(b"\0" + _packed(row, depth) for part in parts if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _packed(row, depth):
    if depth == 16:
        return row.astype(">u2").tobytes()
    if depth == 8:
        return row.astype(np.uint8).tobytes()
    bits = (row[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).ravel()).tobytes()


def _chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def tiff(values):
    """An uncompressed TIFF of uint16 colours, ``(H, W, 3)``, little-endian."""
    height, width, channels = values.shape
    pixels = values.astype("<u2").tobytes()
    offset = 8
    bits = offset + len(pixels)
    extra = struct.pack(f"<{channels}H", *[16] * channels)
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, bits), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, offset),
        (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(pixels)), (284, 3, 1, 1),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, bits + len(extra)) + pixels + extra + directory


def image(file, shade=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (shade,) * 3).save(file)


def mask(file, label=1):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8), label, np.uint8)).save(file)


def pairs(root, *names, suffix=".jpg"):
    for name in names:
        image(root / "i" / f"{name}{suffix}")
        mask(root / "m" / f"{name}.png")


def read(root, **given):
    """The pairs below a folder, in three classes."""
    return MaskedImages(root / "i", root / "m", "abc", **given)


def stems(data):
    """Names of the images that were found."""
    return [file.stem for file in data.image_files]


def error_of(call, kind=DataError):
    """The whole text of the error that a call raises."""
    with pytest.raises(kind) as error:
        call()
    return str(error.value)
