"""Measure BatchNorm's running statistics on real images, only for the norms that were trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parameter import is_lazy

from feataug.core.checks import check_loader, describe
from feataug.core.devices import device_of
from feataug.core.randomness import preserved_global_rng
from feataug.cutting.freezing import is_frozen
from feataug.errors import ConfigError, DataError

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def update_bn(
    model: nn.Module,
    loader: Iterable[Any],
    device: torch.device | str | None = None,
    *,
    norms: Iterable[str | nn.Module] | None = None,
) -> None:
    """Measure BatchNorm's running statistics on one pass over real images, for the norms that were trained. Frozen norms do not change.

    After mixed training the running statistics describe real and synthetic features together, which does not suit evaluation on real
    images. ``torch.optim.swa_utils.update_bn`` measures every norm, including frozen ones; a norm that does not run in training mode ends
    at mean 0 and variance 1. This function keeps ``running_mean``, ``running_var`` and ``num_batches_tracked`` of other norms bit for bit:
    of norms in eval mode, and of norms with ``momentum=0`` or ``track_running_stats=False``, whose statistics training does not change.

    Call it right after training, before ``model.eval()``: the modes then show which norms were trained. The measured statistics are those
    of torch's function, plain averages over the batches. InstanceNorm with running statistics is measured in the same way.

    All modules run in their current modes, so dropout in training mode is active, as in torch's function. Afterwards the modes, momenta
    and the random generators of torch (for the CPU and the model's device), numpy and ``random`` are restored. If the pass fails, and in
    norms that no batch has reached, the old statistics are restored.

    Args:
        model: Maps images to anything. A cut model, or one wrapped by ``DistributedDataParallel``, can be passed as it is.
        loader: Yields images ``(B, C, H, W)``, or tuples and lists that start with them. It is read once.
        device: The device for images; the model's by default.
        norms: The norms to measure, as modules or names in ``model.named_modules()``, whatever their modes. All other modules then run in
            training mode, and all other norms in eval mode.

    Raises:
        ConfigError: ``model`` is no module; ``norms`` names something other than a norm with running statistics; or the model is in eval
            mode, so its modes do not show which norms were trained.
        DataError: the loader yields nothing, or something else.

    Source:
        ``torch.optim.swa_utils.update_bn``. Ours: frozen norms do not change.
    """
    _check_model(model)
    measure(model, loader, device, _own_modes(model) if norms is None else _modes_for(model, _named(model, norms)))


@torch.no_grad()
def measure(
    model: nn.Module, loader: Iterable[Any], device: torch.device | str | None, trained: Mapping[nn.Module, bool], who: str = "update_bn"
) -> None:
    """Run ``update_bn`` with the modes ``trained``; modules that it lacks keep their current mode."""
    chosen = [module for module in norms_of(model) if trained.get(module, module.training)]
    if not chosen:
        return
    others = [module for module in model.modules() if isinstance(module, _NormBase) and module not in chosen]
    where = torch.device(device) if device is not None else device_of(model)
    with modes(model, trained), preserved_global_rng(device_of(model)), _averaging(chosen, others):
        empty = True
        for batch in check_loader(who, loader):
            images, empty = _images(who, batch), False
            model(images.to(where))
        if empty:
            raise DataError(
                f"{who}: the loader yields nothing.",
                given=type(loader).__name__,
                needed="a loader that can be read again and again, such as a DataLoader",
            )


def norms_of(model: nn.Module) -> list[_NormBase]:
    """List the norms whose running statistics change in ``train()`` mode."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _NormBase)
        and module.track_running_stats
        and module.momentum != 0
        and module.running_mean is not None
        and not is_lazy(module.running_mean)
    ]


def modes_of(model: nn.Module) -> dict[nn.Module, bool]:
    """Return the mode in which every module runs: true in training mode."""
    return {module: module.training and not is_frozen(module) for module in model.modules()}


@contextmanager
def modes(model: nn.Module, wanted: Mapping[nn.Module, bool]) -> Iterator[None]:
    """Set modes of modules inside the context; those that are not in ``wanted`` keep theirs."""
    before = modes_of(model)
    try:
        for module in before:
            module.training = wanted.get(module, module.training)
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
        # Inside the user's autocast, torch (2.6) hands weights that were cast without gradients to the training pass, which loses theirs.
        torch.clear_autocast_cache()


def frozen_parts(model: nn.Module) -> list[nn.Module]:
    """List the frozen modules: those in eval mode within a model in training mode, without a trainable weight.

    For a module without weights (dropout, a norm without affine parameters), the nearest enclosing module with weights decides. For a
    model in eval mode the list is empty, since its modes do not show what was frozen.
    """
    if not model.training:
        return []
    named = dict(model.named_modules(remove_duplicate=False))
    return [module for name, module in named.items() if not module.training and not _trains(named, name)]


