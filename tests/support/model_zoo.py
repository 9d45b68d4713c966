"""Architectures from five ecosystems, small and with random weights, and the places where they are cut.

``ZOO[name]`` is ``(make, size, cuts)``. The hand-written ones are in ``hand_written_models.py``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.hand_written_models import CLASSES, EncoderDecoderMM, OwnPair, UNetOfModules


def have(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


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
