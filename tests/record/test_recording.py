"""Forwards that need an example input: what is recorded, what stays free, what is fixed, and what is refused.

Each forward here is that of a model with two layers, `a` and `b`. On any input at all, a cut at `b` either returns what
a hook on `b` captures, or raises.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import itertools
import logging
import math
import pickle
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from oracle import capture, equal
from recorded import EXAMPLE, Forward, Layers, content_may_decide, drawn, grew, hooked, model_of, outcome
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from truncate import (
    CannotFollowError,
    ContentWarning,
    FixedArgumentError,
    TruncateError,
    WrongResultError,
    split,
    truncate,
)
from truncate._record.recording import Recording

LOGGER = logging.getLogger(__name__)

# -- what stays free -------------------------------------------------------------------------------------------------

FREE: list[Forward] = []
FIXED: list[Any] = []
REFUSED: list[Any] = []


def free(forward: Forward) -> Forward:
    FREE.append(forward)
    return forward


def fixed(*others: Tensor, match: str = "unlike the example|cut on an example") -> Any:
    """A forward of which something was fixed, with inputs that are unlike the example in that."""

    def add(forward: Forward) -> Forward:
        FIXED.append(pytest.param(forward, others, match, id=forward.__name__))
        return forward

    return add


def refused(match: str, broken: str = "") -> Any:
    def add(forward: Forward) -> Forward:
        marks = [pytest.mark.xfail(strict=True, reason=broken)] if broken else []
        REFUSED.append(pytest.param(forward, match, id=forward.__name__, marks=marks))
        return forward

    return add


@free
def asks_for_a_size(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x))


@free
def asks_whether_there_is_anything(self: Any, x: Tensor) -> Tensor:
    if grew(x) or not all(x.shape) or not x.shape[0]:
        return x
    assert x.shape[1]
    return self.b(self.a(x) / (x.shape[0] or 1) if x.shape[0] else x)


@free
def shows_a_size(self: Any, x: Tensor) -> Tensor:
    if not grew(x):
        LOGGER.debug(f"{x.shape[0]} rows, padded to {x.shape[0] + 1}")
        LOGGER.debug(f"all of {x.shape} and {x.shape[:1]}")
    return x if grew(x) else self.b(self.a(x))


@free
def computes_with_shapes(self: Any, x: Tensor) -> Tensor:
    if grew(x) or x.shape.numel() > 10**6 or not isinstance(x.shape, torch.Size) or type(x.shape) is not torch.Size:
        return x
    n = x.shape[:1].numel() * (x.shape + (3,)).numel() + ((3,) + x.shape).numel() + len(x.shape)
    return self.b(self.a(x.reshape(x.shape[:1] + (4,))) / n * np.sqrt(x.shape[1]))


@free
def computes_in_a_comprehension(self: Any, x: Tensor) -> Tensor:
    sizes = [int(size) + 1 for size in x.shape]
    return x if grew(x) else self.b(self.a(x) * (lambda: len(x) + sizes[0])())


@free
def changes_a_shape_in_place(self: Any, x: Tensor) -> Tensor:
    """Its sizes were read before, and are used after that."""
    x = self.a(x) if not grew(x) else x
    y = x[:2].repeat(2, 1).clone()
    rows, columns, total = y.shape[0], y.size(1), y.numel()
    y.t_()
    return x if grew(x) else self.b(x * y.sum() / (rows + 2 * columns + total * y.shape[0]))


@free
def takes_half_of_the_batch(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x[: int(x.shape[0] * 0.5) + 1]))


@free
def computes_with_sizes(self: Any, x: Tensor) -> Tensor:
    n = len(x.shape) + round(x.shape[0] * 1.7) + divmod(x.size(0), 3)[1] + math.ceil(x.shape[0] / 2) - abs(-x.numel())
    return x if grew(x) else self.b(self.a(x) * n)


@free
def makes_tensors_of_its_size(self: Any, x: Tensor) -> Tensor:
    n = x.shape[0]
    made = torch.zeros(n, 4) + torch.arange(n)[:, None] + torch.full((n, 1), 2.0) + torch.tensor([n, 1.0]).sum()
    return x if grew(x) else self.b(self.a(x) + made.to(x))


@free
def uses_a_number_out_of_a_tensor(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * x.abs().max().item() + float(x.sum()))


@free
def takes_some_rows(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    return y if grew(x) else self.b(y[torch.where(y[:, 0] > -9)[0]][: (x > -9).sum()])


@free
def writes_on_slices(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    y[:, 0] = x.shape[0]
    y.view(-1)[::2].mul_(2)
    x += 1
    return y if grew(x) else self.b(y + x)


@free
def draws_random_numbers(self: Any, x: Tensor) -> Tensor:
    y = self.a(x) + torch.randn(x.shape[0], 4).to(x.device) + torch.rand_like(x)
    return y if grew(x) else self.b(nn.functional.dropout(y))


@free
def unpacks_a_shape(self: Any, x: Tensor) -> Tensor:
    n, c = x.shape
    return x if n > 1000 else self.b(self.a(x).view(n, c // 2, -1).reshape(x.shape[:-1] + (c,)))


@free
def takes_a_logarithm(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * math.log(x.shape[0]))


@free
def takes_the_root_of_a_size(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * math.sqrt(x.shape[0]))


@free
def hands_an_answer_on(self: Any, x: Tensor) -> Tensor:
    """To a function that takes nothing but a bool."""
    y = self.a(x)[None, None]
    attend, causal = nn.functional.scaled_dot_product_attention, x.shape[0] > 2
    y = attend(y, y, y, is_causal=causal) + torch.nn.functional.scaled_dot_product_attention(y, y, y, is_causal=causal)
    return x if grew(x) else self.b(y[0, 0])


@free
def divides_a_fraction_by_a_size(self: Any, x: Tensor) -> Tensor:
    """Where Python asks the float first, which computes with an int in C."""
    by = 1.0 / x.shape[0] + 0.5 * x.shape[0] - 2.0 ** x.shape[0] + max(2.5, 1.5 + x.shape[1])
    return x if grew(x) else self.b(self.a(x) * by * (lambda n: 0.25 - n)(x.shape[0]) * (self.norm.eps + x.shape[0]))


@free
def repeats_with_a_tensor(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(x.shape[0] * self.a(x) * x.shape[0])


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize("forward", FREE)
def test_sizes_stay_free(forward: Forward, batch: int) -> None:
    """Another batch size than the example's, and other content."""
    model = model_of(forward)
    cut = truncate(model, "b", args=(EXAMPLE,))
    expected = hooked(model, drawn(batch, 4))
    assert isinstance(expected, Tensor) and equal(outcome(lambda: cut(drawn(batch, 4))), expected)


