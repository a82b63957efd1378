"""Devices in recordings, and examples without content."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import equal
from rebuilt import truncate
from recorded import (
    EXAMPLE,
    FREE,
    WIDE,
    Forward,
    branches_on_content,
    grew,
    hooked,
    model_of,
    outcome,
    triples,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from truncate import CannotFollowError, TruncateError


def makes_tensors_on_its_device(self: Any, x: Tensor) -> Tensor:
    made = torch.zeros(x.shape[0], 4, device=x.device) + torch.ones(4).to(x.device) + x.new_zeros(4)
    return x if grew(x) else self.b(self.a(x) + made + torch.arange(4, device=self.a.weight.device))


def compares_the_device(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) if x.device.type == "cpu" else x)


def looks_for_the_device(self: Any, x: Tensor) -> Tensor:
    if "cuda" in self.a.weight.device.type or x.device.type not in ("cpu", "mps") or grew(x):
        return x
    return self.b(self.a(x))


def asks_whether_it_is_on_meta(self: Any, x: Tensor) -> Tensor:
    return self.b(x if x.is_meta or grew(x) else self.a(x))


def excludes_a_device(self: Any, x: Tensor) -> Tensor:
    device_type = x.device.type if x.device.type != "mps" else "cpu"
    with torch.autocast(device_type=device_type, enabled=False):
        return x if grew(x) else self.b(self.a(x))


def test_the_device_follows_the_input() -> None:
    cut = truncate(model_of(makes_tensors_on_its_device), "b", args=(EXAMPLE,))
    assert copy.deepcopy(cut).to("meta")(WIDE.to("meta")).is_meta


@pytest.mark.parametrize("forward", [compares_the_device, looks_for_the_device, asks_whether_it_is_on_meta])
def test_a_question_for_the_device_is_fixed(forward: Forward) -> None:
    cut = truncate(model_of(forward), "b", args=(EXAMPLE,))
    assert equal(cut(WIDE), model_of(forward)(WIDE))
    with pytest.raises(AssertionError, match="unlike the example"):
        cut.to("meta")(WIDE.to("meta"))


def test_another_device_that_gives_the_same_answer() -> None:
    cut = truncate(model_of(excludes_a_device), "b", args=(EXAMPLE,))
    assert equal(cut(WIDE), model_of(excludes_a_device)(WIDE))
    assert cut.to("meta")(WIDE.to("meta")).is_meta


HOLLOW: dict[str, Callable[[Tensor], Tensor]] = {
    "meta": lambda x: x.to("meta"),
    "fake": lambda x: FakeTensorMode().from_tensor(x),
    "fake-with-symbols": lambda x: FakeTensorMode(shape_env=ShapeEnv()).from_tensor(x),
}
hollow = pytest.mark.parametrize("kind", HOLLOW)


def has_plain_tensors(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) + self.plain)


CONTENT = ("uses_a_number_out_of_a_tensor", "takes_some_rows")


@hollow
@pytest.mark.parametrize("forward", [*(f for f in FREE if f.__name__ not in CONTENT), has_plain_tensors])
def test_an_example_without_content_will_do(kind: str, forward: Forward) -> None:
    """No kernel runs then; the result is no other. Not a bit of the model is in it."""
    model = model_of(forward)
    model.plain = torch.ones(4)
    cut = truncate(model, "b", args=(HOLLOW[kind](EXAMPLE),))
    assert all(type(tensor) in (nn.Parameter, Tensor) for tensor in (*cut.parameters(), *cut.buffers()))
    assert not any(tensor.is_meta for tensor in (*cut.parameters(), *cut.buffers()))
    assert equal(outcome(lambda: cut(WIDE.clone())), hooked(model, WIDE.clone()))


@hollow
@pytest.mark.parametrize("forward", [branches_on_content, *(f for f in FREE if f.__name__ in CONTENT[:1])])
def test_an_example_without_content_cannot_be_asked(kind: str, forward: Forward) -> None:
    with pytest.raises(CannotFollowError, match="asks for the content of a tensor, which meta tensors and fake"):
        truncate(model_of(forward), "b", args=(HOLLOW[kind](EXAMPLE),))


def asks_where_it_is(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) if x.device.type == "cpu" else x)


def test_a_fake_example_keeps_its_device() -> None:
    """A meta example is somewhere else."""
    model = model_of(asks_where_it_is)
    holds = ["a.bias" in truncate(model, "b", args=(HOLLOW[kind](EXAMPLE),)).state_dict() for kind in ("meta", "fake")]
    assert holds == [False, True]


def test_a_fake_example_on_another_device_than_the_model() -> None:
    with FakeTensorMode(), pytest.raises(TruncateError, match="run on (it|the example)"):
        truncate(model_of(triples), "b", args=(torch.empty(2, 4, device="cuda"),))


def test_a_fake_example_without_sizes() -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv())
    with mode:
        rows = mode.from_tensor(EXAMPLE).sum(1).nonzero()
    with pytest.raises(TruncateError, match="are not known. Give it numbers"):
        truncate(model_of(triples), "b", args=(rows,))
