"""Operators that a user adds to torch, which declare what they change in place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truncate import truncate


@pytest.fixture(scope="module")
def operators() -> Iterator[dict[str, Any]]:
    library = torch.library.Library("truncate_tests", "FRAGMENT")
    library.define("scale(Tensor(a!) x, float by) -> ()")
    library.impl("scale", _scaled, "CPU")
    packet = torch.ops.truncate_tests.scale
    yield {"packet": packet, "overload": packet.default}
    library._destroy()


def _scaled(x: Tensor, by: float) -> None:
    x.mul_(by)


class Net(nn.Module):
    def __init__(self, operator: Any, by_name: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.operator, self.by_name = operator, by_name

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).detach()
        if self.by_name:
            self.operator(x=h, by=3.0)
        else:
            self.operator(h, 3.0)
        return self.b(h)


@pytest.mark.parametrize("by_name", [False, True], ids=["by position", "by name"])
@pytest.mark.parametrize("kind", ["packet", "overload"])
def test_what_it_changes_is_not_dropped(operators: dict[str, Any], kind: str, by_name: bool) -> None:
    model, x = Net(operators[kind], by_name).eval(), torch.randn(2, 4)
    expected = model(x)
    assert torch.equal(truncate(model, "b", live=False)(x), expected)
    assert not torch.equal(model.b(model.a(x)), expected)
