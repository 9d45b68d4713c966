"""How hard masks are for the current decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.checks import check_mask_form, check_number
from feataug.core.distributed import gather_strided, local_slice
from feataug.core.latents import draw_latents, latents_on
from feataug.core.modes import eval_mode
from feataug.losses import per_sample_loss, split_outputs


def synthetic_loss(
    generator: nn.Module, cut: Any, *, ignore_index: int = 255, batch_size: int = 16, seed: int = 0, across_processes: bool = False
) -> Callable[[Tensor], Tensor]:
    """A score for ``HardNegativeSampler``: the current decoder's loss on features generated from the masks.

    Args:
        generator: The feature generator for the cut.
        cut: The cut of the model that is being trained.
        ignore_index: Label of void.
        batch_size: Number of masks that go through the decoder at once.
        seed: Seeds the noise, which is the same in every call.
        across_processes: Divide the work among the processes. All of them must then call the score at the same time, with the same
            masks.

    Returns:
        A function from masks ``(n, H, W)`` to losses ``(n,)``: mean cross entropy over each mask's valid pixels, with the model in
        eval mode (running statistics stay) and without gradients.

    Raises:
        ConfigError: a number is out of range.
        ShapeError, DtypeError: the function is called with a tensor that holds no masks.

    Source:
        Sec. 3.3.
    """
    check_number("synthetic_loss", "batch_size", batch_size, low=1, integer=True)
    check_number("synthetic_loss", "seed", seed, low=0, integer=True)

    @torch.no_grad()
    def score(masks: Tensor) -> Tensor:
        check_mask_form("synthetic_loss", masks)
        masks = masks.long()
        # The same noise at every refresh, so that a resumed run has no state to restore.
        rng = torch.Generator().manual_seed(seed)
        device = next(cut.model.parameters()).device
        z = draw_latents(generator, masks, rng)
        mine = local_slice() if across_processes else slice(None)
        losses = [torch.zeros(0, device=device)]
        with eval_mode(cut.model):
            for part, noise in zip(masks[mine].split(batch_size), z[mine].split(batch_size), strict=True):
                if not len(part):
                    break
                part = part.to(device)
                out = cut.decode(generator(part, latents_on(device, noise)), part.shape[-2:])
                losses.append(per_sample_loss(split_outputs(out)[0], part, ignore_index))
        return gather_strided(torch.cat(losses), len(masks)) if across_processes else torch.cat(losses)

    return score
