"""Masks that several tests of mask sources draw from."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def rare_masks():
    """20 masks of road; one of them holds a sign (class 3), two a car (class 2), half of them sky (class 1)."""
    masks = torch.zeros(20, 24, 32, dtype=torch.long)
    masks[:10, :6] = 1
    masks[3, 10:15, 4:9] = 3
    masks[[5, 6], 12:18, 20:28] = 2
    return masks
