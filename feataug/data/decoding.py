"""Decodes image and label files by mode and bit depth, so that no value is silently scaled, rounded or rotated."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torchvision import tv_tensors

from feataug.data.lossy_formats import lossy_format
from feataug.errors import DataError

_ORIENTATION = 0x0112
_PHOTOMETRIC = 262
# TIFF's PhotometricInterpretation for grey values in which zero is white.
_WHITE_IS_ZERO = 0
# Factors by which Pillow scales grey values of fewer than 8 bits.
_SCALED = {"L;2": 85, "L;4": 17}
# Modes with interleaved channels of 16 bits.
_COLOURS = ("LA", "RGB", "RGBA")


@dataclass
class Labels:
    """The pixels of a label file.

    Attributes:
        pixels: ``(H, W)`` stored values or palette indices, or ``(H, W, channels)``.
        palette: ``(entries, 3)`` colours, if the file has a palette.
        kind: Pillow's mode.
    """

    pixels: np.ndarray
    palette: np.ndarray | None
    kind: str


def decode_image(who: str, file: Path) -> tv_tensors.Image:
    """Read an image ``(3, H, W)``: uint8, or float32 in ``[0, 1]`` if the file has 16 bits or floats.

    Grey images and palettes become RGB, and transparent pixels are blended with black. The EXIF orientation is applied, so that the
    image is the one that viewers show. Values of 16 bits are divided by 65535, those of 12 bits (TIFF) by 4095.

    Raises:
        DataError: the file cannot be decoded, or its values have no known range.
    """
    with _opened(who, file, "an image in one of the usual formats") as picture:
        raws = _raws(picture)
        picture.load()
        if picture.mode == "F":
            pixels = _floats(who, file, np.array(picture))
        elif _is_deep(picture, raws):
            pixels = _deep(who, file, picture, raws[0], 4095 if ";12" in raws[0] else 65535)
        elif picture.mode == "I" and picture.format == "PNG":  # 16 bits, in older versions of Pillow
            pixels = np.array(picture).astype(np.float32)[..., None] / 65535
        elif picture.mode in ("I", "LAB"):
            raise DataError(
                f"{who}: the values of an image have no known range.",
                given=f"{file}, mode {picture.mode!r}",
                needed="8 or 16 bits without sign, or floats in [0, 1], as grey or RGB",
            )
        else:
            pixels = _bytes(picture)
        pixels = turned(pixels, _orientation(picture))
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(rearrange(pixels, "h w channels -> channels h w"))))


def decode_labels(who: str, file: Path) -> Labels:
    """Read a label file as stored: no value is scaled, and palette indices are not replaced by colours.

    Raises:
        DataError: the file cannot be decoded, or its format changes labels, as JPEG does.
    """
    with _opened(who, file, "a PNG, TIFF, BMP or lossless WebP") as picture:
        lossy = lossy_format(file, picture)
        if lossy is not None:
            raise DataError(
                f"{who}: a mask is stored as {lossy}, which changes labels.",
                given=str(file),
                needed="a lossless format, such as PNG",
                advice="Write the masks again from the original labels: saving this file as PNG does not bring them back.",
            )
        if picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            raise DataError(
                f"{who}: a mask says that zero is white.",
                given=f"{file}, PhotometricInterpretation 0",
                needed="stored values that are the labels: PhotometricInterpretation 1, or a palette",
            )
        raws = _raws(picture)
        picture.load()
        pixels: np.ndarray = np.array(picture)
        if not picture.mode.startswith("I") and _is_deep(picture, raws):
            raise DataError(
                f"{who}: a mask has several channels of 16 bits.", given=str(file), needed="one channel, or colours of 8 bits"
            )
        palette = None
        if picture.mode == "P":
            flat = picture.getpalette("RGB")
            palette = np.array(flat, np.uint8).reshape(-1, 3) if flat else None
        scaling = next((factor for raw, factor in _SCALED.items() if raws and raws[0].startswith(raw)), 1)
        kind, pixels = picture.mode, turned(pixels, _orientation(picture))
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    elif scaling > 1:
        pixels = pixels // scaling
    elif pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and (pixels == np.rint(pixels)).all()):
            raise DataError(f"{who}: a mask holds fractions.", given=str(file), needed="integers, the class of every pixel")
        pixels = pixels.astype(np.int64)
    return Labels(pixels, palette, kind)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply EXIF's orientation, 1 to 8, to pixels ``(H, W, ...)``."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def orientation_of(file: Path) -> int:
    """EXIF's orientation of a file; 1 if there is none."""
    try:
        with _picture(file) as picture:
            picture.load()
            return _orientation(picture)
    except (OSError, ValueError, SyntaxError):
        return 1


@contextmanager
def _picture(file: Path) -> Iterator[Any]:
    # As a stream: given a name, Pillow 13.0 maps uncompressed TIFF into memory and scrambles those that EXIF rotates by 90 degrees.
    with open(file, "rb") as stream, Image.open(stream) as picture:
        yield picture


