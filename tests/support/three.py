"""What tiny models have in common of which one place is cut, to be right or refused in the words given."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RIGHT = ""  # else: what the refusal says


class Three(nn.Module):
    """Has three layers to stop at, and what a model adds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.add()

    def add(self) -> None:
        """Adds what else it needs."""


X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def many(x: Tensor) -> bool:
    """A question that only an example answers."""
    return x.shape[0] > 90