# -- what is fixed, and checked when the result runs -----------------------------------------------------------------

WIDE = drawn(5, 4)


@fixed(-torch.ones(2, 4), torch.ones(2, 4))
def branches_on_content(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x) if x.sum() > 0 else x)


@fixed(WIDE)
def branches_on_a_size(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x) if x.shape[0] < 3 else x)


@fixed(WIDE)
def joins_answers(self: Any, x: Tensor) -> Tensor:
    """And hands what comes out to a function that takes nothing but a bool, which a helper calls."""
    causal = x.shape[0] > 2 and x.shape[1] > 2
    return x if grew(x) else self.b(HELPERS["attend"](self.a(x)[None, None], causal)[0, 0])


HELPERS = {"attend": lambda y, causal: nn.functional.scaled_dot_product_attention(y, y, y, is_causal=causal)}


@fixed(WIDE)
def prints_a_shape(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * len(f"{x.shape} {x.shape[0]}".replace("2", "")))


@fixed(WIDE)
def writes_a_number_in_binary(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * len(bin(x.shape[0])))


@fixed(WIDE)
def compares_shapes(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x) if x.shape == (2, 4) else x)


@fixed(WIDE)
def loops_over_a_size(self: Any, x: Tensor) -> Tensor:
    for _ in range(x.shape[0]):
        x = self.a(x)
    return self.b(x)


@fixed(WIDE)
def loops_over_rows(self: Any, x: Tensor) -> Tensor:
    return self.b(torch.stack([self.a(row) * i for i, row in enumerate(x)]))


@fixed(WIDE)
def splits_into_rows(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(torch.cat([part * i for i, part in enumerate(self.a(x).split(1))]))


@fixed(drawn(2, 3, 4))
def counts_dimensions(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x) if len(x.shape) == 2 else x)


@fixed(drawn(2, 4).double())
def asks_for_a_type(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x) if x.dtype == torch.float32 else x.float())


@fixed(drawn(2, 4).sort().values, drawn(2, 4).sort(descending=True).values)
def branches_on_a_number_out_of_a_tensor(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x) if x[0, 0].item() > x[0, 3].item() else x)


