"""A comparison reads crops of one size to train on, and whole images of any size to measure on."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from studies.lib.comparison import Comparison
from studies.lib.setups import SETUPS, arguments, parse

SIZES = [(40, 60), (60, 40), (48, 48)]
FILES = {
    "cityscapes": (
        "leftImg8bit/{0}/ulm/{1}_leftImg8bit.png",
        "gtFine/{0}/ulm/{1}_gtFine_labelIds.png",
        {"train": "train", "val": "val"},
    ),
    "ade20k": ("images/{0}/{1}.jpg", "annotations/{0}/{1}.png", {"train": "training", "val": "validation"}),
}


@pytest.mark.parametrize(("dataset", "half"), [("cityscapes", False), ("ade20k", False), ("cityscapes", True)])
def test_crops_and_whole_images(tmp_path, dataset, half):
    *names, splits = FILES[dataset]
    for split in splits.values():
        for number, size in enumerate(SIZES if dataset == "ade20k" else SIZES[:1] * 3):
            for name, pixels in zip(names, (np.full((*size, 3), 99, np.uint8), np.full(size, 11, np.uint8)), strict=True):
                file = tmp_path / name.format(split, number)
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    options = {"data": tmp_path, "dataset": dataset, "eval_split": "val", "fraction": 1.0, "output": tmp_path / "out", "device": "cpu"}
    study = Comparison(SimpleNamespace(**options, quick=False, half=half, in_memory=half))
    images, masks = next(iter(study.loader(0)))
    assert images.shape == (3, 3, *(side // (1 + half) for side in SETUPS[dataset].size))
    assert {"cityscapes": 2, "ade20k": 10}[dataset] in masks.unique().tolist()
    for loader in (study.val_loader, study.plain_loader(), study.plain_subset_loader()):
        assert sum(len(images) for images, _ in loader) == 3
        assert all(torch.is_tensor(images) and images.shape[-2:] == masks.shape[-2:] for images, masks in loader)
    assert (tuple(next(iter(study.val_loader))[1].shape[-2:]) == (20, 30)) == half


@pytest.mark.parametrize("quick", [False, True])
def test_a_result_file_is_named_after_the_options_unless_it_is_given(quick):
    words = ["--data", "d", "--dataset", "camvid", "--half", *["--quick"][: int(quick)]]
    named = parse(arguments(""), "teaching", words, lambda args: "-vit")
    folder = "runs/quick-camvid-half/results/teaching" if quick else "studies/results/teaching-camvid-half"
    assert named.result == Path(f"{folder}-vit.json")
    assert parse(arguments(""), "teaching", words).result == Path(f"{folder}.json")
    assert parse(arguments(""), "teaching", [*words, "--result", "mine.json"], lambda args: "-vit").result == Path("mine.json")
