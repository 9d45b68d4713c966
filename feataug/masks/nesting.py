"""What mask sources may offer besides ``draw``, and sources that draw from other sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from feataug.errors import ConfigError


def bind_score(source: Any, score: Callable[[Tensor], Tensor]) -> None:
    """Pass a score to a source that has the optional method ``bind``."""
    if callable(getattr(source, "bind", None)):
        source.bind(score)


def learns(source: Any) -> bool:
    """Whether a source takes the training losses of the masks that it drew (``observe``)."""
    return bool(getattr(source, "learn", False))


def has_state(source: Any) -> bool:
    """Whether a source has a state to save in checkpoints."""
    return callable(getattr(source, "state_dict", None)) and callable(getattr(source, "load_state_dict", None))


class Nested:
    """A mask source that draws from others: it passes the score on to them, and its state holds theirs."""

    def inner(self) -> dict[str, Any]:
        """The inner sources, by the names under which their states are saved."""
        raise NotImplementedError

    def bind(self, score: Callable[[Tensor], Tensor]) -> None:
        """Pass a score of masks on to the inner sources."""
        for source in self.inner().values():
            bind_score(source, score)

    def state_dict(self) -> dict[str, Any]:
        """The states of those inner sources that have one."""
        return {name: source.state_dict() for name, source in self.inner().items() if has_state(source)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        for name, source in self.inner().items():
            if name in state and has_state(source):
                source.load_state_dict(state[name])


def check_inner(who: str, *sources: Any) -> None:
    """Raise ``ConfigError`` for an inner sampler that learns, if the outer source changes or selects its masks."""
    for source in sources:
        if learns(source):
            raise ConfigError(
                f"{who}: the losses of its masks cannot reach a sampler that learns.",
                given=f"{type(source).__name__}(learn=True) as its source",
                needed="learn=False there",
                advice="MaskMixture and FeatureMixer itself pass losses on.",
            )
