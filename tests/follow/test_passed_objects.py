"""Objects that a forward makes and its children fill: in slots, sets, closures, and by methods that tensors have.

Each is cut with and without an example, and run three times on new inputs: what an object keeps from call to call would
show. The result is equal to the model's, or the cut is refused, and then kept live.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truncate import CannotFollowError, truncate


def closure() -> Any:
    box: list[Any] = []
    return types.SimpleNamespace(put=box.append, get=lambda: box)


def counter() -> Any:
    """A function that keeps what it is given in an object."""
    box = types.SimpleNamespace(items=())

    def put(item: Any) -> None:
        box.items = (*box.items, item)

    return types.SimpleNamespace(put=put, get=lambda: box.items)


class Slots:
    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[Any] = []


class Scattered(Slots):
    """Has methods that tensors have too, and that change nothing there."""

    def add(self, item: Any) -> None:
        self.items.append(item)

    def scatter(self, item: Any) -> None:
        self.items[:] = [item]


Change = Callable[[Any, Any], Any]
OBJECTS: dict[str, tuple[Callable[[], Any], Change, Callable[[Any], Any]]] = {
    "a set": (lambda: types.SimpleNamespace(v=set()), lambda c, v: c.v.add(v), lambda c: c.v),
    "a deque": (
        lambda: types.SimpleNamespace(v=collections.deque()),
        lambda c, v: c.v.appendleft(v),
        lambda c: list(c.v),
    ),
    "slots": (Slots, lambda c, v: c.items.append(v), lambda c: c.items),
    "add": (Scattered, lambda c, v: c.add(v), lambda c: c.items),
    "scatter": (Scattered, lambda c, v: c.scatter(v), lambda c: c.items),
    "a closure": (closure, lambda c, v: c.put(v), lambda c: c.get()),
    "a function that counts": (counter, lambda c, v: c.put(v), lambda c: c.get()),
}
SHARED = ("a closure", "a function that counts")


class Fill(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.a, self.name = nn.Linear(4, 4), name

    def forward(self, x: Tensor, c: Any) -> None:
        OBJECTS[self.name][1](c, self.a(x))


class Read(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.b, self.name = nn.Linear(4, 4), name

    def forward(self, x: Tensor, c: Any) -> Tensor:
        return self.b(x) + sum(item.sum() for item in OBJECTS[self.name][2](c))


class Net(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.fill, self.read, self.name = Fill(name), Read(name), name

    def forward(self, x: Tensor) -> Tensor:
        c = OBJECTS[self.name][0]()
        self.fill(x, c)
        return self.read(x, c)


@pytest.mark.parametrize("example", [False, True], ids=["no example", "example"])
@pytest.mark.parametrize("target", ["read", ["fill.a", ""]], ids=str)
@pytest.mark.parametrize("name", OBJECTS)
def test_each_call_has_an_object_of_its_own(name: str, target: Any, example: bool) -> None:
    model = Net(name).eval()
    cut = truncate(copy.deepcopy(model), target, args=(torch.randn(3, 4),) if example else None)
    for _ in range(3):
        x = torch.randn(2, 4)
        result = cut(x)
        assert torch.equal(result if target == "read" else result[1], model(x))


@pytest.mark.parametrize("example", [False, True], ids=["no example", "example"])
@pytest.mark.parametrize("name", SHARED)
def test_an_object_that_copies_would_share_is_not_rebuilt(name: str, example: bool) -> None:
    with pytest.raises(CannotFollowError, match="a function whose closure may change"):
        truncate(Net(name), "read", args=(torch.randn(3, 4),) if example else None, live=False)


@dataclasses.dataclass
class Record:
    items: list[Any] = dataclasses.field(default_factory=list)
    count: int = 0


class Bag(types.SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(items=[], count=0)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor, c: Any) -> Tensor:
        c.count += 1
        c.items = [*c.items, x]
        return self.a(x)


class Adds(nn.Module):
    def forward(self, x: Tensor, c: Any) -> Tensor:
        c.add("seen")
        return x + 1


class Parent(nn.Module):
    """Reads what its children have left in an object."""

    def __init__(self, made: Callable[[], Any], child: nn.Module, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self.child, self.b, self.made, self.read = child, nn.Linear(4, 4), made, read

    def forward(self, x: Tensor) -> Tensor:
        c = self.made()
        x = self.child(x, c)
        return self.b(x * (2 + self.read(c)))


READ: dict[str, tuple[Callable[[], Any], Callable[[], nn.Module], Callable[[Any], Any]]] = {
    "a number of an object": (Bag, Counts, lambda c: c.count),
    "how much an object holds": (Bag, Counts, lambda c: len(c.items)),
    "the size of a set": (set, Adds, len),
    "a number of a dataclass": (Record, Counts, lambda c: c.count),
    "how much a dataclass holds": (Record, Counts, lambda c: len(c.items)),
    "a tensor in a dataclass": (Record, Counts, lambda c: sum(c.items)),
}


@pytest.mark.parametrize("example", [False, True], ids=["no example", "example"])
@pytest.mark.parametrize("live", [None, False], ids=["any way", "not live"])
@pytest.mark.parametrize("name", READ)
def test_what_a_child_leaves_in_an_object_is_read_as_it_is_then(name: str, live: Any, example: bool) -> None:
    made, child, read = READ[name]
    model, x = Parent(made, child(), read), torch.randn(3, 4)
    try:
        cut = truncate(copy.deepcopy(model), "b", args=(x,) if example else None, live=live)
    except CannotFollowError as error:
        assert live is False and ("may change" in str(error) or "out of sight" in str(error))
        return
    for _ in range(2):
        x = torch.randn(2, 4)
        assert torch.equal(cut(x), model(x))


def test_a_dataclass_that_no_child_changes_is_read_after_it() -> None:
    class Uses(nn.Module):
        def forward(self, x: Tensor, c: Record) -> Tensor:
            return x * c.count

    model, x = Parent(lambda: Record(count=3), Uses(), lambda c: c.count), torch.randn(3, 4)
    assert torch.equal(truncate(model, "b", live=False)(x), model(x))


class Noise(nn.Module):
    """Asks for a tensor of a shape in the way of old code, in training only."""

    def __init__(self, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.how = nn.Linear(4, 4), nn.Linear(4, 4), how

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.shape[0] > 1:
            x = x * 2
        if self.training:
            x = x + self.how(x).normal_()
        return self.b(x)


@pytest.mark.parametrize(
    "how",
    [lambda x: x.new(x.shape[-1:]), lambda x: x.new(x.size()), lambda x: x.new(*x.shape), lambda x: x.new(4)],
    ids=["a slice of a shape", "a size", "numbers", "a number"],
)
def test_a_tensor_of_a_shape_is_not_one_of_these_numbers(how: Callable[[Tensor], Tensor]) -> None:
    model, x = Noise(how).eval(), torch.randn(3, 4)
    cut = truncate(copy.deepcopy(model), "b", args=(x,), live=False).train()
    torch.manual_seed(0)
    expected = model.train()(x)
    torch.manual_seed(0)
    assert torch.equal(cut(x), expected)


CALLS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "nn.Module.__call__": lambda m, x: nn.Module.__call__(m, x),
    "__call__": lambda m, x: m.__call__(x),
    "_call_impl": lambda m, x: m._call_impl(x),
    "_wrapped_call_impl": lambda m, x: m._wrapped_call_impl(x),
}


class Called(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.m, self.fc, self.how = nn.Linear(4, 4), nn.Linear(4, 4), how

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(CALLS[self.how](self.m, self.m(x)))


@pytest.mark.parametrize("how", CALLS)
def test_a_module_is_called_by_another_name(how: str) -> None:
    model, x, seen = Called(how), torch.randn(3, 4), []
    model.m.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    model(x)
    plain = Called(how)
    plain.load_state_dict(model.state_dict())
    first, last, both = (truncate(plain, path, live=False)(x) for path in ("m:0", "m", ["m:0", "m:1"]))
    assert torch.equal(first, seen[0]) and torch.equal(last, seen[1])
    assert torch.equal(both[0], seen[0]) and torch.equal(both[1], seen[1])