@contextmanager
def _opened(who: str, file: Path, needed: str) -> Iterator[Any]:
    try:
        with _picture(file) as picture:
            _refuse_stacks(who, file, picture)
            yield picture
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
        raise DataError(f"{who}: a file cannot be decoded.", given=f"{file} ({error})", needed=needed) from error


def _refuse_stacks(who: str, file: Path, picture: Any) -> None:
    """Refuse a file with several pictures of the same size, as only one would be read. Thumbnails are ignored."""
    frames = getattr(picture, "n_frames", 1)
    if frames == 1 or picture.format in ("MPO", "JPEG"):
        return
    size, sizes = picture.size, []
    for number in range(frames - 1, -1, -1):
        picture.seek(number)
        sizes.append(picture.size)
    if sizes.count(size) > 1:
        raise DataError(
            f"{who}: a file holds several pictures.",
            given=f"{file}, {sizes.count(size)} of {size[1]} x {size[0]}",
            needed="one picture in each file",
        )


def _raws(picture: Any) -> list[str]:
    """How the file stores pixels, as Pillow names it (``"RGB;16B"``, ``"L;4"``); Pillow's mode does not tell, as it has 8 bits."""
    arguments = [tile[3] for tile in getattr(picture, "tile", None) or ()]
    return [str(argument[0] if isinstance(argument, tuple) and argument else argument) for argument in arguments]


def _is_deep(picture: Any, raws: list[str]) -> bool:
    """Whether a picture of integers has more than 8 bits a channel. (BMP's 16 bits are those of all three.)"""
    return picture.mode.startswith("I;16") or (picture.format in ("PNG", "TIFF") and any(";16" in raw for raw in raws))


def _orientation(picture: Any) -> int:
    """Of a picture that was loaded. Pillow turns TIFF by itself, and takes the entry away."""
    try:
        found = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata raise all kinds of errors; viewers pass over them, too
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _bytes(picture: Any) -> np.ndarray:
    """A picture of 8 bits or fewer as RGB."""
    if picture.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in picture.info:
        return _on_black(np.array(picture.convert("RGBA")), 255)
    return np.array(picture.convert("RGB"))


def _on_black(pixels: np.ndarray, full: int) -> np.ndarray:
    """Blend pixels ``(H, W, channels + alpha)`` with black."""
    colours, alpha = pixels[..., :-1], pixels[..., -1:]
    if (alpha == full).all():
        return colours
    return np.rint(colours.astype(np.float64) * alpha / full).astype(pixels.dtype)


def _deep(who: str, file: Path, picture: Any, raw: str, full: int) -> np.ndarray:
    """Values of 16 bits, or of 12 in TIFF, as float32 in [0, 1], ``(H, W, 1 or 3)``."""
    if picture.mode.startswith("I;16"):
        pixels = np.array(picture).astype(np.uint16)[..., None]
        if picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            pixels = full - pixels
    elif raw.partition(";")[0] in _COLOURS:
        pixels = _both_bytes(file, raw)
        if pixels.shape[2] in (2, 4):
            pixels = _on_black(pixels, full)
    else:
        raise DataError(
            f"{who}: an image of 16 bits is stored in a form that cannot be read without loss.",
            given=f"{file}, {picture.format}, {raw!r}",
            needed="grey, RGB or RGBA of 16 bits, not premultiplied, channels together",
            advice="Write the images as PNG.",
        )
    return pixels.astype(np.float32) / full


def _both_bytes(file: Path, raw: str) -> np.ndarray:
    """Colours of 16 bits, uint16 ``(H, W, channels)``.

    Pillow keeps only the high byte of each value. The image is decoded twice, the second time with the byte order swapped, which
    returns the low bytes.
    """
    colours, _, order = raw.partition(";16")
    if colours == "LA":
        # Like RGBA, four bytes for each pixel.
        four = _decode_raw(file, "RGBA").astype(np.uint16)
        return four[..., ::2] * 256 + four[..., 1::2]
    big = order == "B" or (order == "N" and sys.byteorder == "big")
    high, low = (_decode_raw(file, f"{colours};16{way}") for way in ("BL" if big else "LB"))
    return high.astype(np.uint16) * 256 + low


def _decode_raw(file: Path, raw: str) -> np.ndarray:
    """Decode a file as if its raw mode were ``raw``."""
    with _picture(file) as picture:
        tiles: Any = picture.tile
        for number, (codec, extents, offset, arguments) in enumerate(tiles):
            changed = (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw
            # A plain tuple in older versions of Pillow, a named one later.
            tiles[number] = getattr(type(tiles[number]), "_make", tuple)((codec, extents, offset, changed))
        return np.array(picture)


def _floats(who: str, file: Path, pixels: np.ndarray) -> np.ndarray:
    low, high = (float(pixels.min()), float(pixels.max())) if np.isfinite(pixels).all() else (np.nan, np.nan)
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"{who}: an image of floats has values outside [0, 1].",
            given=f"{file}, {'values that are not finite' if np.isnan(low) else f'{low:g} .. {high:g}'}",
            needed="values in [0, 1], as eval_transforms and train_transforms take them",
            advice="Scale the images by the range that the whole set shares, not each by its own, and write them again.",
        )
    return pixels.astype(np.float32)[..., None]
