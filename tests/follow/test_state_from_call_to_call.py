"""What a forward keeps on its module for its next call, in an attribute or in what an attribute holds.

A cut that sets nothing would read in each call what was there when the model was cut, so it keeps the forward's Python.
Each is cut with and without an example, and called several times, in both modes; the model is not touched.
"""

from __future__ import annotations

import array
import collections
import copy
import functools
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
import torch
from three import Three
from torch import Tensor, nn

from truncate import CannotFollowError, truncate

KEEPING: dict[str, tuple[Any, Callable[[Any, Tensor], Tensor]]] = {}
Step = Callable[[Any, Tensor], Tensor]


def keeping(start: Any) -> Callable[[Step], Step]:
    """A step of a forward, and how its attribute `kept` begins."""

    def add(step: Step) -> Step:
        KEEPING[step.__name__] = start, step
        return step

    return add


@keeping(None)
def a_membrane(self: Any, h: Tensor) -> Tensor:
    self.kept = h if self.kept is None or self.kept.shape != h.shape else self.kept * 0.5 + h
    return self.kept


@keeping(None)
def a_cache(self: Any, h: Tensor) -> Tensor:
    if self.kept is None or self.kept.shape[0] != h.shape[0]:
        self.kept = torch.arange(float(h.shape[0]))[:, None]
    return h + self.kept


@keeping(None)
def set_in_training_alone(self: Any, h: Tensor) -> Tensor:
    if self.training:
        self.kept = h.detach().mean(0)
    return h if self.kept is None else h - self.kept


@keeping("first")
def a_text(self: Any, h: Tensor) -> Tensor:
    h = h * 2 if self.kept == "second" else h
    self.kept = "second"
    return h


@keeping(())
def a_tuple(self: Any, h: Tensor) -> Tensor:
    h = h * (1 + len(self.kept))
    self.kept = (*self.kept, 1)
    return h


@keeping(None)
def an_attribute_that_is_not_there_yet(self: Any, h: Tensor) -> Tensor:
    h = h + self.other if hasattr(self, "other") else h
    self.other = h.detach().mean(0)
    return h


@keeping(None)
def set_by_name(self: Any, h: Tensor) -> Tensor:
    h = h if self.kept is None else h + self.kept
    setattr(self, "ke" + "pt", h.detach().mean(0))
    return h


@keeping(None)
def set_in_its_dict(self: Any, h: Tensor) -> Tensor:
    h = h if self.__dict__["kept"] is None else h + self.kept
    self.__dict__["kept"] = h.detach().mean(0)
    return h


@keeping([])
def a_list(self: Any, h: Tensor) -> Tensor:
    self.kept.append(h.detach())
    return h + sum(one.mean() for one in self.kept)


@keeping({"inside": {}})
def a_dict_in_a_dict(self: Any, h: Tensor) -> Tensor:
    inside = self.kept["inside"]
    h = h + inside["h"] if "h" in inside else h
    inside["h"] = h.detach().mean(0)
    return h


@keeping(collections.deque(maxlen=2))
def a_deque(self: Any, h: Tensor) -> Tensor:
    for one in self.kept:
        h = h + one
    self.kept.append(h.detach().mean(0))
    return h


@keeping(set())
def a_set(self: Any, h: Tensor) -> Tensor:
    h = h * 3 if h.shape[0] in self.kept else h
    self.kept.add(h.shape[0])
    return h


@keeping(collections.Counter())
def a_counter(self: Any, h: Tensor) -> Tensor:
    self.kept["calls"] += 1
    return h * self.kept["calls"]


@keeping(types.SimpleNamespace(h=None))
def an_object(self: Any, h: Tensor) -> Tensor:
    h = h if self.kept.h is None else h + self.kept.h
    self.kept.h = h.detach().mean(0)
    return h


class Slotted:
    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, h: Tensor) -> Tensor:
        self.calls += 1
        return h * self.calls


@keeping(Slotted())
def an_object_with_slots(self: Any, h: Tensor) -> Tensor:
    self.kept.calls += 1
    return h * self.kept.calls


@keeping(Slotted())
def an_object_that_is_called(self: Any, h: Tensor) -> Tensor:
    return self.kept(h)


@keeping(Slotted().__call__)
def a_method_of_an_object(self: Any, h: Tensor) -> Tensor:
    return self.kept(h)


@keeping(functools.partial(Slotted()))
def a_partial_of_an_object(self: Any, h: Tensor) -> Tensor:
    return self.kept(h)


@keeping(bytearray(1))
def bytes_that_change(self: Any, h: Tensor) -> Tensor:
    self.kept[0] += 1
    return h * self.kept[0]


@keeping(array.array("i", [0]))
def an_array(self: Any, h: Tensor) -> Tensor:
    self.kept[0] += 1
    return h * self.kept[0]


@keeping(numpy.zeros(1))
def an_array_of_numpy(self: Any, h: Tensor) -> Tensor:
    self.kept[0] += 1
    return h * float(self.kept[0])


@keeping(None)
def a_buffer_that_it_registers(self: Any, h: Tensor) -> Tensor:
    h = h + self.found if "found" in self._buffers else h
    self.register_buffer("found", h.detach().mean(0))
    return h