@fixed(EXAMPLE.flip(1), EXAMPLE.flip(0))
def indexes_with_a_tensor(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * self.table[x.argmax()])


@fixed(torch.ones(2, 4))
def loops_over_a_count(self: Any, x: Tensor) -> Tensor:
    for _ in range(int((x > 0).sum())):
        x = self.a(x)
    return self.b(x)


@fixed(drawn(2, 4).t().contiguous().t())
def asks_for_strides(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) if x.is_contiguous() else x)


@fixed(drawn(2, 4).long())
def asks_whether_it_is_floating(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) if x.is_floating_point() else x.float())


@fixed(drawn(2, 4).requires_grad_())
def asks_for_gradients(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) if x.requires_grad else x)


@fixed(WIDE)
def measures_the_text_of_a_shape(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * len(str(x.shape)))


@fixed(drawn(2, 4) * 1e6)
def measures_the_text_of_a_number(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * len(f"{x.sum().item():.1f}"))


@fixed(WIDE)
def indexes_a_list(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * self.table[x.shape[0]])


@fixed(WIDE)
def compares_a_fraction_with_a_size(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * max(2.5, x.shape[0]))


@fixed(WIDE)
def counts_with_c(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * sum(itertools.islice(self.table, x.shape[0])) + x.shape.numel())


@fixed(WIDE)
def computes_a_complex_number(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * abs(1j * x.shape[0]))


@fixed(WIDE)
def repeats_a_list(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * sum([1] * x.shape[0]))


@fixed(WIDE)
def looks_a_size_up(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * {5: 2}.get(x.shape[0], 1))


@fixed(EXAMPLE * -5, EXAMPLE * 5)
def asks_what_it_does_not_use(self: Any, x: Tensor) -> Tensor:
    return self.b(-x if self.a(x).sum() > 0 else x)


@content_may_decide
@pytest.mark.parametrize(("forward", "others", "match"), FIXED)
def test_another_way_raises(forward: Forward, others: tuple[Tensor, ...], match: str) -> None:
    """Wherever the model would go another way than on the example, the result raises; elsewhere it is equal."""
    model = model_of(forward)
    cut = truncate(model, "b", args=(EXAMPLE,))
    assert equal(outcome(lambda: cut(EXAMPLE.clone())), hooked(model, EXAMPLE.clone()))
    raised = 0
    for other in others:
        got, expected = outcome(lambda x=other: cut(x.clone())), hooked(model, other.clone())
        if isinstance(got, Exception):
            raised += 1
            assert isinstance(got, AssertionError) and re.search(match, str(got)), got
        else:
            assert equal(got, expected)
    assert raised


def skips_a_mask(self: Any, x: Tensor, mask: Tensor) -> Tensor:
    return self.b(x) if mask.all() else self.b(x * mask)


def asks_a_buffer(self: Any, x: Tensor, mask: Tensor) -> Tensor:
    return self.b(x) if self.count.sum() == 0 else self.b(x * mask)


@content_may_decide
@pytest.mark.parametrize("forward", [skips_a_mask, asks_a_buffer])
def test_a_question_for_what_is_not_used_is_checked(forward: Forward) -> None:
    """An argument or a buffer that matters for nothing but the way that was taken, as a mask of ones."""
    model = model_of(forward)
    cut = truncate(model, "b", args=(EXAMPLE, torch.ones(2, 4)))
    model.count += 1
    with pytest.raises(AssertionError, match="unlike the example"):
        cut(EXAMPLE, torch.zeros(2, 4))


# -- what is refused -------------------------------------------------------------------------------------------------


