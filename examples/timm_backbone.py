"""A timm backbone as the encoder of your own model, trained with feataug in a plain PyTorch loop.

    python examples/timm_backbone.py [--backbone resnet18] [--pretrained] [--epochs 8]

Embedded scenes stand in for your data. Everything between the lines marked "feataug" is what you would add to your own loop.
"""

import argparse

import timm
import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms


class Head(nn.Module):
    """Your decoder: features of the backbone and the images' size to logits."""

    def __init__(self, channels, num_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, num_classes, 1)
        )

    def forward(self, features, image_size):
        return F.interpolate(self.layers(features[-1]), image_size, mode="bilinear", align_corners=False)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18", help="any timm model with features_only")
    parser.add_argument("--pretrained", action="store_true", help="ImageNet weights from the hub")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128))
    parser.add_argument("--epochs", type=int, default=8, help="of the base; the generator takes as many, the mixed training half")
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    size = tuple(args.size)
    train_set = Scenes(args.images, size, seed=0, transforms=train_transforms(size, scale=(0.75, 1.5)))
    val_set = Scenes(max(args.images // 4, 1), size, seed=1, transforms=eval_transforms())
    loader = seeded_loader(train_set, args.batch_size)
    val_loader = seeded_loader(val_set, args.batch_size, shuffle=False)

    options = {"features_only": True, "out_indices": (2,)}  # stride 8
    encoder = timm.create_model(args.backbone, pretrained=args.pretrained, **options)
    decoder = Head(encoder.feature_info.channels()[-1], train_set.num_classes)

    # feataug: join the two halves. `cut.model` is the whole model, for your optimizer and your evaluation.
    cut = feataug.split(encoder=encoder, decoder=decoder)
    model = cut.model
    print(cut)

    def train(epochs, step):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        model.train()
        for _ in range(epochs):
            for images, masks in loader:
                loss = step(images, masks)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return feataug.evaluate(model, val_loader, train_set.num_classes)["miou"]

    print(f"base: mIoU {train(args.epochs, lambda x, y: F.cross_entropy(model(x), y, ignore_index=255)):.2f}")

    # feataug: a generator for this cut, and a mixer.
    generator = feataug.FeatureGenerator(train_set.num_classes, cut.spec)
    config = feataug.GeneratorConfig(num_images=args.epochs * args.images, ema_images=200)
    score = feataug.GeneratorTrainer(generator, cut, config).fit(loader, val_loader)[-1]
    print(f"recognition score: real {score['real']['miou']:.2f}, synthetic {score['synthetic']['miou']:.2f}")
    hard = feataug.HardNegativeSampler(feataug.DatasetMasks(train_set), refresh_every=10)
    mixer = feataug.FeatureMixer(generator, hard, ratio=0.3)

    def mixed_step(images, masks):
        with mixer.on(cut, masks) as batch:
            out = model(images)
        return mixer.loss(out, batch)

    print(f"with synthetic features: mIoU {train(max(args.epochs // 2, 1), mixed_step):.2f}")


if __name__ == "__main__":
    main()