@keeping(None)
def a_module_that_it_adds(self: Any, h: Tensor) -> Tensor:
    h = self.found(h) if "found" in self._modules else h
    self.found = nn.Softsign()
    return h


class Keeps(Three):
    """Runs a step between its layers."""

    def add(self) -> None:
        self.kept: Any = None

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.step(self.a(x))))


def model_of(name: str) -> Keeps:
    start, step = KEEPING[name]
    kind = type("Keeps", (Keeps,), {"step": step})
    torch.manual_seed(0)
    model: Keeps = kind()
    model.kept = copy.deepcopy(start)
    return model


CALLS = [(True, 3), (False, 3), (False, 2), (True, 2), (False, 3)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("name", KEEPING)
def test_each_call_reads_what_the_last_one_has_kept(name: str, example: bool, training: bool) -> None:
    model, whole = model_of(name).train(training), model_of(name)
    cut = truncate(model, "b", (torch.randn(3, 4),) if example else None)
    returned: list[Tensor] = []
    whole.b.register_forward_hook(lambda module, args, output: returned.append(output.clone()))
    for mode, batch in CALLS:
        x = torch.randn(batch, 4)
        whole.train(mode)(x)
        assert torch.equal(cut.train(mode)(x), returned[-1])
    fresh = model_of(name)
    x = torch.randn(3, 4)
    assert torch.equal(model.eval()(x), fresh.eval()(x))  # neither the cut nor its calls have left anything there


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("name", KEEPING)
def test_without_its_python_it_is_refused(name: str, example: bool) -> None:
    given = (torch.randn(3, 4),) if example else None
    with pytest.raises(CannotFollowError, match="live=True"):
        truncate(model_of(name), "b", given, live=False)


def counter() -> Callable[[], int]:
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    return count


def numbers() -> Iterator[int]:
    yield from itertools.count(1)


class Draws(Three):
    """Draws from an iterator, or calls a function that counts: what no copy has for itself."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * (next(self.kept) if hasattr(self.kept, "__next__") else self.kept()))


@pytest.mark.parametrize("made", [itertools.count, numbers, counter, lambda: iter([1, 2, 3, 4])])
def test_what_cannot_be_copied_is_not_touched(made: Callable[[], Any]) -> None:
    model, whole, x = Draws(made()), Draws(made()), torch.randn(3, 4)
    whole.load_state_dict(model.state_dict())
    with pytest.raises(CannotFollowError, match="keeps something in its attribute 'kept' from call to call"):
        truncate(model, "b", live=False)
    cut = truncate(model, "b")
    for _ in range(3):
        assert torch.equal(cut(x), whole(x))


class HoldsFixed(Three):
    """Holds all of this, and changes nothing of it."""

    def add(self) -> None:
        self.table, self.words, self.make = numpy.ones(4), Slotted(), functools.partial(torch.mul, other=2)
        self.spare, self.rows = iter([1]), array.array("i", [2])
        self.words.calls = 3

    def forward(self, x: Tensor) -> Tensor:
        x = self.make(self.a(x)) * self.rows[0] * self.words.calls * float(self.table[0])
        return self.b(x)


@pytest.mark.parametrize("example", [False, True])
def test_what_does_not_change_is_followed(example: bool) -> None:
    model, x = HoldsFixed(), torch.randn(3, 4)
    cut = truncate(model, "b", (x,) if example else None, live=False)
    assert torch.equal(cut(x), model(x))
    assert next(model.spare) == 1


class ReadsATable(Keeps):
    def step(self, h: Tensor) -> Tensor:
        return h * float(self.kept[0])


def test_a_large_table_is_not_copied() -> None:
    model, x = ReadsATable(), torch.randn(3, 4)
    model.kept = numpy.ones((1 << 22) + 1, dtype=numpy.float32)
    cut = truncate(model, "b", live=True)
    assert torch.equal(cut(x), model.b(model.a(x))) and cut.kept is model.kept


class Shows(Three):
    """Keeps what it never reads, for others to look at, and works with attributes that it has set before."""

    def forward(self, x: Tensor) -> Tensor:
        self.shown = self.a(x)
        self.rows = x.shape[0]
        self.between = self.shown * 2
        x = self.between + self.rows
        del self.between
        return self.c(self.b(x))


@pytest.mark.parametrize("example", [False, True])
def test_what_no_call_reads_is_followed(example: bool) -> None:
    model, x = Shows(), torch.randn(3, 4)
    cut = truncate(model, "b", (x,) if example else None, live=False)
    assert torch.equal(cut(x), model.b(model.a(x) * 2 + 3))
    assert not hasattr(model, "shown") and not hasattr(cut, "shown")


class OfItsClass(Three):
    """What all modules of a class share."""

    past: list[Tensor] = []
    last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x if self.last is None else x + self.last
        self.last = x.detach().mean(0)
        return self.b(x)


class FillsItsClass(OfItsClass):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) * (1 + len(self.past))
        self.past.append(x)
        return self.b(x)


@pytest.mark.parametrize("kind", [OfItsClass, FillsItsClass])
def test_of_a_class(kind: type[nn.Module]) -> None:
    with pytest.raises(CannotFollowError, match="from call to call"):
        truncate(kind(), "b", live=False)
    assert not OfItsClass.past and OfItsClass.last is None