def statistics_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the running statistics of all norms by name."""
    return {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        if isinstance(module, _NormBase)
        for key in _STATISTICS
        if (value := getattr(module, key, None)) is not None and not is_lazy(value)
    }


def moved_norms(model: nn.Module, before: Mapping[str, Tensor]) -> dict[nn.Module, bool]:
    """Infer the training modes of a model that unknown code has trained: norms with unchanged statistics count as frozen.

    Args:
        model: The trained model.
        before: Copies of ``statistics_of`` from before training. New norms count as trained.
    """
    now = statistics_of(model)
    moved = dict.fromkeys(model.modules(), True)
    for name, module in model.named_modules():
        own = {key: now[key] for key in (f"{name}.{part}" for part in _STATISTICS) if key in now}
        if own:
            moved[module] = not all(key in before and _equal(before[key], value) for key, value in own.items())
    return moved


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.to(other.device), other)


def _trains(named: Mapping[str, nn.Module], name: str) -> bool:
    """Whether the module, or the nearest enclosing module with weights, has a trainable weight."""
    while True:
        weights = list(named[name].parameters())
        if weights or not name:
            return any(weight.requires_grad for weight in weights)
        name = name.rpartition(".")[0]


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(
            "update_bn: the model is no module.",
            given=type(model).__name__,
            needed="feataug.update_bn(model, loader): the model first, unlike torch.optim.swa_utils.update_bn",
        )


def _own_modes(model: nn.Module) -> dict[nn.Module, bool]:
    own = modes_of(model)
    norms = norms_of(model)
    if norms and not model.training and not any(own[norm] for norm in norms):
        raise ConfigError(
            "update_bn: the model is in eval mode, which does not show which norms were trained.",
            given=f"{type(model).__name__} in eval mode, with {len(norms)} norms that have running statistics",
            needed="the modes of training",
            advice="Call it before model.eval(), or call model.train() first and freeze again what was frozen, or pass norms=.",
        )
    return own


def _named(model: nn.Module, norms: Iterable[str | nn.Module]) -> set[nn.Module]:
    known = dict(model.named_modules(remove_duplicate=False))
    measurable = set(norms_of(model))
    found = set()
    for norm in [norms] if isinstance(norms, (str, nn.Module)) else norms:
        module = known.get(norm) if isinstance(norm, str) else norm
        if module not in measurable:
            raise ConfigError(
                "update_bn: this is no norm with running statistics of the model.",
                given=repr(norm) if isinstance(norm, str) else describe(norm),
                needed="names or modules of BatchNorm, SyncBatchNorm or InstanceNorm with track_running_stats=True",
            )
        found.add(module)
    return found


def _modes_for(model: nn.Module, chosen: set[nn.Module]) -> dict[nn.Module, bool]:
    return {module: module in chosen or not isinstance(module, _NormBase) for module in model.modules()}


def _images(who: str, batch: Any) -> Tensor:
    images = batch[0] if isinstance(batch, (tuple, list)) and len(batch) else batch
    if not isinstance(images, Tensor):
        raise DataError(
            f"{who}: a batch holds no images.", given=type(batch).__name__, needed="images, or a tuple that begins with them"
        )
    return images


@contextmanager
def _averaging(norms: list[_NormBase], others: list[_NormBase]) -> Iterator[None]:
    """Reset norms and let them average over the batches. Norms that no batch reaches get their old statistics back.

    Args:
        norms: The norms to measure.
        others: All other norms; they do not change.
    """
    # A norm with momentum 0 still counts its batches.
    counts = {norm: norm.num_batches_tracked.clone() for norm in others if norm.num_batches_tracked is not None}
    before = [{name: value.clone() for name in _STATISTICS if (value := getattr(norm, name, None)) is not None} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    seen = dict.fromkeys(norms, 0)

    def count(norm: _NormBase, args: Any) -> None:
        seen[norm] += 1
        if not isinstance(norm, _BatchNorm):
            # InstanceNorm has no cumulative average: torch treats momentum None as 0.
            norm.momentum = 1 / seen[norm]

    handles = [norm.register_forward_pre_hook(count) for norm in norms]
    done = False
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        yield
        done = True
    finally:
        for handle in handles:
            handle.remove()
        for norm, number in counts.items():
            norm.num_batches_tracked.copy_(number)  # type: ignore[union-attr]
        for norm, momentum, statistics in zip(norms, momenta, before, strict=True):
            norm.momentum = momentum
            if not done or not (seen[norm] or _was_run(norm)):
                for name, value in statistics.items():
                    getattr(norm, name).copy_(value)


def _was_run(norm: _NormBase) -> bool:
    """Whether the statistics differ from those after a reset, for models that call ``F.batch_norm`` on a norm's buffers."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return bool((norm.running_mean != 0).any() or (norm.running_var != 1).any())
