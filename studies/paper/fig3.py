"""Fig. 3 and 4: images, masks and predictions before and after, where they differ most.

    python -m studies.paper.fig3 --data DIR --dataset camvid [--rows 6] [--quick]

Writes ``OUTPUT/fig3.png``, which shows the data set's images and therefore stays with the runs, and each arm's pixel accuracy on every image.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from feataug.reporting.plots import color_masks, save_grid
from studies.lib.variants import Variants, prepare_study


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=6)


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepare_study("fig3", __doc__, add_options=add_options, argv=argv)


def run(study: Variants) -> None:
    study.compare({})
    seed = study.args.seeds[0]
    models = {"control": study.load_arm("control", seed), "feataug": study.load_arm("feataug", seed)}
    images, masks = zip(*[study.val[index] for index in range(len(study.val))], strict=True)
    predictions: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for name, trained in models.items():
            model = study.inference(trained).to(study.device)
            predictions[name] = [model(image[None].to(study.device)).argmax(1)[0].cpu() for image in images]
    accuracy = {
        name: [float((p == m)[m != 255].float().mean()) for p, m in zip(found, masks, strict=True)]
        for name, found in predictions.items()
    }
    gains = torch.tensor(accuracy["feataug"]) - torch.tensor(accuracy["control"])
    # As many of the best as of the worst: gains alone would flatter.
    order = gains.argsort(descending=True).tolist()
    half = min(study.args.rows, len(order)) // 2
    shown = order[:half] + order[-half:]
    palette = study.val.palette
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    columns = {
        "image": torch.stack([images[i] * std[:, None, None] + mean[:, None, None] for i in shown]).clamp(0, 1).movedim(1, -1),
        "mask": color_masks(torch.stack([masks[i] for i in shown]), palette),
    }
    for name in models:
        columns[name] = color_masks(torch.stack([predictions[name][i] for i in shown]), palette)
    path = save_grid(study.output / "fig3.png", columns)
    figures = {name: [round(100 * value, 2) for value in values] for name, values in accuracy.items()}
    study.write({"pixel_acc_of_each_image": figures, "better": int((gains > 0).sum()), "worse": int((gains < 0).sum())})
    print(
        f"{int((gains > 0).sum())} images better, {int((gains < 0).sum())} worse, median {100 * float(gains.median()):+.2f} points; {path}"
    )


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
