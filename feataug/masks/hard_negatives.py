"""Online hard negative mining: masks on which the decoder fails are drawn again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_number, describe
from feataug.core.identity import describe_callable, describe_masks
from feataug.errors import ConfigError, FeatAugWarning, ShapeError, message
from feataug.masks.nesting import Nested, check_inner
from feataug.masks.sources import as_source, check_count


class HardNegativeSampler(Nested):
    """A mask source that keeps the masks with the highest loss for the next draws, then mines again.

    Args:
        masks: Where candidates come from: a mask source, or whatever ``DatasetMasks`` takes.
        candidates: Masks that are drawn at random and scored at each refresh.
        keep: How many of them, those with the highest loss, serve the next draws.
        refresh_every: Draws (that is, training steps) between refreshes.
        score: Masks ``(n, H, W)`` to one loss each, ``(n,)``. Left out, a ``FeatureMixer`` that knows the cut puts in the loss of the
            current decoder on features generated from the masks.
        enabled: False draws evenly from ``masks``: the same run without mining.
        learn: Take the losses that training computes anyway instead of scoring candidates: half of each draw are masks of the pool, half fresh
            ones, and the ``keep`` hardest of both stay. It costs no forward; ``candidates``, ``refresh_every`` and ``score`` are not used.

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
            raise ConfigError(
                message(f"{who}: keep exceeds candidates.", given=f"{keep} > {candidates}", needed="keep <= candidates")
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
        self._drawn: tuple[Tensor, Tensor] | None = None
        self._observed: tuple[Tensor, Tensor, Tensor] | None = None

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` masks of the pool, without repetition while it lasts; mines first when it is time. ``(n, H, W)`` int64."""
        check_count("HardNegativeSampler", n)
        if not self.enabled:
            return self.source.draw(n, generator)
        if self.learn:
            return self._draw_half(n, generator)
        if self.score is not None and self._draws % self.refresh_every == 0:
            self.refresh(self.score, generator)
        self._draws += 1
        if self.pool is None:
            warnings.warn(
                "HardNegativeSampler: nothing to score masks with, so they are drawn at random. Pass cut= to FeatureMixer, score= here, "
                "or call refresh(score).",
                FeatAugWarning,
                stacklevel=2,
            )
            return self.source.draw(n, generator)
        rounds = [torch.randperm(len(self.pool), generator=generator) for _ in range(-(-n // len(self.pool)))]
        return self.pool[torch.cat(rounds)[:n]] if rounds else self.pool[:0]

    def refresh(self, score: Callable[[Tensor], Tensor], generator: torch.Generator) -> None:
        """Draw candidates, score them, keep the hardest.

        Raises:
            ShapeError: ``score`` does not return one loss for each mask.
        """
        masks = self.source.draw(self.candidates, generator)
        losses = torch.as_tensor(score(masks)).detach().float().cpu()
        if losses.shape != (len(masks),):
            raise ShapeError(
                message(
                    "HardNegativeSampler: score must return one loss for each mask.",
                    given=describe(losses),
                    needed=f"[{len(masks)}]",
                )
            )
        hardest = losses.nan_to_num(nan=-torch.inf).topk(self.keep).indices
        self.pool, self.pool_losses, self.candidate_losses = masks[hardest], losses[hardest], losses

    def inner(self) -> dict[str, Any]:
        """The source of the candidates."""
        return {"source": self.source}

    def bind(self, score: Callable[[Tensor], Tensor]) -> None:
        """Take a score from a ``FeatureMixer``, in the place of an earlier mixer's; a score of the user stays."""
        super().bind(score)
        if not self.learn and (self.score is None or self.score is self._bound):
            self.score = self._bound = score

    def settings(self) -> dict[str, Any]:
        """What decides which masks are drawn, for checkpoints and result files."""
        names = ("candidates", "keep", "refresh_every", "enabled", "learn")
        own = None if self.score is self._bound else describe_callable(self.score)
        return {name: getattr(self, name) for name in names} | {"score": own, "source": describe_masks(self.source)}

    def observe(self, masks: Tensor, losses: Tensor) -> None:
        """Take the losses that training found; a ``FeatureMixer`` calls it from ``loss``.

        Args:
            masks: The tensor that was drawn last; another one's masks count as fresh.
            losses: One for each mask, on any device; they are looked at when masks are drawn next, so that nothing waits for them.
        """
        if not self.learn or not len(masks):
            return
        self._absorb()
        last, picks = self._drawn or (None, torch.zeros(0, dtype=torch.long))
        self._observed = (masks, picks if masks is last else picks[:0], losses.detach())
        self._drawn = None

    def _draw_half(self, n: int, generator: torch.Generator) -> Tensor:
        """Half from the pool, half fresh."""
        self._absorb()
        kept = int(n / 2 + torch.rand((), generator=generator))
        picks = torch.randperm(len(self.pool) if self.pool is not None else 0, generator=generator)[:kept]
        fresh = self.source.draw(n - len(picks), generator)
        masks = torch.cat([self.pool[picks], fresh]) if self.pool is not None else fresh
        self._drawn = (masks, picks)
        return masks

    def _absorb(self) -> None:
        """Let the losses that were observed decide who is in the pool."""
        if self._observed is None:
            return
        masks, picks, losses = self._observed
        losses = losses.float().cpu().nan_to_num(nan=-torch.inf)
        pool, known = masks[len(picks) :].cpu(), losses[len(picks) :]
        if self.pool is not None and self.pool_losses is not None:
            self.pool_losses[picks] = losses[: len(picks)]
            pool, known = torch.cat([self.pool, pool]), torch.cat([self.pool_losses, known])
        hardest = known.topk(min(self.keep, len(known))).indices
        self.pool, self.pool_losses, self._observed = pool[hardest], known[hardest], None

    def state_dict(self) -> dict[str, Any]:
        """The pool and where in its life it is, for checkpoints."""
        self._absorb()
        return super().state_dict() | {"draws": self._draws, "pool": self.pool, "pool_losses": self.pool_losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        super().load_state_dict(state)
        self._draws, self.pool, self.pool_losses = state["draws"], state["pool"], state["pool_losses"]
        # What was drawn and observed before belongs to another run.
        self._drawn = self._observed = None
