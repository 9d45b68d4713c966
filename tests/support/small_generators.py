"""The smallest generator of each objective that tests train, and settings for it."""

from feataug import FeatureGenerator, GeneratorConfig

PRESETS = ("flow", "bicyclegan")
NETWORKS = {"flow": {"width": 8, "depth": 1}, "bicyclegan": {"mask_widths": (6,), "width": 8, "depth": 0, "latent_dim": 2}}
CRITICS = {"flow": {}, "bicyclegan": {"critic_width": 4, "critic_scales": 1}}


def small_generator(num_classes, spec, preset="flow", **changes):
    return FeatureGenerator(num_classes, spec, preset, **NETWORKS[preset] | changes)


def small_config(preset="flow", **changes):
    return GeneratorConfig.for_preset(preset, **CRITICS[preset] | changes)
