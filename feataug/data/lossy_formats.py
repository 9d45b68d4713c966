"""Which image formats change the pixels that they store: labels in them are lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_IN_TIFF = ("jpeg", "tiff_jpeg", "webp")


def lossy_format(file: Path, picture: Any) -> str | None:
    """The name of the compression that changed the pixels of a file, which Pillow has opened; ``None`` if there is none."""
    if picture.format in ("JPEG", "MPO"):
        return "JPEG"
    if picture.format in ("JPEG2000", "AVIF", "HEIF"):
        return str(picture.format)
    if picture.format == "TIFF" and picture.info.get("compression") in _IN_TIFF:
        return f"TIFF with {picture.info['compression'].removeprefix('tiff_').upper()} compression"
    if picture.format == "WEBP" and b"VP8L" not in _chunks(file):
        return "lossy WebP"
    return None


def _chunks(file: Path) -> set[bytes]:
    """The names of a WebP file's chunks: pixels are in VP8L where they are lossless, in VP8 where not."""
    content, names, place = file.read_bytes(), set(), 12
    while place + 8 <= len(content):
        names.add(content[place : place + 4])
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + length + length % 2
    return names
