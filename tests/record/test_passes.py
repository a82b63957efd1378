"""Blocks without gradients, and both modes of what is recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracle import capture, equal
from rebuilt import truncate
from recorded import EXAMPLE, WIDE, Forward, both_modes, grew, hooked, model_of, outcome
from torch import Tensor, nn

from truncate import TruncateError

# -- blocks without gradients ----------------------------------------------------------------------------------------


def frozen_part(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = self.a(x)
    return x if grew(x) else self.b(x)


def asks_behind_a_frozen_part(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = self.a(x)
    x = self.norm(x)
    return x if grew(x) else self.b(x * 2 if torch.is_grad_enabled() else x)


def set_off(self: Any, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(False):
        x = self.a(x)
    return x if grew(x) else self.b(x)


def set_as_it_is(self: Any, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        x = self.a(x)
    return x if grew(x) else self.b(x)


@torch.no_grad()
def all_of_it_is_frozen(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x))


@pytest.mark.parametrize("cut_with", [True, False])
@pytest.mark.parametrize(
    "forward", [frozen_part, asks_behind_a_frozen_part, set_off, set_as_it_is, all_of_it_is_frozen]
)
def test_blocks_end_where_they_end(forward: Forward, cut_with: bool) -> None:
    """What follows has gradients, or not, as the caller has them."""
    model = model_of(forward)
    with torch.set_grad_enabled(cut_with):
        cut = truncate(model, "b", args=(EXAMPLE,))
    for with_gradients in (True, False):
        with torch.set_grad_enabled(with_gradients):
            expected = hooked(model, WIDE)
            try:
                result = cut(WIDE)
            except AssertionError:
                assert "is_grad_enabled" in forward.__code__.co_names and with_gradients is not cut_with
                continue
        assert equal(result, expected) and result.requires_grad is expected.requires_grad


# -- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made_in", [False, True], ids=["made-in-eval", "made-in-train"])
def test_both_modes_are_there(made_in: bool) -> None:
    """With dropout and running statistics, switched there and back."""
    model, untouched = model_of(both_modes).train(made_in), model_of(both_modes)
    cut = truncate(model, "b", args=(EXAMPLE,))
    for training in (made_in, not made_in, made_in):
        expected = hooked(untouched.train(training), WIDE)
        cut.train(training)
        assert equal(outcome(lambda: cut(WIDE)), expected)
        assert equal(dict(model.named_buffers()), dict(untouched.named_buffers()))


def fails_in_training(self: Any, x: Tensor) -> Tensor:
    if self.training and x.shape[0] < 3:
        raise ValueError("too few for training")
    return self.b(self.a(x) if x.shape[0] < 1000 else x)


def test_a_mode_that_the_example_does_not_run_in() -> None:
    model = model_of(fails_in_training)
    cut = truncate(model, "b", args=(EXAMPLE,))
    assert equal(cut(WIDE), model(WIDE))
    with pytest.raises(TruncateError, match="does not run in this mode: .*too few for training"):
        cut.train()(WIDE)


class CalledInItsOwnWay(nn.Module):
    """In each mode a child that needs an example is called with other arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.child = model_of(lambda self, x, scale=1.0: x if grew(x) else self.b(self.a(x) * scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x, 2.0) if self.training else self.child(x)


@pytest.mark.parametrize("training", [False, True], ids=["made-in-eval", "made-in-train"])
def test_a_child_that_each_mode_calls_in_its_own_way(training: bool) -> None:
    model = CalledInItsOwnWay().train(training)
    cut = truncate(model, "child.b", args=(EXAMPLE,))
    for mode in (False, True):
        expected = capture(model.train(mode), ["child.b"], WIDE)["child.b"][-1]
        assert equal(cut.train(mode)(WIDE), expected)


# -- a forward that is called directly ---------------------------------------------------------------------------------


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.h, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.Tanh()

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.act(self.i(x) + self.h(h))


class Steps(nn.Module):
    """Calls the forward of its cell, and not the cell: what is inside runs, and hooks see it."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.fc = Cell(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 4)
        for t in range(x.shape[1]):
            h = self.cell.forward(x[:, t], h)
        return self.fc(h)


@pytest.mark.parametrize("place", ["cell.act", "cell.i", "cell.i:0", "cell.h:1", "fc"])
def test_a_place_in_a_child_whose_forward_is_called(place: str) -> None:
    model, x = Steps().eval(), torch.randn(2, 3, 4)
    cut = truncate(model, place, args=(x,))
    path, _, number = place.partition(":")
    x = torch.randn(5, 3, 4)
    assert equal(cut(x), capture(model, [path], x)[path][int(number or -1)])
