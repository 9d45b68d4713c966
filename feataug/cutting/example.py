"""An example of how the user calls the model, and the same call with other images."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.checks import check_images, describe
from feataug.errors import FeatAugError, SplitError

# Rows and columns of the example where the user gives none.
DEFAULT_SIDE = 128


@dataclass(frozen=True)
class Example:
    """How the user calls the model: which argument holds the images, and what else is passed.

    Args:
        images: ``(B, C, H, W)``.
        key: Name of the argument that holds them; ``None`` for the first positional one.
        settings: Further arguments that are no tensors (``mode="tensor"``). Every call repeats them.
        tensors: Further tensors (``labels``, ``depth``).
        names: The positional parameters of the model's ``forward``, in their order.
        required: Those of ``tensors`` whose parameter has no default, so that every call needs them.
        given: Whether the user gave the example.
    """

    images: Tensor
    key: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    given: bool = True

    @classmethod
    def of(cls, value: Any, model: nn.Module) -> Example:
        """Read the user's ``example``: images, a dictionary of arguments, or nothing.

        Raises:
            SplitError: there are no images in it.
        """
        names, without_default = _parameters(model)
        if value is None:
            like = next(model.parameters(), torch.zeros(()))
            images = torch.zeros(1, _channels(model), DEFAULT_SIDE, DEFAULT_SIDE, device=like.device, dtype=like.dtype)
            return cls(images, names=names, given=False)
        if isinstance(value, Tensor) and value.ndim == 4:
            return cls(check_images("split: the example", value, model), names=names)
        if isinstance(value, Mapping):
            found = [key for key, item in value.items() if isinstance(item, Tensor) and item.ndim == 4 and item.is_floating_point()]
            if found:
                rest = {key: item for key, item in value.items() if key != found[0]}
                tensors = {key: item for key, item in rest.items() if isinstance(item, Tensor)}
                settings = {key: item for key, item in rest.items() if key not in tensors}
                required = tuple(key for key in tensors if key in without_default)
                return cls(value[found[0]], found[0], settings, tensors, names, required)
        raise SplitError(
            "split: the example holds no images.",
            given=describe(value),
            needed="images (B, C, H, W), or a dictionary of the model's arguments with such images among them",
        )

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.images.shape[-2]), int(self.images.shape[-1])

    @property
    def followed(self) -> list[Tensor]:
        """The images, and further tensors that are images (a depth map, a second date)."""
        return [self.images, *(self.tensors[name] for name in self.image_like)]

    @property
    def image_like(self) -> list[str]:
        """Names of the further tensors that are images: floating point, of the images' rows and columns."""
        return [name for name, item in self.tensors.items() if item.is_floating_point() and tuple(item.shape[-2:]) == self.size]

    def arguments(self, images: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call of the model with other images."""
        if self.key is None or self.names[:1] == (self.key,):
            return (images, *args), {**self.settings, **kwargs}
        return args, {**self.settings, self.key: images, **kwargs}

    def images_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """The images among the arguments of a call.

        Raises:
            SplitError: there are none.
        """
        named = dict(zip(self.names, args, strict=False)) | dict(kwargs)
        # By name or position first, so that labels with four dimensions are not mistaken for images.
        key = self.key or next(iter(self.names), None)
        chosen = named[key] if key in named else next(iter((*args, *kwargs.values())), None)
        if isinstance(chosen, Tensor) and chosen.ndim == 4:
            return chosen
        found = [
            item for item in (*args, *kwargs.values()) if isinstance(item, Tensor) and item.ndim == 4 and item.is_floating_point()
        ]
        if not found:
            raise SplitError("cut: the model is called without images.", given=describe(args), needed="a tensor (B, C, H, W)")
        return found[0]

    def missing(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
        """Names of the required tensors that a call does not pass; ``args`` are those after the images."""
        rest = [name for name in self.names if name != (self.key or self.names[0])]
        passed = {*rest[: len(args)], *kwargs}
        return [name for name in self.required if name not in passed]

    def replaced(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], by_identity: Mapping[int, Tensor], by_name: Mapping[str, Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call's arguments, some of them replaced by identity or by name."""
        named = [*self.names, *[""] * len(args)]
        return (
            tuple(by_identity.get(id(item), by_name.get(name, item)) for name, item in zip(named, args, strict=False)),
            {name: by_identity.get(id(item), by_name.get(name, item)) for name, item in kwargs.items()},
        )

    def placeholders(self, names: Iterable[str], batch: int, size: tuple[int, int], device: torch.device) -> dict[str, Tensor]:
        """Zeros, which take no memory, as further tensors for another number of samples and another image size."""
        zeros = {}
        for name in names:
            like = self.tensors[name]
            shape = list(like.shape)
            if shape and shape[0] == len(self.images):
                shape[0] = batch
            if len(shape) > 2 and tuple(shape[-2:]) == self.size:
                shape[-2:] = size
            zeros[name] = torch.zeros((), dtype=like.dtype, device=device).expand(shape)
        return zeros


@contextmanager
def explain_failures(who: str, example: Example) -> Iterator[None]:
    """Explain an error that the model raises on the example.

    On the default example it becomes a ``SplitError``. On the user's own example the error stays as it is, and gets a note.
    """
    shape = " x ".join(map(str, example.images.shape[1:]))
    try:
        yield
    except FeatAugError:
        raise
    except Exception as error:
        if example.given:
            error.add_note(f"{who}: raised by the model when it was called with the example (images of {shape}).")
            raise
        first = str(error).strip().splitlines()[:1] or [""]
        raise SplitError(
            f"{who}: the model does not take zeros of {shape}.",
            given=f"no example; {type(error).__name__}: {first[0][:200]}",
            needed="images that the model takes, on its device",
            advice="Pass example=: a batch as the model gets it in training, such as torch.zeros(1, 4, 224, 224),\n"
            'or a dictionary of all its arguments, {"pixel_values": images, "labels": masks}.',
        ) from error


def _parameters(model: nn.Module) -> tuple[tuple[str, ...], set[str]]:
    """The positional parameters of ``forward``, and all parameters that have no default."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return (), set()
    positional = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    return positional, {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _channels(model: nn.Module) -> int:
    """Channels of the images: those that the model's first convolution takes, or 3 where there is no convolution."""
    for module in model.modules():
        weight = getattr(module, "weight", None)  # not by type, because of convolutions in TorchScript
        if isinstance(weight, Tensor) and weight.ndim == 4:
            channels = module.in_channels if isinstance(module, nn.Conv2d) else int(weight.shape[1])
            return channels if channels < 32 else 3
    return 3
