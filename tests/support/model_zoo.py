"""Architectures from five ecosystems, small and with random weights, and the places where they are cut.

``ZOO[name]`` is ``(make, size, cuts)``. A cut that leaks is listed in ``LEAKS`` with the layers that the error must name.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves  # noqa: F401

CLASSES = 5


def have(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


# An own encoder and decoder, and code that reads the batch size after the cut.


class OwnPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.decoder = nn.Sequential(nn.Conv2d(12, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, CLASSES, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.decoder(self.encoder(images))
        return F.interpolate(logits, images.shape[-2:]).view(images.shape[0], CLASSES, *images.shape[-2:])


class UNet(nn.Module):
    """Written as people write it: skips kept in a list, the forward pass all in one."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(8, 10, 3, 2, 1)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(8), nn.BatchNorm2d(10)])
        self.up = nn.ModuleList([nn.Conv2d(18, 8, 3, 1, 1), nn.Conv2d(14, 6, 3, 1, 1)])
        self.head = nn.Conv2d(6, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        skips, hidden = [], images
        for conv, norm in zip(self.down, self.norms, strict=True):
            hidden = F.relu(norm(conv(hidden)))
            skips.append(hidden)
        for conv, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            hidden = F.relu(conv(torch.cat([F.interpolate(hidden, skip.shape[-2:]), skip], 1)))
        return self.head(hidden)


class UNetOfModules(UNet):
    """The same, with the skips' activations as modules, so that a cut can name them."""

    def __init__(self) -> None:
        super().__init__()
        self.acts = nn.ModuleList(nn.ReLU() for _ in self.down)

    def forward(self, images: Tensor) -> Tensor:
        skips, hidden = [], images
        for conv, norm, act in zip(self.down, self.norms, self.acts, strict=True):
            hidden = act(norm(conv(hidden)))
            skips.append(hidden)
        for conv, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            hidden = F.relu(conv(torch.cat([F.interpolate(hidden, skip.shape[-2:]), skip], 1)))
        return self.head(hidden)


# The shape of mmsegmentation: backbone, neck, decode_head, auxiliary_head; a loss or logits by ``mode``.


class Stages(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 12, 16, 20)) -> None:
        super().__init__()
        previous, stages = 3, []
        for width in widths:
            stages.append(
                nn.Sequential(nn.Conv2d(previous, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
            )
            previous = width
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return tuple(maps)


class Neck(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 12, 16, 20), width: int = 10) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(w, width, 1) for w in widths)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        sides = [conv(x) for conv, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(sides) - 1, 0, -1):
            sides[i - 1] = sides[i - 1] + F.interpolate(sides[i], sides[i - 1].shape[-2:])
        return tuple(sides)