@refused("computes with numpy")
def makes_an_array(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(torch.as_tensor(np.asarray(self.a(x).detach()) + 1))


@refused("numpy|out of sight")
def computes_in_numpy(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(torch.from_numpy(self.a(x).detach().numpy() + 1))


@refused("random numbers outside of torch")
def draws_in_python(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * random.random())


@refused("random numbers outside of torch")
def draws_in_numpy(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * np.random.rand())


@refused("seeds the random numbers")
def sets_the_seed(self: Any, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return x if grew(x) else self.b(self.drop(self.a(x)))


@refused("out of sight|vmap|cannot be seen")
def maps_over_rows(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(torch.vmap(lambda row: row * 2)(x))


@refused("keeps the number or flag 'calls' from call to call")
def counts_in_python(self: Any, x: Tensor) -> Tensor:
    self.calls = getattr(self, "calls", 0) + 1
    return x if grew(x) else self.b(self.a(x) * self.calls)


@refused("meets an error of torch: shape")
def goes_on_after_an_error(self: Any, x: Tensor) -> Tensor:
    with contextlib.suppress(RuntimeError):
        x = x + x.view(10, 4).sum()
    return x if grew(x) else self.b(self.a(x))


@refused("from call to call|list", broken="a list that grows from call to call is not noticed")
def grows_a_list_of_its_own(self: Any, x: Tensor) -> Tensor:
    self.table.append(1.0)
    return x if grew(x) else self.b(self.a(x) * len(self.table))


@pytest.mark.parametrize(("forward", "match"), REFUSED)
def test_refuses(forward: Forward, match: str) -> None:
    with pytest.raises(CannotFollowError, match=match) as caught:
        truncate(model_of(forward), "b", args=(EXAMPLE,))
    assert "test_recording.py" in str(caught.value) and "This cannot be recorded. Stop before it." in str(caught.value)


# -- structures, arguments -------------------------------------------------------------------------------------------


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


# -- objects that are made on the way --------------------------------------------------------------------------------


class Cache:
    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def update(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return torch.stack(self.seen).sum(0) * len(self.seen)


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        return cache.update(self.fc(x))


class WithCache(nn.Module):
    """Hands a cache of its own, or one that it is given, from child to child."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Remembering()
        self.two = Remembering()
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        cache = Cache() if cache is None else cache
        return self.b(self.two(self.one(x, cache) if x.shape[0] < 1000 else x, cache))


@pytest.mark.parametrize("path", ["one", "two", "two.fc", "b"])
def test_each_run_has_a_cache_of_its_own(path: str) -> None:
    model = WithCache()
    cut = truncate(model, path, args=(EXAMPLE,))
    expected = capture(model, [path], WIDE)[path][-1]
    assert equal(cut(WIDE), expected) and equal(cut(WIDE), expected) and equal(cut(WIDE[:3]), expected[:3])


class Sizes:
    """Sizes of a batch, as detection hands them to its children: where they lie, nobody sees that C code reads them."""

    def __init__(self, rows: int, pair: tuple[int, int]) -> None:
        self.rows = rows
        self.nested = {"pairs": [pair]}


class Clipping(nn.Module):
    def forward(self, x: Tensor, sizes: Sizes) -> Tensor:
        return x.clamp(max=sizes.rows) * sizes.nested["pairs"][0][1]


class RecordedInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.clip = Clipping()

    def forward(self, x: Tensor, sizes: Sizes) -> Tensor:
        return self.clip(x, sizes) if x.shape[0] < 1000 else x


class PassesSizes(nn.Module):
    """A branch after the children goes the model's way only if they found the sizes as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = Clipping()
        self.inside = RecordedInside()
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        sizes = Sizes(x.shape[0], (x.shape[0], x.shape[1]))
        x = self.inside(self.clip(x * 10, sizes), sizes)
        if x.abs().max() > 1e6 or x.shape[0] * sizes.nested["pairs"][0][1] > 1000:
            return x
        return self.b(x * sizes.rows)


@content_may_decide
@pytest.mark.parametrize("path", ["clip", "inside.clip", "inside", "b"])
@pytest.mark.parametrize("check", [True, False])
def test_children_find_real_sizes_inside_of_objects(path: str, check: bool) -> None:
    model = PassesSizes()
    cut = truncate(model, path, args=(EXAMPLE,), check=check)
    for batch in (2, 5, 3):
        x = drawn(batch, 4)
        assert equal(cut(x), capture(model, [path], x)[path][-1])


class Counts(nn.Module):
    """Adds its rows to a number in an object, and a list there."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, sizes: Sizes) -> Tensor:
        sizes.rows += x.shape[0]
        return self.fc(x) * sizes.rows


class ReadsCounts(nn.Module):
    def __init__(self, starts_at: int | None, changes: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.b = Counts(), Counts(), nn.Linear(4, 4)
        self.starts_at = starts_at
        self.changes = changes

    def forward(self, x: Tensor) -> Tensor:
        if grew(x):
            return x
        sizes = Sizes(x.shape[0] if self.starts_at is None else self.starts_at, (1, 1))
        y = self.one(x, sizes) / sizes.rows
        if self.changes:
            sizes.rows = 2 * x.shape[1]
        return self.b(self.two(y, sizes) / sizes.rows)


@pytest.mark.parametrize("starts_at", [None, 0, 3])
@pytest.mark.parametrize("path", ["one.fc", "two.fc", "b"])
def test_numbers_that_children_leave_in_objects(path: str, starts_at: int | None) -> None:
    model = ReadsCounts(starts_at)
    cut = truncate(model, path, args=(EXAMPLE,))
    assert equal(cut(WIDE), capture(model, [path], WIDE)[path][-1])
    assert equal(cut(WIDE), capture(model, [path], WIDE)[path][-1])


class Notes(nn.Module):
    """Leaves what it computes in an object, and returns something that nobody needs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        cache.seen.append(self.fc(x))
        return x.sum()


class ReadsNotes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last, self.b = Notes(), Notes(), Remembering(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        cache = Cache()
        self.one(x, cache)
        self.two(x if x.shape[0] < 1000 else x * 2, cache)
        return self.b(self.last(x, cache))


@pytest.mark.parametrize("path", ["two.fc", "last.fc", "last", "b"])
def test_a_call_is_kept_for_what_it_leaves_in_an_object(path: str) -> None:
    model = ReadsNotes()
    cut = truncate(model, path, args=(EXAMPLE,))
    assert equal(cut(WIDE), capture(model, [path], WIDE)[path][-1])


def test_an_object_that_is_changed_between_two_calls() -> None:
    model = ReadsCounts(0, changes=True)
    assert equal(truncate(model, "one.fc", args=(EXAMPLE,))(WIDE), capture(model, ["one.fc"], WIDE)["one.fc"][-1])
    with pytest.raises(CannotFollowError, match="changes a Sizes that it has passed on before"):
        truncate(model, "b", args=(EXAMPLE,))


# -- what children return --------------------------------------------------------------------------------------------


FORMS = ["a part is None", "None", "items", "nested items", "keys", "other keys", "text", "type", "class"]


class ReturnsAForm(nn.Module):
    """Returns something of one form for few rows, or in evaluation, and of another one else."""

    def __init__(self, form: str, by_mode: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.form = form
        self.by_mode = by_mode

    def forward(self, x: Tensor) -> Any:
        y = self.fc(x)
        more = self.training if self.by_mode else x.shape[0] > 3
        forms = {
            "a part is None": (y, y * 3 if more else None),
            "None": y * 3 if more else None,
            "items": (y, y * 3) if more else (y,),
            "nested items": ((y, (y, y) if more else (y,)),),
            "keys": {"y": y, "more": y * 3} if more else {"y": y},
            "text": (y, "more" if more else "no more"),
            "class": (y, y * 3) if more else y,
            "other keys": {"y": y, "more": y} if more else {"y": y, "less": y},
            "type": (y, torch.float64 if more else torch.float32),
        }
        return forms[self.form]


class AsksForTheForm(nn.Module):
    def __init__(self, form: str, by_mode: bool) -> None:
        super().__init__()
        self.child = ReturnsAForm(form, by_mode)
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if grew(x):
            return x
        found = self.child(x)
        answers = {
            "a part is None": lambda: found[0] * (2 if found[1] is None else 1),
            "None": lambda: x if found is None else found,
            "items": lambda: found[-1],
            "nested items": lambda: found[0][0] * len(found[0][1]),
            "keys": lambda: found["more"] if "more" in found else found["y"],
            "text": lambda: found[0] * (2 if found[1] == "more" else 1),
            "other keys": lambda: found["y"] * (2 if "more" in found else 1),
            "type": lambda: found[0] * (2 if found[1] == torch.float64 else 1),
            "class": lambda: found[0] if isinstance(found, (tuple, list)) else found,
        }
        return self.b(answers[self.child.form]())


@pytest.mark.parametrize("by_mode", [False, True], ids=["by-size", "by-mode"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("more_in_example", [False, True])
def test_a_child_that_returns_another_form(form: str, by_mode: bool, more_in_example: bool) -> None:
    torch.manual_seed(0)
    model = AsksForTheForm(form, by_mode)
    few, many = (drawn(2, 4), drawn(2, 4)) if by_mode else (drawn(2, 4), drawn(5, 4))
    like, unlike = (many, few) if more_in_example else (few, many)
    model.train(by_mode and more_in_example)
    cut = truncate(model, "b", args=(like,))
    assert equal(cut(like), model(like))
    model.train(by_mode and not more_in_example)
    cut.train(model.training)
    with pytest.raises(
        (AssertionError, TypeError), match="cut on an example with|for the class|must be Tensor, not (NoneType|tuple)"
    ):
        cut(unlike)


class GivesMoreInTraining(nn.Module):
    """Returns None or not as its mode is, of which its parent reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.fc(x), (x if self.training else None)


class ReadsTheFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child = GivesMoreInTraining()
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x if mask is None else x * mask
        x, _ = self.child(x)
        return x if grew(x) else self.b(x)


def test_a_form_that_the_forward_does_not_ask_for() -> None:
    """None is checked only where the forward may ask for it; what it asks of its own arguments is another matter."""
    model = ReadsTheFirst().eval()
    cut = truncate(model, "b", args=(EXAMPLE,))
    assert equal(cut(WIDE), model(WIDE)) and equal(cut.train()(WIDE), model.train()(WIDE))


class BranchesInAChild(nn.Module):
    """Returns None or not as its mode is; its parent branches on that and asks for no mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        kept = None if self.training else x * 2
        x = self.a(x)
        return (x if grew(x) else x * 2), kept


class BranchesOnAChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child = BranchesInAChild()
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x, kept = self.child(x)
        return self.b(x if kept is None else x + kept)


@pytest.mark.parametrize("made_in", [False, True], ids=["made-in-eval", "made-in-train"])
def test_what_a_child_returns_decides_by_its_mode(made_in: bool) -> None:
    model = BranchesOnAChild().train(made_in)
    cut = truncate(model, ["child.a", "b"], args=(EXAMPLE,))
    front, back = split(model, "child.a", args=(EXAMPLE,), crossing="pass")
    for training in (made_in, not made_in):
        for module in (model, cut, front, back):
            module.train(training)
        assert equal(cut(WIDE)[1], model(WIDE)) and equal(back(front(WIDE)), model(WIDE))


# -- blocks without gradients ----------------------------------------------------------------------------------------


def frozen_part(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = self.a(x)
    return x if grew(x) else self.b(x)


def asks_behind_a_frozen_part(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = self.a(x)
    x = self.norm(x)
    return x if grew(x) else self.b(x * 2 if torch.is_grad_enabled() else x)


def set_off(self: Any, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(False):
        x = self.a(x)
    return x if grew(x) else self.b(x)


def set_as_it_is(self: Any, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        x = self.a(x)
    return x if grew(x) else self.b(x)


@torch.no_grad()
def all_of_it_is_frozen(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x))


@pytest.mark.parametrize("cut_with", [True, False])
@pytest.mark.parametrize(
    "forward", [frozen_part, asks_behind_a_frozen_part, set_off, set_as_it_is, all_of_it_is_frozen]
)
def test_blocks_end_where_they_end(forward: Forward, cut_with: bool) -> None:
    """What follows has gradients, or not, as the caller has them."""
    model = model_of(forward)
    with torch.set_grad_enabled(cut_with):
        cut = truncate(model, "b", args=(EXAMPLE,))
    for with_gradients in (True, False):
        with torch.set_grad_enabled(with_gradients):
            expected = hooked(model, WIDE)
            try:
                result = cut(WIDE)
            except AssertionError:
                assert "is_grad_enabled" in forward.__code__.co_names and with_gradients is not cut_with
                continue
        assert equal(result, expected) and result.requires_grad is expected.requires_grad


# -- modes -----------------------------------------------------------------------------------------------------------


def both_modes(self: Any, x: Tensor) -> Tensor:
    if self.training and x.shape[0] < 1000:
        return self.b(self.drop(self.norm(self.a(x))))
    return self.b(self.norm(x) * (2 if x.shape[0] < 1000 else 1))


@pytest.mark.parametrize("made_in", [False, True], ids=["made-in-eval", "made-in-train"])
def test_both_modes_are_there(made_in: bool) -> None:
    """With dropout and running statistics, switched there and back."""
    model, untouched = model_of(both_modes).train(made_in), model_of(both_modes)
    cut = truncate(model, "b", args=(EXAMPLE,))
    for training in (made_in, not made_in, made_in):
        expected = hooked(untouched.train(training), WIDE)
        cut.train(training)
        assert equal(outcome(lambda: cut(WIDE)), expected)
        assert equal(dict(model.named_buffers()), dict(untouched.named_buffers()))


def fails_in_training(self: Any, x: Tensor) -> Tensor:
    if self.training and x.shape[0] < 3:
        raise ValueError("too few for training")
    return self.b(self.a(x) if x.shape[0] < 1000 else x)


def test_a_mode_that_the_example_does_not_run_in() -> None:
    model = model_of(fails_in_training)
    cut = truncate(model, "b", args=(EXAMPLE,))
    assert equal(cut(WIDE), model(WIDE))
    with pytest.raises(TruncateError, match="does not run in this mode: .*too few for training"):
        cut.train()(WIDE)


# -- devices ---------------------------------------------------------------------------------------------------------


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
    with pytest.raises(CannotFollowError, match="asks for the content of a tensor, which an example of meta tensors"):
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


# -- what the result says, and how it is checked ---------------------------------------------------------------------


@content_may_decide
def test_assumptions_say_what_was_fixed() -> None:
    cut = truncate(model_of(branches_on_content), "b", args=(EXAMPLE,))
    (found,) = cut.assumptions
    line = branches_on_content.__code__.co_firstlineno + 2
    assert (found.module, found.file, found.line, found.value) == ("", __file__, line, bool(EXAMPLE.sum() > 0))
    assert found.code == "return self.b(self.a(x) if x.sum() > 0 else x)"
    assert str(found) == (
        f"the content of a tensor decided, which was {found.value}: {found.code} "
        f"({__file__}, line {line}, in the forward of the model itself)"
    )


@content_may_decide
def test_assumptions_name_the_module_and_come_once() -> None:
    model = nn.Sequential(model_of(branches_on_content), nn.ReLU(), model_of(loops_over_a_size))
    cut = truncate(model, "2.b", args=(EXAMPLE,))
    assert [found.module for found in cut.assumptions] == ["2"]
    assert [found.module for found in truncate(model, ["0.b", "2.b"], args=(EXAMPLE,)).assumptions] == ["0", "2"]


def test_a_block_that_runs_twice_says_it_once() -> None:
    block = model_of(branches_on_a_size)
    assert len(truncate(nn.Sequential(block, block), ["0.b:0", "1.b"], args=(EXAMPLE,)).assumptions) == 1


def test_nothing_is_assumed_where_nothing_is_recorded() -> None:
    model = model_of(needs_no_example)
    assert truncate(model, "b").assumptions == truncate(model, "b", args=(EXAMPLE,)).assumptions == ()


def test_branches_on_content_warn_once_for_each_module() -> None:
    """By name; and not where only sizes decide."""
    model = nn.Sequential(*(model_of(f) for f in (branches_on_content, branches_on_a_size, indexes_with_a_tensor)))
    with pytest.warns(ContentWarning) as caught:
        truncate(model, ["0.b", "1.b", "2.b"], args=(EXAMPLE,))
    said = [str(warning.message).partition(" decides")[0] for warning in caught]
    assert said == ["the forward of 0", "the forward of 2"]
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize("forward", [branches_on_a_number_out_of_a_tensor, loops_over_a_count])
def test_branches_on_items_warn_too(forward: Forward) -> None:
    with pytest.warns(ContentWarning):
        truncate(model_of(forward), "b", args=(EXAMPLE,))


@pytest.fixture
def sabotaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records every 3 as a 4."""
    real = Recording.lower
    wrong: Any = lambda self, value: 4 if type(value) is int and value == 3 else real(self, value)  # noqa: E731
    monkeypatch.setattr(Recording, "lower", wrong)


def triples(self: Any, x: Tensor) -> Tensor:
    return x if grew(x) else self.b(self.a(x) * 3)


@pytest.mark.usefixtures("sabotaged")
def test_a_wrong_recording_is_noticed() -> None:
    with pytest.raises(WrongResultError, match="'b': the result differs from the model on the example") as caught:
        truncate(model_of(triples), "b", args=(EXAMPLE,))
    assert "check=False" in str(caught.value) and "TruncatedModel" in str(caught.value)


@pytest.mark.usefixtures("sabotaged")
def test_the_check_can_be_left_out() -> None:
    cut = truncate(model_of(triples), "b", args=(EXAMPLE,), check=False)
    assert not equal(cut(EXAMPLE), model_of(triples)(EXAMPLE))


def needs_no_example(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x))


@pytest.mark.parametrize("forward", [triples, needs_no_example])
@pytest.mark.parametrize(
    ("args", "kwargs", "match"),
    [
        (EXAMPLE, None, "args=\\(x,\\), not Tensor"),
        (None, [EXAMPLE], "as a dict, not list"),
        ((), None, "does not fit forward"),
        ((EXAMPLE, EXAMPLE), None, "too many positional arguments"),
        (None, {"y": EXAMPLE}, "does not fit forward"),
        ((drawn(2, 7),), None, "run on (it|the example)"),
        ((None,), None, "holds no tensor"),
    ],
)
def test_an_example_that_does_not_fit(forward: Forward, args: Any, kwargs: Any, match: str) -> None:
    with pytest.raises(TruncateError, match=match):
        truncate(model_of(forward), "b", args=args, kwargs=kwargs)


# -- the model, and the modules that come out ------------------------------------------------------------------------


def changes_everything(self: Any, x: Tensor) -> Tensor:
    self.count += 1
    self.count = self.count * 2
    self.last = self.norm(self.a(x))
    self.rows.data.mul_(1.0)
    x.mul_(2)
    return self.last if grew(x) else self.b(self.drop(self.last) + self.count)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("check", [False, True], ids=["", "checked"])
def test_the_model_is_untouched(training: bool, check: bool) -> None:
    """Values, gradients, hooks, attributes, random states, modes; and the example."""
    model, x = model_of(changes_everything).train(training), EXAMPLE.clone()
    calls: list[Any] = []
    model.a.register_forward_hook(lambda *given: calls.append(given))
    model.b.weight.grad = torch.ones(4, 4)
    tensors = {id(t): (t, t.clone(), t._version) for t in (*model.parameters(), *model.buffers())}
    attributes = [{key: id(value) for key, value in vars(module).items()} for module in model.modules()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    truncate(model, "b", args=(x,), check=check)
    for tensor, before, version in tensors.values():
        assert torch.equal(tensor, before)
        assert tensor._version == version or tensor is model.rows
    assert attributes == [{key: id(value) for key, value in vars(module).items()} for module in model.modules()]
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert torch.equal(model.b.weight.grad, torch.ones(4, 4)) and model.a.weight.grad is None
    assert torch.equal(x, EXAMPLE) and x._version == 0 and all(m.training is training for m in model.modules())


def test_gradients_are_those_of_the_model() -> None:
    grads = []
    for use in (lambda model: model, lambda model: truncate(model, "b", args=(EXAMPLE,))):
        model, x = model_of(takes_half_of_the_batch), WIDE.clone()
        use(model)(x).square().sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert equal(*grads) and set(grads[0]) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_holds_only_what_is_needed() -> None:
    cut = truncate(model_of(branches_on_a_size), "b", args=(EXAMPLE,))
    assert set(cut.state_dict()) == {"a.weight", "a.bias", "b.weight", "b.bias"}


@content_may_decide
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda cut: pickle.loads(pickle.dumps(cut))], ids=["copy", "pickle"])
@pytest.mark.parametrize("forward", [*FREE, branches_on_content, both_modes])
def test_copies_are_the_same(forward: Forward, twin: Callable[[nn.Module], nn.Module]) -> None:
    cut = truncate(model_of(forward), "b", args=(EXAMPLE,))
    twin_cut = twin(cut)
    assert twin_cut.assumptions == cut.assumptions
    assert equal(outcome(lambda: twin_cut(EXAMPLE.clone())), outcome(lambda: cut(EXAMPLE.clone())))


def test_exports_with_a_free_batch() -> None:
    model = model_of(asks_for_a_size)
    cut = truncate(model, "b", args=(EXAMPLE,))
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(cut, (EXAMPLE,), dynamic_shapes=(batch,)).module()
    assert equal(program(WIDE), model(WIDE))


def test_an_example_changes_nothing_where_none_is_needed() -> None:
    model = model_of(lambda self, x: self.b(self.a(x) * x.shape[0]))
    sources = [type(cut)._truncated_source for cut in (truncate(model, "b"), truncate(model, "b", args=(EXAMPLE,)))]
    assert sources[0] == sources[1]


class CalledInItsOwnWay(nn.Module):
    """In each mode a child that needs an example is called with other arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.child = model_of(lambda self, x, scale=1.0: x if grew(x) else self.b(self.a(x) * scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x, 2.0) if self.training else self.child(x)


@pytest.mark.parametrize("training", [False, True], ids=["made-in-eval", "made-in-train"])
def test_a_child_that_each_mode_calls_in_its_own_way(training: bool) -> None:
    model = CalledInItsOwnWay().train(training)
    cut = truncate(model, "child.b", args=(EXAMPLE,))
    for mode in (False, True):
        expected = capture(model.train(mode), ["child.b"], WIDE)["child.b"][-1]
        assert equal(cut.train(mode)(WIDE), expected)
