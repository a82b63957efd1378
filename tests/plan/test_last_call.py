"""The last call of a module: what decides, after it, whether another input runs the module once more.

Without a number a target is its last call. Each forward here runs it more often for other inputs, and decides so only
after the last call on the example. A cut is equal to what a hook sees last, or it raises; with ``:0`` it needs no
guard, and holds nothing that runs later.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from rebuilt import truncate
from torch import Tensor, nn

from truncate import TruncateError

pytestmark = pytest.mark.filterwarnings("ignore::truncate.ContentWarning")


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step, self.fc = nn.Linear(4, 4), nn.Linear(4, 4)


class While(Base):
    def forward(self, x: Tensor) -> Tensor:
        while x.norm() > 1:
            x = self.step(x)
        return self.fc(x)


class Again(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.step(x)
        if x.shape[0] > 3:
            x = self.step(x)
        return self.fc(x)


class Rest(Base):
    """The rest of the rows is a loop without a turn on the example."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.step(x)
        for row in y[3:]:
            y = y + self.step(row)
        return self.fc(y)


class InAnotherMethod(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.fc(x))
        return self.again(x) if x.shape[0] > 3 else x

    def again(self, x: Tensor) -> Tensor:
        return self.step(x) * 0.5


class Outside(nn.Module):
    """The module that holds the target runs again, and itself decides nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.fc = InAnotherMethod(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(self.block(x[:3]))
        return x if x.abs().sum() < 1e3 else self.block(x)


class AfterALaterChange(Base):
    """It decides by a value that is changed in place after the target."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.step(x)
        y[0] += 1
        y.mul_(2)
        return self.step(y) if y.shape[0] > 3 or y.max() > 100 else self.fc(y)


torch.manual_seed(0)
CASES = [
    (While, "step", torch.randn(3, 4), torch.randn(3, 4) * 100),
    (Again, "step", torch.randn(3, 4), torch.randn(5, 4)),
    (Rest, "step", torch.randn(3, 4), torch.randn(5, 4)),
    (InAnotherMethod, "step", torch.randn(3, 4), torch.randn(5, 4)),
    (Outside, "block.step", torch.randn(3, 4), torch.randn(3, 4) * 1e6),
    (AfterALaterChange, "step", torch.randn(3, 4), torch.randn(3, 4) * 1e3),
    (AfterALaterChange, "step", torch.randn(3, 4), torch.randn(4, 4)),
]


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = kind().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.uniform_(parameter, 0.05, 0.2)
    return model


@pytest.mark.parametrize("where", [{"upto": ""}, {"upto": ":-1"}, {"before": ""}], ids=str)
@pytest.mark.parametrize(("kind", "path", "small", "other"), CASES)
def test_another_input_runs_the_target_once_more(
    kind: type[nn.Module], path: str, small: Tensor, other: Tensor, where: dict[str, str]
) -> None:
    model, [(how, call)] = made(kind), where.items()
    cut = truncate(copy.deepcopy(model), **{how: path + call}, args=(small,), live=False)
    assert torch.equal(cut(small.clone()), last(model, path, small, how))
    with pytest.raises((TruncateError, AssertionError), match="example"):
        cut(other.clone())
    live = truncate(copy.deepcopy(model), **{how: path + call}, args=(small,), live=True)
    assert torch.equal(live(other.clone()), last(model, path, other, how))


def last(model: nn.Module, path: str, x: Tensor, how: str, call: int = -1) -> Any:
    """What a call of a module, the last one, returns, or is given."""
    model, seen = copy.deepcopy(model), []
    module = model.get_submodule(path)
    if how == "before":
        module.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    else:
        module.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    model(x.clone())
    return seen[call]


@pytest.mark.parametrize(("kind", "path", "small", "other"), CASES[1:4])
def test_one_call_needs_no_guard_of_what_follows(
    kind: type[nn.Module], path: str, small: Tensor, other: Tensor
) -> None:
    model = made(kind)
    cut = truncate(copy.deepcopy(model), path + ":0", args=(small,), live=False)
    assert torch.equal(cut(other), last(model, path, other, "upto", call=0))
    assert not cut.assumptions


class Once(Base):
    """The source shows that the target runs once: what is asked later is no matter of it."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.step(x)
        return self.fc(y) if y.shape[0] > 3 else y


def test_what_follows_a_module_that_runs_once_is_dropped() -> None:
    model, x = made(Once), torch.randn(5, 4)
    cut = truncate(copy.deepcopy(model), "step", args=(x[:3],), live=False)
    assert torch.equal(cut(x), model.step(x))
    assert [name for name, _ in cut.named_children()] == ["step"] and not cut.assumptions
