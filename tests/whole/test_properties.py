"""Random networks, written as Python, cut at random sets of places and compared with hooks on the untouched network."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import linecache
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, event, given, note, settings
from hypothesis import strategies as st
from oracle import cloned, equal, hooked, randomize
from torch import Tensor, nn

from truncate import CannotFollowError, CrossingError, NotReachedError, TruncateError, split, truncate

# -- what the networks are made of -----------------------------------------------------------------------------------


class Noise(nn.Module):
    """A dropout with random numbers of its own: what a cut leaves out does not shift them."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return F.dropout(x, 0.3, self.training)


class Norm(nn.Module):
    """A batch norm over the last dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


@dataclasses.dataclass
class Output:
    first: Tensor
    second: Tensor | None = None


LEAVES = """
    nn.Linear(4, 4)
    nn.LayerNorm(4)
    nn.ReLU()
    nn.ReLU(inplace=True)
    nn.LeakyReLU(0.1, True)
    nn.Tanh()
    nn.Identity()
    Noise()
    Norm()
    nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    nn.Sequential(nn.Sequential(Norm(), nn.ReLU()), Noise())
""".strip().split("\n    ")

# Statements: {a} and {b} are tensors of the same shape, {v} is a new one, {m} a module. One a paragraph.
PURE = """
{v} = {a} + {b}

{v} = {a} * torch.sigmoid({b})

{v} = torch.relu({a})

{v} = F.gelu({a})

{v} = {a}.softmax(-1)

{v} = {a} + F.dropout({b}, 1.0, self.training)

{v} = torch.cat([{a}, {b}], 2)[..., 1:5]

{v} = torch.stack([{a}, {b}]).mean(0)

{v} = {a}[:, :, [1, 0, 3, 2]]

{v} = {a}[..., :2].repeat(1, 1, 2)

{v} = {a}.max(1, keepdim=True)[0] + {b}

p, q = {a}.chunk(2, -1)
{v} = torch.cat([q, p], -1)

n, l, c = {a}.shape
{v} = {a}.reshape(n * l, c).reshape(n, l, c)

{v} = {a}.reshape({a}.shape[0], -1).reshape({b}.shape)

{v} = {a}.transpose(1, 2).transpose(1, 2)

{v} = {a}.unsqueeze(0)[0]

{v} = {a}

if self.training:
    {v} = {a} * 0.5
else:
    {v} = {b} - 1

{v} = {a} * self.scale

self.kept = {a}
{v} = self.kept + 1

{v} = F.layer_norm({a}, {a}.shape[-1:])

{v} = torch.arange({a}.shape[1], device={a}.device, dtype={a}.dtype)[:, None] + {a}
"""

IN_PLACE = """
{a} += {b}

{a}.mul_(0.5)

{a}[:, 0] = {b}[:, -1]

{a}[..., :2] *= 0.5

{a}[{a} > 1] = 0.25

F.relu({a}, inplace=True)

{v} = F.leaky_relu_({a}, 0.2)

{a}[:, :, 0].add_(1)

part = {a}[..., 1:3]
part += 1

part = {a}.transpose(1, 2)[:, 1:3]
part[:, 0].neg_()

part = {a}.detach().view_as({a})
part -= 0.5

{a}.copy_({b})

{a}.masked_fill_({b} > 1, 0.5)

{v} = torch.mul({a}, 0.5, out={a})

self.count += 1
{v} = {a} + self.count

self.count = self.count * 0.5
{v} = {a} - self.count

p, q = {a}.chunk(2, -1)
p.sub_(q)
"""

# What may need an example.
BY_VALUE = """
if {a}.sum() > 0:
    {v} = {a} * 0.5
else:
    {v} = {b}

if {a}.mean() > {b}.mean():
    {v} = {call}
else:
    {v} = {a} - 1

{v} = {b}
for i in range({a}.shape[1]):
    {v} = {v} + {a}[:, i : i + 1]

if {a}.shape[0] > 2:
    {a} = {a} * 0.5

{v} = torch.stack([row * 0.5 for row in {a}])

for part in {a}.unbind(-1):
    part.mul_(0.75)

{v} = {a} / len({b})

{v} = {a} * int({b}.shape[1])

{v} = {a} * {b}.mean().item()

{v} = {a} + sum(2 for size in {b}.shape if size > 2)

parts = [{a}[i] for i in range({a}.size(0))]
{v} = torch.stack(parts[::-1])

if isinstance({a}, Tensor) and {a}.dim() == 3:
    {v} = {a} + 1
else:
    {v} = {a}

{v} = {a}
while {v}.abs().max() > 2:
    {v} = {v} * 0.5
"""

CALLS = """
{v} = {call}

{v} = {a} + {call}

{a} = {call}

for _ in range(2):
    {a} = {call}

if self.training:
    {v} = {call}
else:
    {v} = {b}

