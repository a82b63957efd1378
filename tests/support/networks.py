"""Networks that are drawn at random, written as Python."""

from __future__ import annotations

import dataclasses
import linecache
import textwrap
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import note
from oracle import randomize
from torch import Tensor, nn


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
