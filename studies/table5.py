"""Table 5: additional masks, one to three of the training set's, at a single scale and (``--several-scales``) at several.

    python studies/table5.py --data DIR --dataset camvid [--unlabelled FOLDER] [--synscapes FOLDER] [--several-scales] [--quick]

- ``val``: the validation set's masks, without their images;
- ``rendered``: masks of the embedded scenes, classes matched by name (the paper: Synscapes; ``--synscapes FOLDER`` where one has it);
- ``pseudo``: a folder of unlabelled images, labelled by the base model (posterior above 0.7, holes filled by the nearest label);
- ``composed``: rare objects of some training masks pasted into others (ours).
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from variants import Variants, prepared, told

from feataug import pseudo_masks
from feataug.data import Images, Scenes, Synscapes, eval_transforms

# The embedded scenes' classes by the names that data sets give them; what a set lacks becomes void.
NAMES = {
    "building": ("building", "far objects"),
    "road": ("road", "drivable"),
    "sidewalk": ("sidewalk", "pavement", "non-drivable"),
    "vegetation": ("vegetation", "tree", "far objects"),
    "car": ("car", "vehicles"),
    "pole": ("pole", "road-side objects"),
    "sign": ("traffic sign", "sign", "signsymbol", "road-side objects"),
    "pedestrian": ("pedestrian", "person", "living things"),
    "bicyclist": ("bicyclist", "rider", "living things"),
    "sky": ("sky",),
}


def rendered(study: Variants) -> Any:
    """Synscapes' masks, or the embedded scenes' in the classes of the study's data set; ``None`` if it has fewer than half of them."""
    if study.args.synscapes is not None:
        return study.crops(Synscapes(study.args.synscapes))
    classes = [name.lower() for name in study.classes]
    table = torch.full((256,), 255)
    for number, name in enumerate(Scenes.classes):
        found = [classes.index(other) for other in NAMES.get(name.lower(), ()) if other in classes]
        if found:
            table[number] = found[0]
    if int((table != 255).sum()) * 2 < len(Scenes.classes):
        return None
    scenes = Scenes(500 if not study.args.quick else 20, study.size, seed=7)
    return study.crops([table[torch.as_tensor(scenes.mask(index))] for index in range(len(scenes))])


def pseudo(study: Variants) -> Any:
    """Masks that the base model gives to unlabelled images."""
    images = Images(study.args.unlabelled, transforms=eval_transforms(study.size))
    loader = torch.utils.data.DataLoader(images, study.batch)
    return study.crops(pseudo_masks(study.trained(), loader))


def extra(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--unlabelled", type=Path, help="a folder of images; without one, there is no arm of pseudo labels")
    parser.add_argument("--synscapes", type=Path, help="Synscapes' folder, for Cityscapes' classes, instead of the embedded scenes")
    parser.add_argument("--several-scales", action="store_true", help="measure every arm at six scales and mirrored, too")


def main() -> None:
    study = prepared("table5", __doc__, extra=extra)
    sources = {
        "val masks": study.crops(study.val),
        "rendered masks": rendered(study),
        "composed masks": study.masks("both"),
    }
    if study.args.unlabelled is not None:
        sources["pseudo masks"] = pseudo(study)

    arms = {name: study.variant(masks=study.with_others(source)) for name, source in sources.items() if source is not None}
    result = study.compare(arms)
    told(study, result)
    if study.args.several_scales:
        study.write({"comparison": result, "several_scales": study.several_scales(["control", "feataug", *arms])})


if __name__ == "__main__":
    main()
