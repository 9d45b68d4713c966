"""Detects image formats that change the pixels that they store, and with them the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_IN_TIFF = ("jpeg", "tiff_jpeg", "webp")


def lossy_format(file: Path, picture: Any) -> str | None:
    """Name of the lossy compression of a file that Pillow has opened; ``None`` if it is lossless."""
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
    """Names of a WebP file's chunks. Lossless pixels are in VP8L, lossy ones in VP8."""
    content, names, place = file.read_bytes(), set(), 12
    while place + 8 <= len(content):
        names.add(content[place : place + 4])
        length = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + length + length % 2
    return names