class DecodeHead(nn.Module):
    def __init__(self, widths: tuple[int, ...], indices: tuple[int, ...]) -> None:
        super().__init__()
        self.indices = indices
        self.convs = nn.ModuleList(nn.Sequential(nn.Conv2d(widths[i], 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU()) for i in indices)
        self.conv_seg = nn.Conv2d(8, CLASSES, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        size = maps[self.indices[0]].shape[-2:]
        return self.conv_seg(sum(F.interpolate(conv(maps[i]), size) for conv, i in zip(self.convs, self.indices, strict=True)))


class EncoderDecoderMM(nn.Module):
    def __init__(self, *, neck: bool = False, auxiliary: bool = False, indices: tuple[int, ...] = (3,)) -> None:
        super().__init__()
        self.backbone = Stages()
        self.neck = Neck() if neck else None
        self.decode_head = DecodeHead((10,) * 4 if neck else (8, 12, 16, 20), indices)
        self.auxiliary_head = DecodeHead((10,) * 4 if neck else (8, 12, 16, 20), (2,)) if auxiliary else None

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor") -> Any:
        maps = self.backbone(inputs)
        if self.neck is not None:
            maps = self.neck(maps)
        logits = self.decode_head(maps)
        if mode == "tensor":
            return logits
        assert labels is not None
        losses = {"decode.loss": F.cross_entropy(F.interpolate(logits, labels.shape[-2:]), labels)}
        if self.auxiliary_head is not None:
            logits = self.auxiliary_head(maps)
            losses["aux.loss"] = F.cross_entropy(F.interpolate(logits, labels.shape[-2:]), labels)
        return losses


# timm encoders with a head of the user's own.


class TimmFeatures(nn.Module):
    """``features_only`` and a head that reads the last two maps."""

    def __init__(self, name: str, nhwc: bool = False, **kwargs: Any) -> None:
        super().__init__()
        import timm

        self.encoder = timm.create_model(name, features_only=True, **kwargs)
        self.nhwc = nhwc
        channels = self.encoder.feature_info.channels()[-2:]
        self.heads = nn.ModuleList(nn.Conv2d(c, CLASSES, 1) for c in channels)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.encoder(images)[-2:]
        if self.nhwc:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        return sum(F.interpolate(head(x), images.shape[-2:]) for head, x in zip(self.heads, maps, strict=True))


class TimmViT(nn.Module):
    """A ViT and a linear head on its patch tokens."""

    def __init__(self, name: str = "vit_tiny_patch16_224", **kwargs: Any) -> None:
        super().__init__()
        import timm

        small = {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": 0}
        self.vit = timm.create_model(name, **(small | kwargs))
        self.head = nn.Conv2d(self.vit.embed_dim, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]
        side = int(tokens.shape[1] ** 0.5)
        return F.interpolate(self.head(tokens.transpose(1, 2).unflatten(2, (side, side))), images.shape[-2:])


def smp_model(name: str, encoder: str = "resnet18", **kwargs: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import segmentation_models_pytorch as smp

        # ResNet-18 with one block a stage: most of what the tests take is its convolutions.
        smp.encoders.encoders["resnet18"]["params"]["layers"] = [1, 1, 1, 1]
        return getattr(smp, name)(encoder, encoder_weights=None, classes=CLASSES, **kwargs)

    return make


def torchvision_model(name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision

        return getattr(torchvision.models.segmentation, name)(weights=None, weights_backbone=None, num_classes=CLASSES, **kwargs)

    return make


def transformers_model(make: Callable[[Any], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        return make(transformers)

    return build


NARROW: dict[str, Any] = {"decoder_channels": (32, 16, 16, 8, 8)}
SLIM: dict[str, Any] = {"decoder_fusion_channels": 16, "decoder_intermediate_channels": (16, 16, 16, 16)}
UPER: dict[str, Any] = {"hidden_size": 16, "auxiliary_channels": 8, "pool_scales": [1, 2]}
SWIN: dict[str, Any] = {"img_size": 64, "window_size": 4, "embed_dim": 12, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 4)}


def _segformer(tf: Any) -> nn.Module:
    small = {
        "hidden_sizes": [8, 16, 20, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 4, 4],
        "decoder_hidden_size": 24,
    }
    return tf.SegformerForSemanticSegmentation(tf.SegformerConfig(num_labels=CLASSES, classifier_dropout_prob=0.0, **small))


def _upernet(tf: Any, backbone: Any) -> nn.Module:
    config = tf.UperNetConfig(
        backbone_config=backbone,
        num_labels=CLASSES,
        hidden_size=16,
        auxiliary_in_channels=20,
        auxiliary_channels=8,
        pool_scales=[1, 2],
    )
    return tf.UperNetForSemanticSegmentation(config)


def _convnext(tf: Any) -> Any:
    return tf.ConvNextConfig(
        hidden_sizes=[8, 12, 20, 24], depths=[1, 1, 2, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )


def _swin(tf: Any) -> Any:
    return tf.SwinConfig(
        image_size=64, embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 4], window_size=4, drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


def _upernet_swin(tf: Any) -> nn.Module:
    config = tf.UperNetConfig(
        backbone_config=_swin(tf),
        num_labels=CLASSES,
        hidden_size=16,
        auxiliary_in_channels=48,
        auxiliary_channels=8,
        pool_scales=[1, 2],
    )
    return tf.UperNetForSemanticSegmentation(config)


def _vit_config(tf: Any, **kwargs: Any) -> dict[str, Any]:
    return {
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 32,
        "image_size": 64,
        "patch_size": 16,
    } | kwargs


def _dpt(tf: Any) -> nn.Module:
    config = tf.DPTConfig(
        **_vit_config(tf), backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 12, 16, 20], fusion_hidden_size=16, num_labels=CLASSES,
        semantic_classifier_dropout=0.0, readout_type="ignore", use_auxiliary_head=False, hidden_dropout_prob=0.0,
    )  # fmt: skip
    return tf.DPTForSemanticSegmentation(config)


def _beit(tf: Any) -> nn.Module:
    config = tf.BeitConfig(
        **_vit_config(tf), out_indices=[1, 2, 3, 4], pool_scales=[1, 2], num_labels=CLASSES, auxiliary_channels=8, use_auxiliary_head=False,
        use_relative_position_bias=True, drop_path_rate=0.0,
    )  # fmt: skip
    return tf.BeitForSemanticSegmentation(config)


def _mobilevit(tf: Any) -> nn.Module:
    config = tf.MobileViTConfig(
        image_size=64, hidden_sizes=[12, 16, 20], neck_hidden_sizes=[8, 8, 12, 16, 16, 20, 24], num_labels=CLASSES, aspp_out_channels=16,
        aspp_dropout_prob=0.0, hidden_dropout_prob=0.0, num_attention_heads=2, atrous_rates=[2, 4, 6],
    )  # fmt: skip
    return tf.MobileViTForSemanticSegmentation(config)


def _mobilenet(tf: Any) -> nn.Module:
    return tf.MobileNetV2ForSemanticSegmentation(tf.MobileNetV2Config(depth_multiplier=0.25, image_size=64, num_labels=CLASSES))


def _data2vec(tf: Any) -> nn.Module:
    config = tf.Data2VecVisionConfig(
        **_vit_config(tf), out_indices=[1, 2, 3, 4], pool_scales=[1, 2], num_labels=CLASSES, use_auxiliary_head=False, drop_path_rate=0.0
    )  # fmt: skip
    return tf.Data2VecVisionForSemanticSegmentation(config)


def pspnet(**kwargs: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from feataug.models import PSPNet

        small = {"channels": (8, 16, 24, 32), "stem_width": 8}
        return PSPNet("resnet10t", CLASSES, output_stride=8, width=16, dropout=0.0, encoder_kwargs=small, **kwargs)

    return make


Entry = tuple[Callable[[], nn.Module], int, tuple[Any, ...]]

OWN: dict[str, Entry] = {
    "own pair": (OwnPair, 64, ("encoder", "encoder.2", "decoder:input", "encoder.4:pre_act")),
    "own unet": (UNetOfModules, 64, (["acts.0", "acts.1", "acts.2"], ["acts.0", "acts.1"], "acts.0", "up.1")),
    "pspnet": (pspnet(), 64, ("encoder", "encoder.layer3", "encoder.layer3.0:pre_act")),
    "pspnet aux": (pspnet(auxiliary=True), 64, ("encoder",)),
    "mmseg fcn": (EncoderDecoderMM, 64, ("backbone", "backbone.stages.2")),
    "mmseg fcn aux": (lambda: EncoderDecoderMM(auxiliary=True), 64, ("backbone", "backbone.stages.1")),
    "mmseg fpn": (lambda: EncoderDecoderMM(neck=True, indices=(0, 1, 2, 3)), 64, ("backbone", "neck", "backbone.stages.0")),
    "mmseg upernet": (
        lambda: EncoderDecoderMM(indices=(1, 2, 3), auxiliary=True),
        64,
        ("backbone", ["backbone.stages.1", "backbone.stages.2"]),
    ),
}
TIMM: dict[str, Entry] = {
    "timm resnet": (
        lambda: TimmFeatures("resnet10t", channels=(8, 16, 24, 32), stem_width=8),
        64,
        ("encoder", "encoder.layer2", "encoder.layer3"),
    ),
    "timm efficientnet": (lambda: TimmFeatures("tf_efficientnet_lite0"), 64, ("encoder", "encoder.blocks.2")),
    "timm convnext": (lambda: TimmFeatures("convnext_atto"), 64, ("encoder", "encoder.stages_1")),
    "timm swin (nhwc)": (
        lambda: TimmFeatures(
            "swin_tiny_patch4_window7_224",
            nhwc=True,
            img_size=64,
            window_size=4,
            embed_dim=12,
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 4, 4),
        ),
        64,
        ("encoder", "encoder.layers_1"),
    ),
    "timm mobilenet": (lambda: TimmFeatures("mobilenetv3_small_050"), 64, ("encoder", "encoder.blocks.1")),
    "timm vit": (lambda: TimmViT(class_token=False, global_pool="avg"), 64, ("vit.blocks.1", "vit.patch_embed", "vit.norm")),
    "timm vit, class token": (TimmViT, 64, ("vit.blocks.1", "vit.norm", "vit.blocks.2:input")),
    "timm vit, registers": (lambda: TimmViT(reg_tokens=4), 64, ("vit.blocks.0",)),
    "timm vit, features_only": (
        lambda: TimmFeatures("vit_tiny_patch16_224", img_size=64, depth=3, embed_dim=48, num_heads=3),
        64,
        ("encoder",),
    ),
}
SMP: dict[str, Entry] = {
    "smp Unet": (smp_model("Unet", **NARROW), 64, ("encoder", ["encoder.relu", "encoder.layer1", "encoder.layer2"], "decoder")),
    "smp UnetPlusPlus": (smp_model("UnetPlusPlus", **NARROW), 64, ("encoder",)),
    "smp MAnet": (smp_model("MAnet", **NARROW), 64, ("encoder",)),
    "smp Linknet": (smp_model("Linknet"), 64, ("encoder",)),
    "smp FPN": (smp_model("FPN", decoder_dropout=0.0), 64, ("encoder", "decoder:input", "encoder.layer1")),
    "smp PSPNet": (smp_model("PSPNet", psp_dropout=0.0), 64, ("encoder", "encoder.layer1", "encoder.layer2.0:pre_act")),
    "smp PAN": (smp_model("PAN"), 128, ("encoder",)),
    "smp DeepLabV3": (smp_model("DeepLabV3", decoder_aspp_dropout=0.0), 64, ("encoder", "encoder.layer3.0:pre_act", "encoder.layer4")),
    "smp DeepLabV3Plus": (smp_model("DeepLabV3Plus", decoder_aspp_dropout=0.0), 64, ("encoder", ["encoder.layer1", "encoder.layer3.0:pre_act"])),
    "smp UPerNet": (smp_model("UPerNet", decoder_channels=16), 64, ("encoder",)),
    "smp Segformer": (smp_model("Segformer", "mit_b0"), 64, ("encoder",)),
    "smp Unet on ConvNeXt": (smp_model("Unet", "tu-convnext_atto", **NARROW), 64, ("encoder",)),
    "smp FPN, classifier": (smp_model("FPN", decoder_dropout=0.0, aux_params={"classes": 3}), 64, ("encoder",)),
    "smp DPT": (smp_model("DPT", "tu-vit_tiny_patch16_224", dynamic_img_size=True, **SLIM), 64, ("encoder",)),
}  # fmt: skip
TORCHVISION: dict[str, Entry] = {
    "torchvision fcn": (torchvision_model("fcn_resnet50", aux_loss=True), 64, ("backbone", ["backbone.layer3", "backbone.layer4"])),
    "torchvision fcn, no aux": (torchvision_model("fcn_resnet50", aux_loss=False), 64, ("backbone.layer3.3:pre_act",)),
    "torchvision deeplabv3": (torchvision_model("deeplabv3_mobilenet_v3_large", aux_loss=True), 64, ("backbone",)),
    "torchvision lraspp": (torchvision_model("lraspp_mobilenet_v3_large"), 64, ("backbone", "backbone.4")),
}
TRANSFORMERS: dict[str, Entry] = {
    "transformers Segformer": (transformers_model(_segformer), 64, ("segformer",)),
    "transformers UperNet, ConvNeXt": (transformers_model(lambda tf: _upernet(tf, _convnext(tf))), 64, ("backbone",)),
    "transformers UperNet, Swin": (transformers_model(_upernet_swin), 64, ("backbone",)),
    "transformers DPT": (transformers_model(_dpt), 64, ("dpt", "neck")),
    "transformers Beit": (transformers_model(_beit), 64, ("beit",)),
    "transformers MobileViT": (transformers_model(_mobilevit), 64, ("mobilevit",)),
    "transformers MobileNetV2": (transformers_model(_mobilenet), 64, ("mobilenet_v2", "mobilenet_v2.layer.5")),
    "transformers Data2VecVision": (transformers_model(_data2vec), 64, ("data2vec_vision",)),
}
PACKAGES = {"segmentation_models_pytorch": SMP, "torchvision": TORCHVISION, "transformers": TRANSFORMERS}
ZOO: dict[str, Entry] = OWN | TIMM | SMP | TORCHVISION | TRANSFORMERS


def missing(name: str) -> str | None:
    """The package that a model needs and that is not installed."""
    return next((package for package, models in PACKAGES.items() if name in models and not have(package)), None)


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The model with running statistics that are not the initial ones, and images for it."""
    make, size, _ = ZOO[name]
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 1.5)
        images = torch.randn(2, 3, size, size)
        # The first pass of some models adds hooks of their own (transformers).
        model.eval()(images)
    return model.train(), images
