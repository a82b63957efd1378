"""Modules that run again inside of their own call, and others that a forward changes: what a hook captures of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from against_hooks import Three, calls, gradients, inputs, made, run
from oracle import cloned, equal
from torch import Tensor, nn

from truncate import truncate


class Deeper(nn.Module):
    """Calls itself, and returns the value of the call inside, changed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def again(self, x: Tensor, depth: int) -> Tensor:
        return self(x * 2, depth)

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        return self.layer(self.again(x, depth - 1) if depth else x)


def call(module: nn.Module, *args: Any) -> Any:
    return module(*args)


class DeeperByAFunction(Deeper):
    def again(self, x: Tensor, depth: int) -> Tensor:
        return call(self, x, depth)


class CalledTwice(nn.Linear):
    """Its own `__call__` runs it twice."""

    def __init__(self) -> None:
        super().__init__(4, 4)

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(super().__call__(x)) + 1


class CalledOnce(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) + 1


def around(inside: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    class Around(Three):
        def __init__(self) -> None:
            super().__init__()
            self.b = inside()

        def forward(self, x: Tensor) -> Any:
            return self.c(self.b(self.a(x)))

    return Around


AROUND = {kind.__name__: around(kind) for kind in (Deeper, DeeperByAFunction, CalledTwice, CalledOnce)}
LIVE = pytest.mark.parametrize("live", [True, None], ids=["live", "as it may be"])
BOTH_MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


@LIVE
@BOTH_MODES
@pytest.mark.parametrize("name", AROUND)
def test_the_first_call_and_the_last(name: str, training: bool, live: bool | None) -> None:
    inside = ["b.layer"] if name.startswith("Deeper") else []
    for path in ["a", "b", "c", *inside]:
        twin, x, y = made(AROUND[name], training), inputs(3), inputs(3)
        *seen, own = calls(twin, path, x)
        upto = {"last": path, "first": f"{path}:0", "output": ""}
        cut = truncate(made(AROUND[name], training), upto, live=live)
        found = run(cut, y)
        assert equal(found, [seen[-1], seen[0], own]), path
        last = truncate(made(AROUND[name], training), path, live=live)
        wanted = calls(twin, path, x)[-2]
        found = run(last, y)
        assert equal(found, wanted), path
        expected = gradients(wanted, twin, x)
        for parameter, gradient in gradients(found, last, y).items():
            assert gradient is None or torch.equal(gradient, expected[parameter])


@LIVE
def test_what_such_a_module_is_given(live: bool | None) -> None:
    *seen, _ = calls(made(AROUND["Deeper"]), "b", inputs(3), before=True)
    assert len(seen) == 3
    assert torch.equal(run(truncate(made(AROUND["Deeper"]), before="b", live=live), inputs(3)), seen[-1])
    assert torch.equal(run(truncate(made(AROUND["Deeper"]), before="b:0", live=live), inputs(3)), seen[0])


def test_a_call_of_its_own_that_runs_it_once_is_left_at_once() -> None:
    text = str(truncate(made(AROUND["CalledOnce"]), "b", live=True))
    assert "live" in text
    assert "runs to its end" not in text
    assert "runs to its end" in str(truncate(made(AROUND["CalledTwice"]), "b", live=True))


class Swaps(Three):
    """Gives two of its children each other's names."""

    def forward(self, x: Tensor) -> Any:
        self.a, self.b = self.b, self.a
        return self.c(self.b(self.a(x)))


@LIVE
@pytest.mark.parametrize("path", ["a", "b", "c"])
def test_children_that_change_places(path: str, live: bool | None) -> None:
    """The target is the module that had the name when the model was cut, as for a hook on it."""
    twin, cut = made(Swaps), truncate(made(Swaps), path, live=live)
    seen: list[Any] = []
    twin.get_submodule(path).register_forward_hook(lambda module, args, out: seen.append(cloned(out)))
    for batch in (2, 3, 5):
        run(twin, inputs(batch))
        assert torch.equal(run(cut, inputs(batch)), seen[-1])


class Views(nn.Module):
    """Returns a tensor and a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        h = self.layer(x)
        return {"h": h, "flat": h.view(-1)}


class ChangesWhatIsShared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child, self.head = Views(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        out = self.child(x)
        out["h"].mul_(2)
        return out["flat"] + self.head(out["h"]).view(-1)


@LIVE
@BOTH_MODES
@pytest.mark.parametrize("path", ["child", "child.layer"])
def test_values_that_share_memory_go_on_sharing_it(path: str, training: bool, live: bool | None) -> None:
    *_, seen, own = calls(made(ChangesWhatIsShared, training), path, inputs(3))
    found = run(truncate(made(ChangesWhatIsShared, training), {"there": path, "output": ""}, live=live), inputs(3))
    assert equal([found["there"], found["output"]], [seen, own])


class HookOnATensor(Three):
    def forward(self, x: Tensor) -> Any:
        h = self.a(x)
        if h.requires_grad:
            h.register_hook(lambda gradient: gradient * 2)
        return self.c(self.b(h))


@pytest.mark.parametrize("path", ["b", "c"])
def test_a_hook_on_a_tensor_is_not_lost_with_an_example(path: str) -> None:
    twin, x, y = made(HookOnATensor), inputs(3), inputs(3)
    cut = truncate(made(HookOnATensor), path, (inputs(2),))
    expected = gradients(calls(twin, path, x)[-2], twin, x)
    for name, gradient in gradients(run(cut, y), cut, y).items():
        assert gradient is None or torch.equal(gradient, expected[name])
