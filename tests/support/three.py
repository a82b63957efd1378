"""What tiny models have in common of which one place is cut, to be right or refused in the words given."""

from __future__ import annotations

from torch import nn

RIGHT = ""  # else: what the refusal says


class Three(nn.Module):
    """Has three layers to stop at, and what a model adds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.add()

    def add(self) -> None:
        """Adds what else it needs."""
