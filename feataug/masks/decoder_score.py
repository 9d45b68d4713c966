"""How hard masks are for the decoder as it is now, and which mask sources want to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.checks import check_mask_form, check_number
from feataug.core.distributed import gather_strided, local_slice
from feataug.core.modes import eval_mode
from feataug.losses import per_sample_loss, split_outputs


def synthetic_loss(
    generator: nn.Module,
    cut: Any,
    *,
    ignore_index: int = 255,
    batch_size: int = 16,
    seed: int = 0,
    across_processes: bool = False,
) -> Callable[[Tensor], Tensor]:
    """A score for ``HardNegativeSampler``: the current decoder's loss on features generated from the masks.

    Args:
        generator: Of features, for the cut.
        cut: Of the model that is being trained.
        ignore_index: Label of void.
        batch_size: How many masks go through the decoder at once.
        seed: Of the noise, which is the same in every call.
        across_processes: Share the work; all processes have to ask at the same time, for the same masks.

    Returns:
        A function from masks ``(n, H, W)`` to losses ``(n,)``: mean cross entropy over each mask's valid pixels, with the model in
        eval mode (running statistics stay) and without gradients.

    Raises:
        ConfigError: a number is out of range.
        ShapeError, DtypeError: what the function is given are no masks.

    Source:
        Sec. 3.3.
    """
    check_number("synthetic_loss", "batch_size", batch_size, low=1, integer=True)
    check_number("synthetic_loss", "seed", seed, low=0, integer=True)

    @torch.no_grad()
    def score(masks: Tensor) -> Tensor:
        check_mask_form("synthetic_loss", masks)
        masks = masks.long()
        # The same noise at every refresh: a resumed run needs nothing remembered.
        rng = torch.Generator().manual_seed(seed)
        device = next(cut.model.parameters()).device
        z = torch.randn(len(masks), generator.latent_dim, generator=rng)  # type: ignore[call-overload]
        mine = local_slice() if across_processes else slice(None)
        losses = [torch.zeros(0, device=device)]
        with eval_mode(cut.model):
            for part, noise in zip(masks[mine].split(batch_size), z[mine].split(batch_size), strict=True):
                if not len(part):
                    break
                part = part.to(device)
                out = cut.decode(generator(part, noise.to(device)), part.shape[-2:])
                losses.append(per_sample_loss(split_outputs(out)[0], part, ignore_index))
        return gather_strided(torch.cat(losses), len(masks)) if across_processes else torch.cat(losses)

    return score


def bind_score(source: Any, score: Callable[[Tensor], Tensor]) -> None:
    """Offer a score to a source: by its ``bind``, or in the place of its attribute ``score`` where that is ``None``."""
    if callable(getattr(source, "bind", None)):
        source.bind(score)
    elif getattr(source, "score", score) is None and not learns(source):
        source.score = score


def learns(source: Any) -> bool:
    """Whether a source wants to know the losses of the masks that it drew."""
    return bool(getattr(source, "learn", False))
