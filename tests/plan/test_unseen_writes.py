"""Children that change in place what they are given, in a mode or for values that the example does not show."""

from __future__ import annotations

import copy

import pytest
import torch
from oracle import capture, equal
from torch import Tensor, nn

from truncate import truncate


class InTraining(nn.Module):
    """Changes its argument in training alone, and cannot be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.fc = nn.Dropout(0.5, inplace=True), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in x.split(1):
            pass
        return self.fc(self.drop(x))


class IfLarge(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 3:
            x.clamp_(max=3.0)
        return x + 1


class IfLargeInAFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 3:
            halve(x)
        return x + 1


class IfLargeByAnOption(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x - 1, inplace=False) if x.max() < 3 else nn.functional.relu6(x, True)


def halve(x: Tensor) -> None:
    x *= 0.5


class Aside(nn.Module):
    def __init__(self, side: nn.Module) -> None:
        super().__init__()
        self.side, self.fc = side, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        self.side(x)
        return self.fc(x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [1, 9])
@pytest.mark.parametrize("side", [InTraining, IfLarge, IfLargeInAFunction, IfLargeByAnOption])
def test_what_a_child_did_on_the_example_is_not_all_it_does(side: type[nn.Module], size: int, training: bool) -> None:
    torch.manual_seed(0)
    model, x = Aside(side()).eval(), torch.rand(3, 4)
    cut = truncate(model, "fc", args=(x,)).train(training)
    whole = copy.deepcopy(model).train(training)
    torch.manual_seed(1)
    expected = capture(whole, ["fc"], x * size)["fc"][-1]
    torch.manual_seed(1)
    assert equal(cut(x * size), expected)


class Two(nn.Module):
    """Changes its first argument, and reads its second one."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.fc = nn.ReLU(inplace=True), nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.act(x)
        return self.fc(y)


class Twice(nn.Module):
    def __init__(self, by_view: bool, by_name: bool) -> None:
        super().__init__()
        self.two, self.by_view, self.by_name = Two(), by_view, by_name

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        y = x.view(-1, 4) if self.by_view else x
        return self.two(y=y, x=x) if self.by_name else self.two(x, y)


@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("by_view", [False, True])
def test_one_tensor_may_be_two_arguments(by_view: bool, by_name: bool, with_example: bool) -> None:
    torch.manual_seed(0)
    model, x = Twice(by_view, by_name), torch.randn(3, 4)
    cut = truncate(model, "two.fc", args=(x,) if with_example else None)
    assert equal(cut(x), capture(model, ["two.fc"], x)["two.fc"][-1])


@pytest.mark.parametrize("targets", [["block.fc", "block"], ["block", "block.fc"]])
@pytest.mark.parametrize("training", [False, True])
def test_what_enters_a_block_is_not_what_it_makes_of_it(targets: list[str], training: bool) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            nn.functional.dropout(x, 0.5, self.training, inplace=True)
            return self.fc(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pre, self.block = nn.Linear(4, 4), Block()

        def forward(self, x: Tensor) -> Tensor:
            for _ in x.split(1):
                pass
            return self.block(self.pre(x))

    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(3, 4)
    cut = truncate(model, before=targets, args=(x,)).train(training)
    seen: dict[str, Tensor] = {}
    for path in targets:
        model.get_submodule(path).register_forward_pre_hook(
            lambda module, args, path=path: seen.update({path: args[0].clone()}), prepend=True
        )
    torch.manual_seed(1)
    model.train(training)(x)
    torch.manual_seed(1)
    assert equal(cut(x), [seen[path] for path in targets])


class Drops(nn.Module):
    """Returns what it is given in evaluation alone, and cannot be followed."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return nn.functional.dropout(x, 0.5, self.training)


class DropsInAChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        for _ in x.split(1):
            pass
        return self.drop(x)


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0.5)


class InARow(nn.Sequential):
    """Branches on the length of its input, so that it is recorded."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if len(list(x)) > 1 else x


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("parent", [nn.Sequential, InARow])
@pytest.mark.parametrize("kind", [Drops, DropsInAChild])
def test_what_is_returned_in_one_mode_alone_and_overwritten(
    kind: type[nn.Module], parent: type[nn.Sequential], training: bool
) -> None:
    torch.manual_seed(0)
    model = parent(nn.Linear(4, 4), kind(), Halves()).train(training)
    x = torch.randn(3, 4)
    cut = truncate(model, ["0", "2"], args=(x,), live=False)
    for mode in (training, not training):
        torch.manual_seed(1)
        expected = capture(copy.deepcopy(model).train(mode), ["0", "2"], x.clone())
        torch.manual_seed(1)
        assert equal(copy.deepcopy(cut).train(mode)(x.clone()), [expected["0"][-1], expected["2"][-1]])
