"""Structures and arguments of forwards that are recorded on an example."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from oracle import capture, equal
from rebuilt import truncate
from recorded import EXAMPLE, WIDE, Layers, drawn, grew, hooked, model_of
from torch import Tensor, nn

from truncate import FixedArgumentError, split


class Pair(NamedTuple):
    left: Tensor
    right: Tensor | None


@dataclasses.dataclass
class Output:
    hidden: Tensor
    extra: tuple[Tensor, ...] = ()
    loss: Tensor | None = None


class Makes(Layers):
    """A child that needs an example, and returns a structure."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x if grew(x) else self.a(x))


class Reads(nn.Module):
    """Takes what a child returned apart by its type, and hands it on."""

    def __init__(self, make: Callable[[Tensor], Any], read: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.child = Makes(make)
        self.read = read
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        made = self.child(x)
        y = self.b(self.read(made)) if isinstance(made, (dict, tuple, Output)) and not grew(x) else x
        return made, y


STRUCTURES = {
    "dict": (lambda x: {"hidden": x, "size": x.shape[0]}, lambda made: made["hidden"] * made["size"]),
    "tuple": (lambda x: (x, (x + 1, None)), lambda made: made[0] * made[1][0]),
    "namedtuple": (lambda x: Pair(x, None), lambda made: made.left if made.right is None else made.right),
    "dataclass": (
        lambda x: Output(x, (x, x + 1)),
        lambda made: made.extra[1] + made.hidden if made.loss is None else made.loss,
    ),
}


@pytest.mark.parametrize(
    "upto", ["b", ["child.a", "b", ""], {"all": "", "child": "child"}], ids=["one", "list", "dict"]
)
@pytest.mark.parametrize("kind", STRUCTURES)
def test_structures_come_out(kind: str, upto: Any) -> None:
    """Dicts, named tuples and dataclasses, of a child and of the model itself."""
    model = Reads(*STRUCTURES[kind]).eval()
    cut = truncate(model, upto, args=(EXAMPLE,))
    seen = capture(model, ["", "child", "child.a", "b"], WIDE)
    given = cut(WIDE)
    paths = {"list": ["child.a", "b", ""], "dict": ["", "child"], "str": ["b"]}[type(upto).__name__]
    values = {"list": lambda: given, "dict": lambda: list(given.values()), "str": lambda: [given]}[
        type(upto).__name__
    ]()
    for path, value in zip(paths, values):
        expected = model(WIDE)[0] if path == "child" else model(WIDE) if path == "" else seen[path][-1]
        assert equal(value, seen[path][-1]) and type(value) is type(expected)


class Ordered(collections.OrderedDict[str, Any]):
    """A dict of a class of its own."""


GIVEN: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor], Callable[[Any], Any]]] = {
    "dict": (lambda x: {"x": x, "by": 2}, lambda given: given["x"], lambda given: {**given, "by": 3}),
    "own dict": (lambda x: Ordered(x=x, by=[2]), lambda given: given["x"], lambda given: Ordered(x=given["x"], by=[])),
    "named tuple": (lambda x: Pair(x, None), lambda given: given.left, lambda given: Pair(given.left, given.left)),
    "dataclass": (
        lambda x: Output(x, (x, x + 1)),
        lambda given: given.extra[1] + given.hidden,
        lambda given: Output(given.hidden, (given.hidden,)),
    ),
    "nested": (
        lambda x: [Output(x), {"pair": Pair(x, None)}],
        lambda given: given[0].hidden + given[1]["pair"].left,
        lambda given: given[:1],
    ),
}


@pytest.mark.parametrize("branching", [False, True])
@pytest.mark.parametrize("kind", GIVEN)
def test_structures_go_in(kind: str, branching: bool) -> None:
    """Into the model itself; one of another form is refused."""
    make, read, other = GIVEN[kind]

    def forward(self: Any, given: Any) -> Tensor:
        x = read(given)
        return x if branching and grew(x) else self.b(self.a(x))

    model = model_of(forward)
    example = make(EXAMPLE)
    cut = truncate(model, "b", args=(example,))
    assert equal(cut(make(WIDE)), hooked(model, make(WIDE)))
    front, back = split(model, "a", args=(example,))
    assert equal(back(front(make(WIDE))), model(make(WIDE)))
    with pytest.raises(FixedArgumentError, match="given"):
        cut(other(make(WIDE)))


