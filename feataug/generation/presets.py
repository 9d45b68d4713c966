"""Named settings of a generator's networks, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feataug.core.checks import check_number, check_sequence
from feataug.errors import ConfigError

# Settings of each preset. Those of one kind of network are refused for the other.
PRESETS: dict[str, dict[str, Any]] = {
    "flow": {"width": None, "depth": 4, "steps": 2, "distilled_steps": None},
    "paper": {"latent_dim": 8, "mask_widths": (96, 192, 384), "width": None, "depth": 3, "modulation": "none"},
    "bicyclegan": {"latent_dim": 8, "mask_widths": (48, 96, 192), "width": None, "depth": 2, "modulation": "latent"},
}

MODULATIONS = ("none", "latent", "class")


def check_steps(steps: int, distilled: int | None) -> None:
    """Raise ``ConfigError`` for a number of steps that no flow takes, or another than the one that it was distilled for."""
    check_number("FeatureGenerator", "steps", steps, low=2, integer=True)
    if distilled not in (None, steps):
        raise ConfigError(
            "FeatureGenerator: the generator was distilled for another number of steps.",
            given=f"steps={steps}",
            needed=f"steps={distilled}",
            advice="A generator trained with GeneratorConfig(distill_share=0) takes any number of steps.",
        )


def settings_of(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's settings with those that were given, all checked."""
    who, settings = "FeatureGenerator", dict(PRESETS[preset])
    for name, value in given.items():
        if value is None:
            continue
        if name not in settings:
            raise ConfigError(
                f"{who}: {name} is not a setting of this preset.",
                given=f"{name}={value!r}, preset {preset!r}",
                # The other one is set by training.
                needed=", ".join(known for known in settings if known != "distilled_steps"),
            )
        settings[name] = value
    for name, low in (("latent_dim", 1), ("width", 1), ("depth", 0 if preset != "flow" else 1), ("steps", 2), ("distilled_steps", 2)):
        if settings.get(name) is not None:
            check_number(who, name, settings[name], low=low, integer=True)
    if "distilled_steps" in settings:
        check_steps(settings["steps"], settings["distilled_steps"])
    if "mask_widths" in settings:
        check_sequence(who, "mask_widths", settings["mask_widths"], "widths of the mask encoder's stages, such as (64, 128)")
        settings["mask_widths"] = tuple(settings["mask_widths"])
        for number in settings["mask_widths"]:
            check_number(who, "one of mask_widths", number, low=1, integer=True)
        if not settings["mask_widths"]:
            raise ConfigError(f"{who}: mask_widths is empty.", given="()", needed="at least one width")
        modulation = settings["modulation"]
        if not isinstance(modulation, str) or modulation not in MODULATIONS:
            raise ConfigError(f"{who}: no such modulation.", given=repr(modulation), needed=" or ".join(map(repr, MODULATIONS)))
    return settings
