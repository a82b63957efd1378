"""Which call of a module is handed out, however its forward runs it: the last one, unless a number is given."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from against_hooks import Listed, Three, assert_as_hooked, calls, inputs, made, run
from torch import Tensor, nn

from truncate import NotReachedError, truncate

CASES: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {}


def case(*paths: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    def note(kind: type[nn.Module]) -> type[nn.Module]:
        CASES[kind.__name__] = (kind, paths)
        return kind

    return note


@case("layers.0", "layers.1", "layers.2")
class InALoop(Listed):
    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


@case("layers.0", "layers.1", "layers.2")
class LoopedTwice(Listed):
    def forward(self, x: Tensor) -> Any:
        for _ in range(2):
            for layer in self.layers:
                x = layer(x)
        return x


@case("layers.0", "layers.1", "layers.2")
class Backwards(Listed):
    def forward(self, x: Tensor) -> Any:
        for layer in reversed(self.layers):
            x = layer(x)
        return x


@case("layers.0", "layers.1", "layers.2")
class ByNumber(Listed):
    def forward(self, x: Tensor) -> Any:
        for i in range(len(self.layers)):
            x = self.layers[i](x)
        return x


@case("layers.0", "layers.1", "layers.2")
class NumberChangedInTheLoop(Listed):
    def forward(self, x: Tensor) -> Any:
        for i in range(3):
            i = i % 2
            x = self.layers[i](x)
        return self.layers[2](x)


@case("layers.0", "layers.1", "layers.2")
class NumbersBelowZero(Listed):
    def forward(self, x: Tensor) -> Any:
        for i in range(2, -3, -1):
            x = self.layers[i](x)
        return x


@case("layers.0", "layers.1", "layers.2")
class Slices(Listed):
    def forward(self, x: Tensor) -> Any:
        for layer in self.layers[1:]:
            x = layer(x)
        for layer in self.layers[:2]:
            x = layer(x)
        return x


@case("layers.0", "layers.1", "layers.2")
class Pairs(Listed):
    def forward(self, x: Tensor) -> Any:
        for i, (one, other) in enumerate(zip(self.layers, self.layers)):
            x = one(x) + i * other(x)
        return x


@case("a", "b")
class ListOfThemAgain(Three):
    def __init__(self) -> None:
        super().__init__()
        self.order = [self.a, self.b, self.a]

    def forward(self, x: Tensor) -> Any:
        for layer in self.order:
            x = layer(x)
        return x


@case("a", "b")
class ByName(Three):
    def forward(self, x: Tensor) -> Any:
        for name in ("a", "b", "b", "c"):
            x = getattr(self, name)(x)
        return x


@case("a", "b")
class All(Three):
    def forward(self, x: Tensor) -> Any:
        for module in self.modules():
            if module is not self:
                x = module(x)
        return self.b(x)


@case("b")
class Mapped(Three):
    def forward(self, x: Tensor) -> Any:
        return sum(map(self.b, (x, x + 1)))


@case("b")
class Listcomp(Three):
    def forward(self, x: Tensor) -> Any:
        return sum([self.b(each) for each in (x, x + 1)])


@case("b")
class Generated(Three):
    def steps(self, x: Tensor) -> Iterator[Tensor]:
        yield self.b(x)
        yield self.b(x + 1)

    def forward(self, x: Tensor) -> Any:
        return sum(map(self.c, self.steps(x)))


@case("b")
class While(Three):
    def forward(self, x: Tensor) -> Any:
        n = 0
        while n < 3:
            x, n = self.b(x), n + 1
        return x


def helper(module: Any, x: Tensor) -> Tensor:
    return module.b(module.b(x))


@case("b")
class Helper(Three):
    def forward(self, x: Tensor) -> Any:
        return helper(self, x)


def twice(forward: Any) -> Any:
    @functools.wraps(forward)
    def wrapper(self: Any, x: Tensor) -> Tensor:
        return forward(self, forward(self, x))

    return wrapper


def once_more(forward: Any) -> Any:
    @functools.wraps(forward)
    def wrapper(self: Any, x: Tensor) -> Tensor:
        return self.b(forward(self, x))

    return wrapper


@case("a", "b")
class DecoratedToRunTwice(Three):
    @twice
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


@case("a", "b")
class DecoratedToRunOnceMore(Three):
    @once_more
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


@case("a", "b")
class IntoItself(Three):
    def forward(self, x: Tensor, depth: int = 2) -> Any:
        x = self.a(x).relu()
        if depth:
            x = self(x, depth - 1)
        return self.c(self.b(x))


@case("a", "b")
class IntoItsForward(Three):
    def forward(self, x: Tensor, depth: int = 2) -> Any:
        x = self.a(x).relu()
        if depth:
            x = self.forward(x, depth - 1)
        return self.c(self.b(x))


class Plain(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


@case("b")
class SuperTwice(Plain):
    def forward(self, x: Tensor) -> Any:
        return super().forward(super().forward(x))


@case("b")
class ForwardOfTheChild(Three):
    def forward(self, x: Tensor) -> Any:
        return self.b.forward(self.b(x))


@case("b", "c")
class TwoNames(Three):
    def __init__(self) -> None:
        super().__init__()
        self.c = self.b

    def forward(self, x: Tensor) -> Any:
        return self.c(self.b(x))


@case("b")
class TwiceInEvaluation(Three):
    def forward(self, x: Tensor) -> Any:
        x = self.b(x)
        if not self.training:
            x = self.b(x)
        return self.c(x)


@case("b")
class ManyTimesInTraining(Three):
    def forward(self, x: Tensor) -> Any:
        x = self.b(x)
        if self.training:
            for _ in range(2):
                x = self.b(x)
        return self.c(x)


@case("b")
class FlagSetOnTheWay(Three):
    def __init__(self) -> None:
        super().__init__()
        self.again = False

    def forward(self, x: Tensor) -> Any:
        self.again = False
        x = self.b(x)
        self.again = True
        if self.again:
            for _ in range(2):
                x = self.b(x)
        return x


@case("b")
class Property(Three):
    @property
    def of_ones(self) -> Tensor:
        return self.b(torch.ones(1, 4))

    def forward(self, x: Tensor) -> Any:
        x = self.b(x)
        return self.c(x) + self.of_ones


@case("b")
class Renamed(Three):
    def __getattr__(self, name: str) -> Any:
        return self.b if name == "again" else super().__getattr__(name)

    def forward(self, x: Tensor) -> Any:
        return self.again(self.c(self.b(x)))


class Holder(nn.Module):
    """Runs what it holds in a list, where no registry shows it."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = [held]

    def forward(self, x: Tensor) -> Tensor:
        return self.held[0](x)