def writes_to_its_argument(self: Any, given: Output) -> Tensor:
    given.loss = self.a(given.hidden)
    return given.hidden if grew(given.hidden) else self.b(given.loss)


def test_a_structure_that_the_forward_writes_to() -> None:
    model = model_of(writes_to_its_argument)
    example = Output(EXAMPLE)
    cut = truncate(model, "b", args=(example,))
    assert example.loss is None
    assert equal(cut(Output(WIDE)), hooked(model, Output(WIDE)))


def optional_arguments(
    self: Any, x: Tensor, mask: Tensor | None = None, steps: int = 1, *, options: dict[str, Any] | None = None
) -> Tensor:
    for _ in range(steps):
        x = self.a(x)
    if mask is not None and mask.shape[0] == x.shape[0]:
        x = x * mask
    return self.b(x * (options["scale"] if options and not grew(x) else 1.0))


MASK = drawn(5, 4, seed=8)
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "none": ((), {}),
    "mask": ((MASK[:2],), {}),
    "steps": ((None, 3), {}),
    "all": ((), {"mask": MASK[:2], "steps": 2, "options": {"scale": 2.0}}),
}


@pytest.mark.parametrize("name", CALLS)
def test_arguments_are_those_of_the_example(name: str) -> None:
    """What the example gave or left out can be given or left out again, with tensors of another size."""
    args, kwargs = CALLS[name]
    model = model_of(optional_arguments)
    cut = truncate(model, "b", args=(EXAMPLE, *args), kwargs=kwargs)
    args = tuple(MASK if isinstance(arg, Tensor) else arg for arg in args)
    kwargs = {key: MASK if isinstance(value, Tensor) else value for key, value in kwargs.items()}
    assert equal(cut(WIDE, *args, **kwargs), hooked(model, WIDE, *args, **kwargs))


@pytest.mark.parametrize(
    ("example", "args", "kwargs", "match"),
    [
        ("none", (MASK,), {}, "mask = None"),
        ("none", (), {"mask": MASK}, "mask = None"),
        ("none", (), {"steps": 2}, "steps = 1"),
        ("none", (), {"options": {"scale": 1.0}}, "options = None"),
        ("steps", (), {}, "steps = 3"),
        ("steps", (), {"steps": 2}, "steps = 3"),
        ("all", (MASK, 2), {"options": {"scale": 3.0}}, r"options\['scale'\] = 2.0"),
        ("all", (MASK, 2), {"options": {"scale": 2.0, "more": 1}}, "options = dict of 1"),
        ("all", (MASK, 2), {}, "options"),
        ("mask", (), {}, "mask"),
    ],
)
def test_another_argument_is_refused(example: str, args: Any, kwargs: Any, match: str) -> None:
    given, named = CALLS[example]
    cut = truncate(model_of(optional_arguments), "b", args=(EXAMPLE, *given), kwargs=named)
    with pytest.raises(FixedArgumentError, match=match):
        cut(WIDE, *args, **kwargs)


def list_of_rows(self: Any, images: list[Tensor], names: dict[str, Tensor]) -> Tensor:
    return self.b(torch.stack([self.a(image) for image in images]) + names["shift"])


def test_lists_keep_their_number_of_items() -> None:
    model = model_of(list_of_rows)
    cut = truncate(model, "b", args=(list(EXAMPLE),), kwargs={"names": {"shift": EXAMPLE[0]}})
    names = {"shift": drawn(4, seed=9)}
    rows = list(drawn(2, 4, seed=8))
    assert equal(cut(rows, names), hooked(model, rows, names))
    assert equal(cut(images=rows, names=names), hooked(model, rows, names))
    for other in (rows[:1], [*rows, rows[0]], []):
        with pytest.raises(FixedArgumentError, match="images = list of 2"):
            cut(other, names)
