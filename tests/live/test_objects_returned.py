"""A child that returns an object whose methods run what is inside the child: after its own forward has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truncate import truncate


class Density:
    """What a flow returns: it computes when it is asked."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        self.run = run
        self.inner = (self,)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.run(x) * 2

    def __call__(self, x: Tensor) -> Tensor:
        return self.run(x) * 3


class Flow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def run(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))

    def forward(self, context: Tensor | None = None) -> Density:
        return Density(self.run)


class Net(nn.Module):
    def __init__(self, ask: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.flow, self.head, self.ask = Flow(), nn.Linear(4, 4), ask

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.ask(self.flow(), x))


ASKED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a method": lambda density, x: density.log_prob(x),
    "a method of a part": lambda density, x: density.inner[0].log_prob(x),
    "a call": lambda density, x: density(x),
    "with what it returned before": lambda density, x: density.log_prob(density.log_prob(x)),
}


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("place", ["flow.first", "flow.last", "head"])
@pytest.mark.parametrize("asked", ASKED)
def test_what_runs_after_the_child_has_returned(asked: str, place: str, example: bool) -> None:
    model, x = Net(ASKED[asked]), torch.randn(3, 4)
    returned: list[Tensor] = []
    hook = model.get_submodule(place).register_forward_hook(lambda m, args, output: returned.append(output.clone()))
    model(x)
    hook.remove()
    cut = truncate(model, place, (torch.randn(3, 4),) if example else None)
    assert torch.equal(cut(x), returned[-1])