@case("b")
class RunByAnotherChild(Three):
    def __init__(self) -> None:
        super().__init__()
        self.other = Holder(self.b)

    def forward(self, x: Tensor) -> Any:
        return self.other(self.c(self.b(x)))


@case("b")
class RunByAMethodInAnotherChild(Three):
    def __init__(self) -> None:
        super().__init__()
        self.other = Holder(self.more)

    def more(self, x: Tensor) -> Tensor:
        return self.b(x) + 1

    def forward(self, x: Tensor) -> Any:
        return self.other(self.c(self.b(x)))


@case("b")
class RunByAHook(Three):
    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(lambda module, args, out: module.b(out))

    def forward(self, x: Tensor) -> Any:
        return self.c(self.b(x))


@case("b")
class RunByAHookOfAChild(Three):
    def __init__(self) -> None:
        super().__init__()
        b = self.b
        self.c.register_forward_hook(lambda module, args, out: b(out))

    def forward(self, x: Tensor) -> Any:
        return self.c(self.b(x))


@case("layers.one", "layers.two")
class InDicts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"one": nn.Linear(4, 4), "two": nn.Linear(4, 4)})

    def forward(self, x: Tensor) -> Any:
        for name in self.layers:
            x = self.layers[name](x)
        for layer in self.layers.values():
            x = layer(x)
        return x


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("name", "path"), [(name, path) for name, (_, paths) in CASES.items() for path in paths])
def test_the_call_that_a_hook_captures_last(name: str, path: str, training: bool) -> None:
    assert_as_hooked(CASES[name][0], path, training)


@pytest.mark.parametrize("number", [0, 1, 3, -1, -2, -4])
def test_a_call_by_its_number(number: int) -> None:
    class Four(Three):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(4):
                x = self.b(x)
            return x

    cut = truncate(made(Four), f"b:{number}", live=True)
    *seen, _ = calls(made(Four), "b", inputs(3))
    assert torch.equal(run(cut, inputs(3)), seen[number])


def test_a_call_that_is_not_made() -> None:
    cut = truncate(made(Plain), "b:1", live=True)
    with pytest.raises(NotReachedError, match="'b:1': this call of the model ran it once"):
        cut(inputs(2))


class StoresByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.seen = nn.Linear(4, 4), nn.Linear(4, 4), torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x + self.seen)
        z = self.b(y)
        self.seen = y.detach().mean(0)
        return z


def test_what_is_stored_by_name_is_there_in_the_next_call() -> None:
    torch.manual_seed(0)
    model, x, seen = StoresByName(), torch.randn(3, 4), []
    cut = truncate(model, "a", live=True, copy=True)
    model.a.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    model(x), model(x)
    assert torch.equal(cut(x), seen[0]) and torch.equal(cut(x), seen[1])
