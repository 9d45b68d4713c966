"""What ``feataug doctor`` found in the splits of a data set: as text, as plain values, and as one HTML page with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from feataug import __version__
from feataug.data.label_counts import evenly_spaced
from feataug.data.survey import Survey
from feataug.errors import FeatAugError
from feataug.io.atomic import explain_write_errors
from feataug.reporting.page.pictures import Picture, image_picture, label_picture
from feataug.reporting.page.table import Table

# Rows or columns of a picture on the page, whichever are more.
_SIDE = 240
_PICTURES = 4
# Sizes that are listed; the rest are counted.
_SIZES = 4


def sizes_text(found: Survey) -> str:
    """The most frequent sizes, rows x columns."""
    listed = [f"{rows} x {columns} ({count})" for (rows, columns), count in found.sizes.most_common(_SIZES)]
    more = len(found.sizes) - len(listed)
    return ", ".join(listed) + (f" and {more} more" if more > 0 else "") or "none"


def class_rows(found: Survey, classes: Sequence[str]) -> list[tuple[str, str, str]]:
    """Each class that occurs or should, and void: its name, its share of the pixels, and the samples that hold it."""
    total = max(int(found.pixels.sum()), 1)
    good = found.read - found.wrong
    return [
        (name, f"{100 * int(pixels) / total:.2f} %", f"{int(samples)} of {good}")
        for name, pixels, samples in zip([*classes, "void"], found.pixels, found.samples, strict=True)
    ]


def warnings_of(found: Survey, classes: Sequence[str]) -> list[str]:
    """What a user should know before training."""
    seen = "" if found.complete else f" in the {found.read} samples that were read"
    texts = []
    if found.wrong:
        texts.append(f"{found.wrong} of {found.read} samples cannot be read.")
    if found.absent:
        texts.append(f"Classes without a pixel{seen}: {', '.join(classes[number] for number in found.absent)}.")
    if len(found.sizes) > 1:
        texts.append("Samples differ in size: batches need transforms that make all alike, such as --size.")
    return texts


def as_text(split: str, found: Survey, classes: Sequence[str]) -> str:
    """The findings of one split for the terminal."""
    rows = class_rows(found, classes)
    width = max(len(name) for name, _, _ in rows) + 2
    read = "all read" if found.complete else f"{found.read} of them read"
    lines = [f"{split}: {found.images} images with masks, {read}; rows x columns: {sizes_text(found)}"]
    lines += [f"  {name:<{width}}{share:>9} of pixels, in {samples} samples" for name, share, samples in rows]
    lines += [f"  passed over in {folder}: {text}" for folder, text in found.passed_over.items()]
    lines += [f"  ! {text}" for text in warnings_of(found, classes)]
    for error in found.errors:
        lines += [f"    {line}" for line in error.splitlines()]
    return "\n".join(lines)


def as_result(found: Mapping[str, Survey], readers: Mapping[str, Any]) -> dict[str, Any]:
    """The findings as plain values, for ``result.json``."""
    return {
        split: {
            "images": seen.images,
            "read": seen.read,
            "wrong": seen.wrong,
            "errors": seen.errors,
            "sizes": [[rows, columns, count] for (rows, columns), count in seen.sizes.most_common()],
            "pixels": dict(zip([*readers[split].classes, "void"], seen.pixels.tolist(), strict=True)),
            "samples": dict(zip([*readers[split].classes, "void"], seen.samples.tolist(), strict=True)),
            "passed_over": {str(folder): text for folder, text in seen.passed_over.items()},
        }
        for split, seen in found.items()
    }


def pictures_of(reader: Any) -> list[list[Picture]]:
    """Some samples as small pictures: image, and mask in the classes' colours."""
    rows: list[list[Picture]] = []
    for index in evenly_spaced(reader, _PICTURES):
        try:
            image, mask = reader[index]
        except FeatAugError:
            continue
        step = max(1, -(-max(mask.shape) // _SIDE))
        pixels = image.float() / (255 if image.dtype == torch.uint8 else 1)
        small = F.avg_pool2d(pixels[None], step, ceil_mode=True)[0] if step > 1 else pixels
        sample = f"sample {index + 1}"
        shown = (255 * small.clamp(0, 1)).byte().permute(1, 2, 0).contiguous()
        rows.append([image_picture(shown, "image", sample), label_picture(mask[::step, ::step], "mask", sample, list(reader.palette))])
    return rows


def write_doctor_page(
    path: Path, found: Mapping[str, Survey], pictures: Mapping[str, list[list[Picture]]], readers: Mapping[str, Any]
) -> Path:
    """Write the page.

    Args:
        path: The file.
        found: The findings of each split.
        pictures: ``pictures_of`` each split.
        readers: The reader of each split, for its classes and palette.

    Raises:
        CheckpointError: the file cannot be written.
    """
    from feataug.reporting.page import environment

    splits = [
        {
            "name": split,
            "images": seen.images,
            "read": seen.read,
            "sizes": sizes_text(seen),
            "table": Table(f"Classes of {split}", ("class", "share of the pixels", "samples"), class_rows(seen, readers[split].classes)),
            "warnings": warnings_of(seen, readers[split].classes),
            "errors": seen.errors,
            "passed_over": [(str(folder), text) for folder, text in seen.passed_over.items()],
            "pictures": pictures[split],
            "colors": list(zip(readers[split].classes, readers[split].palette, strict=True)),
        }
        for split, seen in found.items()
    ]
    text = environment().get_template("doctor.html.jinja").render(splits=splits, version=__version__)
    path.parent.mkdir(parents=True, exist_ok=True)
    with explain_write_errors(path):
        path.write_text(text, encoding="utf-8", errors="replace")
    return path
