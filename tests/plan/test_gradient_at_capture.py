"""The gradient of a later value at a captured one, though an operation in place follows: as the model's own."""

import copy
from typing import Any

import pytest
import torch
from oracle import randomize
from torch import Tensor, nn

from truncate import truncate


class Block(nn.Module):
    """A layer, and what follows it, which may return its very argument."""

    def __init__(self, tail: nn.Module) -> None:
        super().__init__()
        self.layer, self.tail = nn.Linear(4, 4), tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.layer(x))


class Net(nn.Module):
    """A block whose result is changed in place."""

    def __init__(self, tail: nn.Module, how: str) -> None:
        super().__init__()
        self.block, self.act, self.head, self.how = Block(tail), nn.ReLU(inplace=True), nn.Linear(4, 2), how

    def forward(self, x: Tensor) -> Tensor:
        h = self.block(x)
        if self.how == "of a view":
            h.view(-1)[::2].mul_(2)
        elif self.how == "by a child":
            h = self.act(h)
        elif self.how == "read before and after":
            h = h * 2 + self.act(h)
        elif self.how == "by +=":
            h += x
        return self.head(h)


TAILS = (nn.Identity(), nn.Flatten(), nn.Dropout(0.0), nn.BatchNorm1d(4), nn.Sequential(nn.ELU(inplace=True)))
HOW = ("of a view", "by a child", "read before and after", "by +=")


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("training", (False, True))
@pytest.mark.parametrize("with_example", (False, True))
def test_it_is_that_of_the_model(tail: nn.Module, how: str, training: bool, with_example: bool) -> None:
    model = Net(copy.deepcopy(tail), how)
    randomize(model).train(training)
    x = torch.randn(3, 4)
    example: dict[str, Any] = {"args": (x,)} if with_example else {}
    for path in ("block.layer", "block.tail", "block"):
        for targets in ([path, ""], ["block.layer", path, "block", ""]):
            values = truncate(copy.deepcopy(model), targets, **example)(x)
            value, output = values[targets.index(path)], values[-1]
            expected, expected_output = _expected(model, path, x)
            assert torch.equal(value, expected)
            assert torch.equal(output, expected_output)
            try:
                gradient = torch.autograd.grad(expected_output.sum(), expected)
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)  # the model itself cannot be trained
                continue
            assert torch.equal(torch.autograd.grad(output.sum(), value)[0], gradient[0])


def _expected(model: nn.Module, path: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a place returns, and what the model does, which goes on with a copy of that."""
    whole, seen = copy.deepcopy(model), list[Tensor]()

    def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        seen.append(output)
        return output.clone()

    whole.get_submodule(path).register_forward_hook(keep)
    output = whole(x)
    return seen[0], output


def test_what_others_hold_too_is_changed() -> None:
    """A view that was taken before the place sees what is changed after it, so the copy is handed out there."""

    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.flat, self.act = nn.Linear(4, 4), nn.Flatten(0), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            h = self.layer(x)
            flat = self.flat(h)
            h = self.act(h)
            return h.sum() + flat

    model, x = Held(), torch.randn(3, 4)
    value, output = truncate(model, ["flat", ""])(x)
    assert torch.equal(value, model.layer(x).flatten())
    assert torch.equal(output, model(x))
