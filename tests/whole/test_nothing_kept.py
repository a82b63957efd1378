"""Nothing that is remembered for the next cut keeps a model, a cut or a class of one alive."""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from truncate import TruncateError, freeze, source, split, truncate

X = torch.ones(2, 4)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.mid, self.b = nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.b(self.a(x))


def of_a_class_with_super() -> nn.Module:
    class Local(Base):
        def forward(self, x: Any) -> Any:
            return super().forward(x)

    return Local()


def of_a_class_that_was_executed() -> nn.Module:
    """As in a notebook: the functions lead to their globals, and these to the model."""
    text = "def helper(x):\n    return x * 2.0\nclass Local(Base):\n    def forward(self, x):\n"
    space: dict[str, Any] = {"Base": Base}
    exec(f"{text}        return self.b(helper(self.a(x)))\n", space)
    space["model"] = model = space["Local"]()
    return model


def held_by_a_default() -> nn.Module:
    def helper(x: Any, held: list[Any] = []) -> Any:  # noqa: B006
        return x * len(held)

    class Local(Base):
        def forward(self, x: Any) -> Any:
            return self.b(helper(self.a(x)))

    model = Local()
    helper.__defaults__[0].append(model)  # type: ignore[index]
    return model


def held_by_a_closure() -> nn.Module:
    held: list[Any] = []

    def helper(x: Any) -> Any:
        return x * len(held)

    class Local(Base):
        def forward(self, x: Any) -> Any:
            return self.b(helper(self.a(x)))

    held.append(Local())
    return held[0]


def held_by_a_dataclass() -> nn.Module:
    @dataclasses.dataclass
    class Output:
        y: Any

        def model(self) -> Any:
            return held

    class Local(Base):
        def forward(self, x: Any) -> Any:
            return self.b(Output(self.a(x)).y)

    held = Local()
    return held


def held_by_a_named_tuple() -> nn.Module:
    class Output(collections.namedtuple("Output", "y z")):
        def model(self) -> Any:
            return held

    class Local(Base):
        def forward(self, x: Any) -> Any:
            return self.b(self.mid(Output(self.a(x), 1)).y)

    held = Local()
    return held


def held_by_a_constant() -> nn.Module:
    class Takes(nn.Module):
        def forward(self, x: Any, thing: Any) -> Any:
            return x

    class Local(Base):
        def forward(self, x: Any) -> Any:
            return self.b(self.mid(self.a(x), self.thing))

    class Thing:
        pass

    model = Local()
    model.mid, model.thing = Takes(), Thing()
    model.thing.model = model  # type: ignore[attr-defined]
    return model


def that_branches() -> nn.Module:
    class Local(Base):
        def forward(self, x: Any) -> Any:
            return super().forward(x + 1 if len(x.shape) > 1 and x.shape[0] > 1 else x)

    return Local()


MADE = [
    of_a_class_with_super, of_a_class_that_was_executed, held_by_a_default, held_by_a_closure, held_by_a_dataclass,
    held_by_a_named_tuple, held_by_a_constant, that_branches,
]  # fmt: skip


@pytest.mark.parametrize("how", [{}, {"live": True}, {"args": (X,)}], ids=["alone", "live", "example"])
@pytest.mark.parametrize("make", MADE)
def test_nothing_keeps_a_model_or_its_class(make: Callable[[], nn.Module], how: dict[str, Any]) -> None:
    if make in (held_by_a_default, held_by_a_closure) and "live" in how:
        pytest.skip("refused, since the function would lead to the original model")
    model = make()
    cut = truncate(model, "b", **how)
    made = [model, cut, truncate(cut, "a"), freeze(copy.deepcopy(cut))]
    cut(X)
    with contextlib.suppress(TruncateError):
        source(cut, (X,))
    with contextlib.suppress(TruncateError):
        made += split(model, "a", args=(X,))
    refs = [weakref.ref(one) for each in made for one in (each, type(each)) if type(each) is not nn.Sequential]
    del model, cut, made
    gc.collect()
    assert not [type(ref()).__name__ for ref in refs if ref() not in (None, Base, nn.Linear)]
