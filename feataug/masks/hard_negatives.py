"""Online hard negative mining: masks on which the decoder fails are drawn again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_number, describe
from feataug.core.identity import describe_callable, describe_masks
from feataug.errors import ConfigError, FeatAugWarning, ShapeError
from feataug.masks.nesting import Nested, check_inner
from feataug.masks.sources import as_source, check_count


class HardNegativeSampler(Nested):
    """A mask source that keeps the masks with the highest loss in a pool, draws from it for a while, and mines again.

    Args:
        masks: Where candidates come from: a mask source, or whatever ``DatasetMasks`` takes.
        candidates: Number of masks that each refresh draws at random and scores.
        keep: Size of the pool: the candidates with the highest loss.
        refresh_every: Draws (that is, training steps) between refreshes.
        score: A function from masks ``(n, H, W)`` to one loss each, ``(n,)``. By default a ``FeatureMixer`` that knows the cut
            binds the loss of the current decoder on features generated from the masks.
        enabled: Deprecated. Where no mining is wanted, use the plain mask source.
        learn: Use the losses that training computes anyway instead of scoring candidates: half of each draw comes from the pool,
            the other half is new, and the ``keep`` hardest of both stay. No extra forward pass is needed; ``candidates``,
            ``refresh_every`` and ``score`` are ignored.

    Raises:
        ConfigError: a number is out of range, ``keep`` exceeds ``candidates``, or ``masks`` holds a sampler that learns.

    Source:
        Sec. 3.3: "randomly sample some patches and compute their loss; the top ranking ones generate the features for the next
        several iterations". Ours: ``learn``.
    """

    def __init__(
        self,
        masks: Any,
        candidates: int = 64,
        keep: int = 16,
        refresh_every: int = 50,
        *,
        score: Callable[[Tensor], Tensor] | None = None,
        enabled: bool = True,
        learn: bool = False,
    ) -> None:
        who = "HardNegativeSampler"
        check_number(who, "candidates", candidates, low=1, integer=True)
        check_number(who, "keep", keep, low=1, integer=True)
        check_number(who, "refresh_every", refresh_every, low=1, integer=True)
        if keep > candidates:
            raise ConfigError(f"{who}: keep exceeds candidates.", given=f"{keep} > {candidates}", needed="keep <= candidates")
        if not enabled:
            warnings.warn(
                f"{who}: enabled=False is deprecated. Use the mask source itself where no mining is wanted.", FeatAugWarning, stacklevel=2
            )
        self.source = as_source(masks)
        check_inner(who, self.source)
        self.candidates, self.keep, self.refresh_every = candidates, keep, refresh_every
        self.score, self.enabled, self.learn = score, enabled, learn
        self._bound: Callable[[Tensor], Tensor] | None = None
        self.pool: Tensor | None = None
        self.pool_losses: Tensor | None = None
        self.candidate_losses: Tensor | None = None
        self._draws = 0
        self._last_draw: tuple[Tensor, Tensor] | None = None
        self._observed: tuple[Tensor, Tensor, Tensor] | None = None

    def __repr__(self) -> str:
        numbers = f"candidates={self.candidates}, keep={self.keep}, refresh_every={self.refresh_every}"
        return f"{type(self).__name__}({self.source}, {numbers}{', learn=True' if self.learn else ''})"

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``n`` masks, ``(n, H, W)`` int64, from the pool: each mask once before any repeats. Mines first when it is time."""
        check_count("HardNegativeSampler", n)
        if not self.enabled:
            return self.source.draw(n, generator)
        if self.learn:
            return self._draw_and_explore(n, generator)
        if self.score is not None and self._draws % self.refresh_every == 0:
            self.refresh(self.score, generator)
        self._draws += 1
        if self.pool is None:
            warnings.warn(
                "HardNegativeSampler: there is no score, so masks are drawn at random. Pass cut= to FeatureMixer or score= here, "
                "or call refresh(score).",
                FeatAugWarning,
                stacklevel=2,
            )
            return self.source.draw(n, generator)
        rounds = [torch.randperm(len(self.pool), generator=generator) for _ in range(-(-n // len(self.pool)))]
        return self.pool[torch.cat(rounds)[:n]] if rounds else self.pool[:0]

    def refresh(self, score: Callable[[Tensor], Tensor], generator: torch.Generator) -> None:
        """Draw candidates, score them, and keep the hardest as the new pool.

        Raises:
            ShapeError: ``score`` does not return one loss for each mask.
        """
        masks = self.source.draw(self.candidates, generator)
        losses = torch.as_tensor(score(masks)).detach().float().cpu()
        if losses.shape != (len(masks),):
            raise ShapeError(
                "HardNegativeSampler: score must return one loss for each mask.", given=describe(losses), needed=f"[{len(masks)}]"
            )
        hardest = losses.nan_to_num(nan=-torch.inf).topk(self.keep).indices
        self.pool, self.pool_losses, self.candidate_losses = masks[hardest], losses[hardest], losses

    def inner(self) -> dict[str, Any]:
        """The source of the candidates."""
        return {"source": self.source}

    def bind(self, score: Callable[[Tensor], Tensor]) -> None:
        """Take a score from a ``FeatureMixer``. It replaces the score of an earlier mixer, but not one that the user gave."""
        super().bind(score)
        if not self.learn and (self.score is None or self.score is self._bound):
            self.score = self._bound = score

    def settings(self) -> dict[str, Any]:
        """Everything that decides which masks are drawn, for checkpoints and result files."""
        names = ("candidates", "keep", "refresh_every", "enabled", "learn")
        own = None if self.score is self._bound else describe_callable(self.score)
        return {name: getattr(self, name) for name in names} | {"score": own, "source": describe_masks(self.source)}

    def observe(self, masks: Tensor, losses: Tensor) -> None:
        """Take the training losses of masks; a ``FeatureMixer`` calls it from ``loss``.

        Args:
            masks: The tensor that the last ``draw`` returned; masks of any other tensor count as new ones.
            losses: One for each mask, on any device. They are read at the next draw, so that training does not wait for them.
        """
        if not self.learn or not len(masks):
            return
        self._update_pool()
        last, from_pool = self._last_draw or (None, torch.zeros(0, dtype=torch.long))
        self._observed = (masks, from_pool if masks is last else from_pool[:0], losses.detach())
        self._last_draw = None

    def _draw_and_explore(self, n: int, generator: torch.Generator) -> Tensor:
        """Half from the pool, half new."""
        self._update_pool()
        share = int(n / 2 + torch.rand((), generator=generator))
        from_pool = torch.randperm(len(self.pool) if self.pool is not None else 0, generator=generator)[:share]
        new = self.source.draw(n - len(from_pool), generator)
        masks = torch.cat([self.pool[from_pool], new]) if self.pool is not None else new
        self._last_draw = (masks, from_pool)
        return masks

    def _update_pool(self) -> None:
        """Keep the hardest of the pool and of the new masks, by the losses observed last."""
        if self._observed is None:
            return
        masks, from_pool, losses = self._observed
        losses = losses.float().cpu().nan_to_num(nan=-torch.inf)
        pool, pool_losses = masks[len(from_pool) :].cpu(), losses[len(from_pool) :]
        if self.pool is not None and self.pool_losses is not None:
            self.pool_losses[from_pool] = losses[: len(from_pool)]
            pool, pool_losses = torch.cat([self.pool, pool]), torch.cat([self.pool_losses, pool_losses])
        hardest = pool_losses.topk(min(self.keep, len(pool_losses))).indices
        self.pool, self.pool_losses, self._observed = pool[hardest], pool_losses[hardest], None

    def state_dict(self) -> dict[str, Any]:
        """The pool, its losses and the number of draws so far, for checkpoints."""
        self._update_pool()
        return super().state_dict() | {"draws": self._draws, "pool": self.pool, "pool_losses": self.pool_losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        super().load_state_dict(state)
        self._draws, self.pool, self.pool_losses = state["draws"], state["pool"], state["pool_losses"]
        # What was drawn and observed before belongs to another run.
        self._last_draw = self._observed = None
