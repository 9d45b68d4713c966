"""Make a model with a trained encoder and an untrained decoder, for the teaching score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from feataug.core.checks import describe
from feataug.core.copying import copy_model
from feataug.core.rng import derive_seed, seeded
from feataug.cutting.cut import Cut, split
from feataug.cutting.freezing import encoder_modules
from feataug.errors import ConfigError

_SHOWN = 5


def fresh_decoder(
    model: nn.Module, at: str | Sequence[str], seed: int, fresh: Callable[[int], nn.Module] | None = None, example: Any = None
) -> Cut:
    """Cut a copy of a trained model and restore the layers after the cut to their state before training.

    Weights before the cut require no gradient, and their modules are in eval mode. All weights after the cut require a gradient.

    Args:
        model: The trained model; it is not changed.
        at: The layer or layers to cut at.
        seed: Seeds the new weights.
        fresh: Makes for a seed a model of the same architecture before training, with torch's generators seeded. The trained encoder's
            weights and statistics are copied into it. ``None`` re-initialises the layers after the cut with their
            ``reset_parameters()``.
        example: The example for ``split``.

    Returns:
        The cut of the new model.

    Raises:
        ConfigError: ``fresh`` makes no model of the same architecture; without it, a module after the cut cannot be re-initialised.
        SplitError: see ``split``.
    """
    cut = split(copy_model(model).eval(), at, example=example)
    frozen, before = encoder_of(cut)
    if fresh is None:
        with seeded(derive_seed(seed, "fresh decoder")):
            _reset(cut.model, frozen, before)
    else:
        with seeded(derive_seed(seed, "fresh decoder")):
            made = fresh(seed)
        _check_same(made, cut.model)
        kept = _encoder_state(cut.model, frozen, before)
        cut.remove()
        cut = split(_filled(copy_model(made).eval(), kept), at, example=example)
        before = encoder_of(cut)[1]
    cut.model.train()
    for name, parameter in cut.model.named_parameters():
        parameter.requires_grad_(name not in frozen and parameter.is_floating_point())
    for module in before:
        # Also modules with submodules, such as timm's norms, which contain their activation.
        if not any(parameter.requires_grad for parameter in module.parameters()):
            module.training = False
    return cut


def encoder_of(cut: Cut) -> tuple[set[str], set[nn.Module]]:
    """Return the names of the weights before the cut, and the modules that encoding calls."""
    called = encoder_modules(cut)
    before = {id(parameter) for parameter in cut.encoder_parameters()}
    # A layer that runs on both sides belongs to the encoder.
    before |= {id(p) for module in called if not any(module.children()) for p in module.parameters(recurse=False)}
    return {name for name, parameter in cut.model.named_parameters() if id(parameter) in before}, called


def _owned(model: nn.Module, frozen: set[str]) -> Iterator[tuple[str, nn.Module, list[str], list[str]]]:
    """Yield each module with its name and the names of its own weights before and after the cut."""
    for name, module in model.named_modules():
        own = [f"{name}.{key}" if name else key for key, _ in module.named_parameters(recurse=False)]
        yield name, module, [x for x in own if x in frozen], [x for x in own if x not in frozen]


def _reset(model: nn.Module, frozen: set[str], before: set[nn.Module]) -> None:
    no_reset: list[str] = []
    for _, module, encoder, decoder in _owned(model, frozen):
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if decoder and (encoder or not callable(reset)):
            no_reset += decoder
        elif decoder:
            reset()  # type: ignore[misc]
        elif isinstance(module, _NormBase) and module not in before:
            module.reset_running_stats()
    if no_reset:
        more = f" and {len(no_reset) - _SHOWN} more" if len(no_reset) > _SHOWN else ""
        raise ConfigError(
            "teaching_score: weights after the cut cannot be re-initialised.",
            given=f"{', '.join(no_reset[:_SHOWN])}{more}: their modules have no reset_parameters()",
            needed="fresh=, a function of a seed that returns such a model before training",
            advice="fresh=lambda seed: MyModel(pretrained=True)",
        )


def _encoder_state(model: nn.Module, frozen: set[str], before: set[nn.Module]) -> dict[str, torch.Tensor]:
    kept = {name: value.detach() for name, value in model.named_parameters() if name in frozen}
    for name, module, encoder, decoder in _owned(model, frozen):
        if module in before and (encoder or not decoder):
            kept |= {f"{name}.{key}" if name else key: value for key, value in module.named_buffers(recurse=False)}
    return kept


@torch.no_grad()
def _filled(model: nn.Module, values: dict[str, torch.Tensor]) -> nn.Module:
    named: dict[str, torch.Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, value in values.items():
        named[name].copy_(value)
    return model


def _check_same(made: Any, model: nn.Module) -> None:
    if not isinstance(made, nn.Module):
        raise ConfigError(
            "teaching_score: fresh returns no model.", given=describe(made), needed=f"a {type(model).__name__}, untrained"
        )
    shapes, wanted = ({name: tuple(x.shape) for name, x in m.state_dict().items()} for m in (made, model))
    different = [name for name in sorted(shapes.keys() | wanted.keys()) if shapes.get(name) != wanted.get(name)]
    if different:
        more = f" and {len(different) - _SHOWN} more differences" if len(different) > _SHOWN else ""
        raise ConfigError(
            "teaching_score: fresh makes a model of another architecture.",
            given=", ".join(f"{name} {shapes.get(name, 'missing')}" for name in different[:_SHOWN]) + more,
            needed=", ".join(f"{name} {wanted.get(name, 'none')}" for name in different[:_SHOWN]),
            advice="Make it with the arguments of the trained model.",
        )
