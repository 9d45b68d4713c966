"""A convolution of a label map by lookup against one-hot codes and ``conv2d``: ``python -m benchmarks.label_conv``.

150 classes (and void), 512 x 512, 96 maps, 3 x 3. The labels are regions of 16 x 16 pixels; with ``--noise`` every pixel is drawn by itself, the
worst case. One-hot codes are made as most people do, ``F.one_hot(...).permute(...).float()``. Memory is what a process grows by at its
peak, less the results themselves (output and gradients).
"""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import grown_by, name_of, parser, peak_bytes, race, write
from feataug.generation.layers.label_conv import label_conv2d
from feataug.training.device import keep_freed_memory

CLASSES, SIZE, MAPS = 151, 512, 96


def draw(noise: bool, device: str) -> Tensor:
    """A label map."""
    rng = torch.Generator().manual_seed(0)
    cell = 1 if noise else 16
    coarse = torch.randint(CLASSES, (1, 1, SIZE // cell, SIZE // cell), generator=rng).float()
    return F.interpolate(coarse, (SIZE, SIZE), mode="nearest")[:, 0].long().to(device)


def one_hot(labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The other side."""
    return F.conv2d(F.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float(), weight, bias, padding=1)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--noise", action="store_true")
    options.add_argument("--side", choices=("ours", "other"), help="measure memory of one side, for the script itself")
    args = options.parse_args()
    torch.manual_seed(0)
    labels = draw(args.noise, args.device)
    weight = torch.randn(MAPS, CLASSES, 3, 3, device=args.device, requires_grad=True)
    bias = torch.randn(MAPS, device=args.device, requires_grad=True)
    grad = torch.randn(1, MAPS, SIZE, SIZE, device=args.device).contiguous(memory_format=torch.channels_last)
    sides = {"ours": label_conv2d, "other": one_hot}

    def train(side: str) -> None:
        torch.autograd.grad(sides[side](labels, weight, bias), (weight, bias), grad)

    if args.side:
        # Once on a corner: libraries that are loaded when they are first used are not what is measured.
        corner = sides[args.side](labels[:, :16, :16], weight, bias)
        torch.autograd.grad(corner, (weight, bias), torch.ones_like(corner))
        results = 4 * (MAPS * SIZE * SIZE + weight.numel() + bias.numel())
        print(json.dumps({"bytes": max(0, grown_by(lambda: train(args.side), args.device) - results)}))
        return
    keep_freed_memory()
    about = {
        "device": name_of(args.device),
        "shape": [1, CLASSES, SIZE, SIZE, MAPS],
        "labels": "noise" if args.noise else "regions of 16 x 16",
    }
    with torch.no_grad():
        torch.testing.assert_close(label_conv2d(labels, weight, bias), one_hot(labels, weight, bias), rtol=1e-4, atol=1e-4)
        forward = race(
            lambda: label_conv2d(labels, weight, bias),
            lambda: one_hot(labels, weight, bias),
            seconds=args.seconds,
            device=args.device,
            faster=True,
        )
    both = race(lambda: train("ours"), lambda: train("other"), seconds=args.seconds, device=args.device, faster=True)
    outputs = MAPS * SIZE * SIZE
    floor = {
        "output_megabytes": round(4 * outputs / 1e6, 1),
        "lookup_gadds": round(9 * outputs / 1e9, 3),
        "one_hot_gmacs": round(9 * CLASSES * outputs / 1e9, 2),
    }
    ours, other = (peak_bytes("label_conv", side, args.device) for side in ("ours", "other"))
    lines = [
        {"claim": "label_conv_forward"} | forward | {"bound": "at least 30", "floor": floor} | about,
        {"claim": "label_conv_train"} | both | {"bound": "at least 4"} | about,
        {"claim": "label_conv_memory", "ours": ours, "other": other, "ratio": round(ours / other, 3), "bound": "at most 0.1"}
        | about,
    ]
    write("label_conv" + ("_noise" if args.noise else ""), args.device, lines)


if __name__ == "__main__":
    main()
