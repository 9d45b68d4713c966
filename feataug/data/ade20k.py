"""ADE20K's scene parsing benchmark (150 classes), read from its official folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from feataug.data.dataset_root import find_root
from feataug.data.folders import MaskedImages
from feataug.errors import ConfigError, DataError

CLASSES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet", "sidewalk", "person", "earth",
    "door", "table", "mountain", "plant", "curtain", "chair", "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug",
    "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column",
    "signboard", "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs",
    "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet",
    "flower", "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth", "television",
    "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle", "buffet", "poster", "stage", "van",
    "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything", "swimming pool", "stool", "barrel", "basket", "waterfall", "tent",
    "bag", "minibike", "cradle", "oven", "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake",
    "dishwasher", "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier",
    "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)  # fmt: skip
FOLDER = "ADEChallengeData2016"
SPLITS = {"train": "training", "val": "validation"}
# Label 0 is "other".
IDS = {number + 1: number for number in range(len(CLASSES))}


class ADE20K(MaskedImages):
    """ADE20K, 150 classes, images of many sizes: 20210 for training and 2000 for validation.

    Args:
        root: ``ADEChallengeData2016``, or the folder that holds it: ``images/training``, ``images/validation`` with JPEG images,
            ``annotations/training``, ``annotations/validation`` with label maps. ``objectInfo150.txt`` may be absent.
        split: ``"train"`` or ``"val"``; the test images have no masks.
        transforms: ``(image, mask) -> (image, mask)``, as torchvision v2's joint transforms. Batches need transforms that make all
            sizes equal.

    Each item is a uint8 image ``(3, H, W)`` and an int64 mask ``(H, W)``: labels 1 .. 150 become 0 .. 149, and 0 (other) becomes
    255. ``classes`` are the first names of each class in ``objectInfo150.txt``; the package has the same names for when the file is
    absent.

    Raises:
        ConfigError: unknown split.
        MissingDataError, DataError: as for ``MaskedImages``; or ``objectInfo150.txt`` cannot be parsed.

    Source:
        Zhou et al. (2017), SceneParse150.
    """

    def __init__(self, root: str | Path, split: str = "train", *, transforms: Callable[..., Any] | None = None) -> None:
        if split not in tuple(SPLITS):
            raise ConfigError("ADE20K: no such split.", given=repr(split), needed='"train" or "val"')
        root = Path(root)
        root = root / FOLDER if (root / FOLDER).is_dir() else root
        parts = [f"{kind}/{SPLITS[split]}" for kind in ("images", "annotations")]
        root = find_root("ADE20K", root, parts)
        super().__init__(root / parts[0], root / parts[1], _classes(root), ids=IDS, void=0, transforms=transforms)


def _classes(root: Path) -> tuple[str, ...]:
    """First names of the classes, from ``objectInfo150.txt`` if present: tab-separated, number first and names last."""
    file = root / "objectInfo150.txt"
    if not file.is_file():
        return CLASSES
    lines = file.read_text(errors="replace").splitlines()
    rows = [line.split("\t") for line in lines[1:] if line.strip()]
    names = {row[0].strip(): row[-1].split(",")[0].strip() for row in rows}
    wanted = [str(number) for number in IDS]
    if sorted(names) != sorted(wanted) or not all(names.values()):
        raise DataError(
            "ADE20K: the names of the classes cannot be read.",
            given=f"{file}, {len(rows)} lines below the first",
            needed=f"classes 1 .. {len(wanted)}, one per line, number first and names last, separated by tabs",
            advice="Download the file again, or remove it: the names are also part of the package.",
        )
    return tuple(names[number] for number in wanted)
