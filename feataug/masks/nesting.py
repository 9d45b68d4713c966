"""Mask sources within mask sources: what a mixer tells a source reaches those inside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from feataug.errors import ConfigError, message
from feataug.masks.decoder_score import bind_score, learns


class Nested:
    """A mask source that draws from others. Scores and states reach the sources inside it."""

    def inner(self) -> dict[str, Any]:
        """The sources inside, by the names under which their states are saved."""
        raise NotImplementedError

    def bind(self, score: Callable[[Tensor], Tensor]) -> None:
        """Offer a score of masks to the sources inside; samplers that have none of their own take it."""
        for source in self.inner().values():
            bind_score(source, score)

    def state_dict(self) -> dict[str, Any]:
        """The states of the sources inside that have one."""
        return {name: source.state_dict() for name, source in self.inner().items() if has_state(source)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        for name, source in self.inner().items():
            if name in state and has_state(source):
                source.load_state_dict(state[name])


def has_state(source: Any) -> bool:
    """Whether a source is part of checkpoints."""
    return callable(getattr(source, "state_dict", None)) and callable(getattr(source, "load_state_dict", None))


def check_inner(who: str, *sources: Any) -> None:
    """Raise ``ConfigError`` for a sampler that learns inside of a source that does not pass its masks on as they are."""
    for source in sources:
        if learns(source):
            raise ConfigError(
                message(
                    f"{who}: the losses of its masks cannot reach a sampler that learns.",
                    given=f"{type(source).__name__}(learn=True) inside of it",
                    needed="learn=False there",
                    advice="A MaskMixture, and FeatureMixer itself, pass losses on.",
                )
            )