{call}
"""


def paragraphs(text: str) -> list[str]:
    return text.strip().split("\n\n")


# What a block is given, what it returns, and what leads to the first of that.
GIVEN = ["{a}", "{a}, {b}", "{a}, y={b}", "x={a}", "{a}, scale=0.5", "y={b}, x={a}", "{a}, None"]
RETURNED = {
    "{a}": "",
    "{a}, {b}": "[0]",
    "({b}, [{b}, {a}])": "[1][1]",
    "dict(second={b}, first={a})": "['first']",
    "{{'first': {a}, 'second': {b}}}": "['first']",
    "Output({a}, {b})": ".first",
    "Output({a})": ".first",
}
OPENINGS = ["", "", "if y is not None:\n    x = x + y\n", "x = x * scale\n", "if y is None:\n    y = x\nx = x - y\n"]

CLASS = """
class {name}(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))
        self.register_buffer("count", torch.ones(()))
{modules}
    def forward(self, x, y=None, scale=1.0):
{body}
"""


@dataclasses.dataclass
class Author:
    """Writes networks as source. `draw` picks one of a list."""

    draw: Callable[[Any], Any]
    operations: list[str]
    source: str = ""
    blocks: int = 0

    def block(self, depth: int) -> tuple[str, str]:
        """Writes a class; the expression that makes one, and what leads to the first of its results."""
        modules: dict[str, tuple[str, str]] = {}
        variables, body = ["x"], self.draw(OPENINGS)
        for number in range(self.draw([2, 3, 5, 8])):
            names = {"a": self.draw(variables), "b": self.draw(variables), "v": f"v{number}"}
            statement = self.draw(self.operations if self.draw([True, False]) else paragraphs(CALLS))
            if "{call}" in statement:
                names["call"] = self.call(modules, depth, names)
            body += statement.format(**names) + "\n"
            if f"v{number}" in body:
                variables.append(f"v{number}")
        returned = self.draw(list(RETURNED))
        body += "return " + returned.format(a=variables[-1], b=self.draw(variables))
        self.blocks += 1
        name = f"Block{self.blocks}"
        made = "\n".join(f"self.{child} = {expression}" for child, (expression, _) in modules.items())
        indent = " " * 8
        self.source += CLASS.format(
            name=name, modules=textwrap.indent(made, indent), body=textwrap.indent(body, indent)
        )
        return f"{name}()", RETURNED[returned]

    def call(self, modules: dict[str, tuple[str, str]], depth: int, names: dict[str, str]) -> str:
        """A call of a new module, or of one that is there already."""
        child = self.draw([f"m{len(modules)}", *modules])
        if child not in modules:
            modules[child] = self.block(depth - 1) if depth and self.draw([True, False]) else (self.draw(LEAVES), "")
        expression, first = modules[child]
        given = self.draw(GIVEN) if expression.startswith("Block") else "{a}"
        return f"self.{child}({given.format(**names)}){first}"


def network(draw: Callable[[Any], Any], operations: list[str]) -> nn.Module:
    author = Author(draw, operations)
    expression, _ = author.block(2)
    note(author.source)
    torch.manual_seed(0)
    scope = {**globals(), "__name__": "drawn"}
    file = "<drawn network>"
    linecache.cache[file] = (len(author.source), None, author.source.splitlines(keepends=True), file)
    exec(compile(author.source, file, "exec"), scope)
    return randomize(eval(expression, scope))


# -- running them ----------------------------------------------------------------------------------------------------

Arguments = dict[str, Any]


def inputs(batch: int, length: int, optional: bool) -> Arguments:
    generator = torch.Generator().manual_seed(10 * batch + length)
    made = {"x": torch.randn(batch, length, 4, generator=generator)}
    return {**made, "y": torch.randn(batch, length, 4, generator=generator)} if optional else made


def outputs(model: nn.Module, arguments: Arguments) -> dict[str, list[Any]] | None:
    """What each call of each module returns; nothing if the model itself cannot be run on this."""
    with hooked(dict(model.named_modules())) as seen:
        try:
            model(**cloned(arguments))
        except (RuntimeError, ValueError, IndexError, AttributeError):
            return None
    return {path: calls for path, calls in seen.items() if calls}


@torch.no_grad()
def check(model: nn.Module, data: st.DataObject, with_example: bool, may_refuse: bool) -> None:
    """Cut in one mode, run in both and on several sizes: each time equal, or refused where that is allowed."""
    draw = lambda items: data.draw(st.sampled_from(items))  # noqa: E731
    # Without an example, an input that may be left out is left out for good.
    optional, training = with_example and draw([False, True]), draw([False, True])
    example = inputs(2, 3, optional)
    seen = outputs(copy.deepcopy(model).train(training), example)
    if seen is None:
        return
    places = [(path, call) for path, calls in seen.items() for call in (*range(len(calls)), -1)]
    wanted = [draw(places) for _ in range(draw([1, 1, 2, 4]))]
    upto = [path and f"{path}:{call}" for path, call in wanted]
    note(f"{upto=} {optional=} {training=}")
    model.train(training)
    try:
        cut = truncate(copy.deepcopy(model), upto, kwargs=cloned(example) if with_example else None)
    except CannotFollowError as error:
        # Whether an optional output is None may be known only when it is there.
        if not with_example and (
            may_refuse or "asks whether a value is None that another module returns" in str(error)
        ):
            return
        raise
    except NotReachedError as error:
        assert "depending on its mode" in str(error)
        return
    for mode, (batch, length) in itertools.product((training, not training), ((2, 3), (3, 3), (2, 5), (1, 1))):
        arguments = inputs(batch, length, optional)
        expected = outputs(copy.deepcopy(model).train(mode), arguments)
        if expected is None:
            continue
        reached = all(-len(expected.get(path, ())) <= call < len(expected.get(path, ())) for path, call in wanted)
        try:
            got = copy.deepcopy(cut).train(mode)(**arguments)
        except NotReachedError:
            assert not reached or may_refuse, (mode, batch, length)
        except (TruncateError, AssertionError):
            assert may_refuse and with_example and (batch, length, mode) != (2, 3, training), (mode, batch, length)
        else:
            assert reached, (mode, batch, length)
            for place, value in zip(wanted, got):
                assert equal(value, expected[place[0]][place[1]]), (place, mode, batch, length)


MANY = settings(
    deadline=None,
    max_examples=250,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),  # add Phase.shrink to make a failing network small, in minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@MANY
@given(st.data())
def test_pure(data: st.DataObject) -> None:
    check(network(lambda items: data.draw(st.sampled_from(items)), paragraphs(PURE)), data, False, False)


@MANY
@given(st.data())
def test_in_place(data: st.DataObject) -> None:
    operations = paragraphs(PURE)[:8] + paragraphs(IN_PLACE)
    check(network(lambda items: data.draw(st.sampled_from(items)), operations), data, False, False)


# A branch on the content of a tensor warns, and these networks are full of them.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("with_example", [False, True], ids=["", "on-an-example"])
@MANY
@given(data=st.data())
def test_by_value(data: st.DataObject, with_example: bool) -> None:
    operations = paragraphs(PURE)[:8] + paragraphs(IN_PLACE)[:8] + paragraphs(BY_VALUE)
    check(network(lambda items: data.draw(st.sampled_from(items)), operations), data, with_example, True)


@torch.no_grad()
def check_division(model: nn.Module, data: st.DataObject) -> None:
    """Divided at one place or two, all that crosses handed on: each time equal, or refused.

    What calls that nobody reads would change is left out with them, so statistics are compared on the gallery only.
    """
    draw = lambda items: data.draw(st.sampled_from(items))  # noqa: E731
    training = draw([False, True])
    seen = outputs(copy.deepcopy(model).train(training), inputs(2, 3, False))
    places = [(path, call) for path, calls in (seen or {}).items() for call in range(len(calls)) if path]
    if not places:
        return
    wanted = [draw(places) for _ in range(draw([1, 1, 2]))]
    at = [f"{path}:{call}" for path, call in wanted]
    note(f"{at=} {training=}")
    try:
        pieces = split(copy.deepcopy(model).train(training), at, crossing="pass")
    except CrossingError:
        event("refused: what crosses")
        return
    except TruncateError as error:
        assert any(text in str(error) for text in UNDIVIDED), error
        event("refused: order, mode or nothing crosses")
        return
    event(f"divided in {len(pieces)}")
    for mode, (batch, length) in itertools.product((training, not training), ((2, 3), (3, 5))):
        arguments = inputs(batch, length, False)
        whole, parts = copy.deepcopy(model).train(mode), copy.deepcopy(pieces)
        expected = outputs(whole, arguments)
        if expected is None:
            continue
        reached = all(call < len(expected.get(path, ())) for path, call in wanted)
        try:
            value = parts[0].train(mode)(**arguments)
            for part in parts[1:]:
                value = part.train(mode)(value)
        except NotReachedError as error:
            assert not reached or any(text in str(error) for text in UNDIVIDED), error
            continue
        assert equal(value, expected[""][-1]), (mode, batch, length)


UNDIVIDED = (
    "does not run after the place after which this module begins",
    "nothing that follows",
    "depending on its mode",
    "asks whether a value is None that another module returns",
    "asks whether a value is None that is a part of an argument",
    "is set by a forward that would be cut, and read outside of it",
    "share memory",
    "changes in place what it is given",
    "is also needed whole",
    "is assigned anew in each call",
)


@MANY
@given(st.data())
def test_divided(data: st.DataObject) -> None:
    operations = paragraphs(PURE) + paragraphs(IN_PLACE)
    check_division(network(lambda items: data.draw(st.sampled_from(items)), operations), data)
