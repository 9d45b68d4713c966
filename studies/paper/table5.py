"""Table 5: additional masks, one to three of the training set's, at a single scale and (``--several-scales``) at several.

    python -m studies.paper.table5 --data DIR --dataset camvid [--unlabelled FOLDER] [--synscapes FOLDER] [--several-scales] [--quick]

- ``masks T+V``: the validation set's masks, without their images (the arm of Table 1);
- ``rendered``: masks of the embedded scenes, with classes matched by name (the paper takes Synscapes: ``--synscapes FOLDER``);
- ``pseudo``: a folder of unlabelled images, or the images that ``--fraction`` leaves out, labelled by the base model (posterior above 0.7,
  holes filled by the nearest label);
- ``left-out``: the true masks of the images that ``--fraction`` leaves out, the upper bound of pseudo labels;
- ``composed``: rare objects of some training masks pasted into others (ours).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from feataug import pseudo_masks
from feataug.data import Images, Scenes, Synscapes, eval_transforms
from studies.lib.variants import Variants, prepare_study, print_comparison

# The names that data sets give to the embedded scenes' classes. A class that a data set lacks becomes void.
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


def unlabelled(study: Variants) -> Any:
    """The images of ``--unlabelled``; with ``--fraction`` those that were left out; ``None`` where there are neither."""
    if study.args.unlabelled is not None:
        return Images(study.args.unlabelled, transforms=eval_transforms(study.size))
    if study.args.fraction < 1:
        return [image for image, _ in study.left_out(study.plain.transforms)]
    return None


def pseudo(study: Variants, images: Any) -> Any:
    """The base model's labels of unlabelled images; they are a stage, stored for further runs."""
    file = study.output / "pseudo.safetensors"

    def run() -> dict[str, Any]:
        masks = pseudo_masks(study.load_base().to(study.device), torch.utils.data.DataLoader(images, study.whole))
        save_file({f"{number:06d}": mask.to(torch.uint8) for number, mask in enumerate(masks)}, file)
        return {"images": len(masks)}

    study.stage("pseudo", run, study.base_settings() | {"unlabelled": str(study.args.unlabelled)})
    return study.crops([mask.long() for _, mask in sorted(load_file(file).items())])


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--unlabelled", type=Path, help="a folder of unlabelled images for the arm of pseudo labels")
    parser.add_argument("--synscapes", type=Path, help="Synscapes' folder, in place of the embedded scenes; needs Cityscapes' classes")
    parser.add_argument("--several-scales", action="store_true", help="also measure every arm at six scales and mirrored")


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepare_study("table5", __doc__, add_options=add_options, argv=argv)


def arms(study: Variants) -> dict[str, Any]:
    sources = {
        "masks T+V": study.crops(study.val),
        "rendered masks": rendered(study),
        "composed masks": study.masks("both"),
    }
    images = unlabelled(study)
    if images is not None:
        sources["pseudo masks"] = pseudo(study, images)
    if study.args.fraction < 1:
        sources["left-out masks"] = study.crops(study.left_out(study.train.transforms))
    return {name: study.variant(masks=study.mixed_with(source)) for name, source in sources.items() if source is not None}


def run(study: Variants) -> None:
    variants = arms(study)
    result = study.compare(variants)
    print_comparison(study, result)
    if study.args.several_scales:
        study.write({"comparison": result, "several_scales": study.several_scales(["control", "feataug", *variants])})


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
