"""What random models are made of: statements of forwards, by subject, after the rows of docs/never-wrong.md.

A paragraph is one feature. All tensors have the shape (batch, length, 4). What stands in braces is filled in:

- ``{a}``, ``{b}``: tensors that are there; ``{v}``: one that is new, or, inside of a branch or loop, one that is there;
- ``{n}``: a number that occurs nowhere else in the model;
- ``{leaf}``: a child that takes a tensor and returns one; ``{call}``: the call of a child, a tensor;
- ``{made}``: an expression that makes such a child; ``{body}``: more statements;
- ``{op}``: a function of torch that this model calls nowhere else, so that it can be a target by its name;
- ``{list}``, ``{dict}``, ``{box}``: a container of tensors that is there.

Lines that begin with ``init`` go to ``__init__``.
"""

from __future__ import annotations

# What each model begins with: imports, and what the features use. The reducer leaves out what is not needed.
PRELUDE = """
from __future__ import annotations
import collections, contextlib, copy, dataclasses, enum, functools, math, types, warnings
from typing import NamedTuple, Optional
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint


class Noise(nn.Module):  # random numbers of its own, so that what a cut leaves out does not shift them
    def forward(self, x):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return F.dropout(x, 0.3, self.training)


class Norm(nn.Module):  # a batch norm over the last dimension
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Mean(nn.Module):  # a batch norm of one's own
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        if self.training:
            mean = x.mean((0, 1))
            self.mean.mul_(0.9).add_(mean.detach() * 0.1)
        else:
            mean = self.mean
        return x - mean


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))

    def forward(self, x):
        return x * self.weight


class Overwrites(nn.Module):  # returns something else than what it changes
    def forward(self, x):
        kept = x.clone()
        x.mul_(0.5)
        return kept


class OverwritesInTraining(nn.Module):
    def forward(self, x):
        kept = x.clone()
        if self.training:
            x.mul_(0.5)
        return kept


class OverwritesLarge(nn.Module):
    def forward(self, x):
        kept = x.clone()
        if x.abs().max() > 3:
            x.mul_(0.5)
        return kept


class OwnCall(nn.Module):
    def __call__(self, x):
        return super().__call__(x) + 1

    def forward(self, x):
        return x * 2


class Doubled(nn.Module):
    def forward(self, weight):
        return weight * 2


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad * 0.5


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x * grad


@dataclasses.dataclass
class Output:
    first: Tensor
    second: Optional[Tensor] = None


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Box:
    def __init__(self):
        self.value = None
        self.items = []


class Slots:
    __slots__ = ("value", "items")

    def __init__(self):
        self.value = None
        self.items = []


class Kind(enum.Enum):
    SMALL = 1
    LARGE = 2


def first(out):
    return out[0] if isinstance(out, (tuple, list)) else out


def doubles(module, args, output):
    return output * 2


def shifts(module, args):
    return (args[0] + 1, *args[1:])


def looks(module, args, output):
    module.seen = output


@torch.no_grad()
def without_gradient(x):
    return x.tanh()


@functools.lru_cache(None)
def table(length):
    return torch.arange(length).float()[:, None] * 0.1


def appends(x, items=[]):
    items.append(1)
    return x * 0.5
"""

LEAVES = """
nn.Linear(4, 4)
nn.Linear(4, 4, bias=False)
nn.LayerNorm(4)
nn.ReLU()
nn.ReLU(inplace=True)
nn.LeakyReLU(0.1, True)
nn.Tanh()
nn.Identity()
nn.Dropout(0.0)
nn.Flatten(2)
nn.Hardtanh(inplace=True)
Noise()
Norm()
Norm()
Mean()
Scaled()
Overwrites()
OverwritesInTraining()
OverwritesLarge()
OwnCall()
parametrizations.weight_norm(nn.Linear(4, 4))
parametrizations.spectral_norm(nn.Linear(4, 4))
parametrizations.orthogonal(nn.Linear(4, 4))
nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
nn.Sequential(nn.Sequential(Norm(), nn.ReLU()), Noise())
""".strip().split("\n")

GIVEN = """
{a}
{a}
{a}
{a}, {b}
{a}, y={b}
x={a}
{a}, scale=0.5
y={b}, x={a}
{a}, None
{a}, {a}
{a}, {a}[:]
{a}, y={a}.view({a}.shape)
{a}[:], {a}
{a}, {a}.detach()
*({a}, {b})
**dict(x={a}, y={b})
""".strip().split("\n")

OPENINGS = """


if y is not None:
    x = x + y

x = x * scale

if y is None:
    y = x
x = x - y

y = x if y is None else y
x = x + y * scale

if y is not None:
    y.mul_(0.5)

x = x.clone()
if y is not None:
    x.add_(1)
    x = x * y

if x.dim() != 3:
    raise ValueError(f"three dimensions, not {x.dim()}")

assert x.shape[-1] == 4, "four channels"
""".split("\n\n")

# What a block returns, and how its parent comes by a tensor of it.
RETURNED = {
    "{a}": "{}",
    "{a}, {b}": "{}[0]",
    "({b}, [{b}, {a}])": "{}[1][1]",
    "[{a}, None]": "{}[0]",
    "dict(second={b}, first={a})": "{}['first']",
    "{{'first': {a}, 'second': {b}}}": "{}['first']",
    "Output({a}, {b})": "{}.first",
    "Output({a})": "{}.first",
    "Pair({a}, {b})": "{}.first",
    "({a}, {b}) if self.training else {a}": "first({})",
    "({a}, None) if y is None else ({a}, {b})": "{}[0]",
    "({a}, {a}.shape[0])": "{}[0]",
    "{a} if self.training else {a}.clone()": "{}",
    "collections.OrderedDict(first={a}, second={b})": "{}['first']",
}

PURE = """
{v} = {a} + {b}

{v} = {a} * torch.sigmoid({b})

{v} = F.gelu({a})

{v} = {a}.softmax(-1)

{v} = {a} + F.dropout({b}, 1.0, self.training)

{v} = torch.cat([{a}, {b}], 2)[..., 1:5]

{v} = torch.stack([{a}, {b}]).mean(0)

{v} = {a}[..., :2].repeat(1, 1, 2)

{v} = {a}.max(1, keepdim=True)[0] + {b}

p, q = {a}.chunk(2, -1)
{v} = torch.cat([q, p], -1)

n, l, c = {a}.shape
{v} = {a}.reshape(n * l, c).reshape(n, l, c)

{v} = {a}.transpose(1, 2).transpose(1, 2)

{v} = {a}

{v} = {a}[:]

{v} = {a} * self.scale

init self.register_buffer("table{n}", torch.rand(4))
{v} = {a} + self.table{n}

{v} = {a} / {a}.shape[1]

{v} = {a} + table({a}.shape[1])

{v} = {op}({a})

{v} = {op}({a})

{v} = torch.where({a} > 0, {a}, {b})

def helper(t, k=2):
    return t / k
{v} = helper({a})

{v} = (lambda t: t * 0.5 + {b})({a})

{v} = torch.einsum("blc,bkc->blk", {a}, {b}).mean(-1, keepdim=True) + {a}

{v} = F.scaled_dot_product_attention({a}, {b}, {a})
"""

IN_PLACE = """
{a} += {b}

{a}.mul_(0.5)

{a}[:, 0] = {b}[:, -1]

{a}[..., :2] *= 0.5

{a}[{a} > 1] = 0.25

F.relu({a}, inplace=True)

{v} = F.leaky_relu_({a}, 0.2)

part = {a}[..., 1:3]
part += 1

part = {a}.transpose(1, 2)[:, 1:3]
part[:, 0].neg_()

part = {a}.detach().view_as({a})
part -= 0.5

{a}.data.mul_(0.5)

{a}.copy_({b})

with torch.no_grad():
    {v} = torch.mul({a}.detach(), 0.5, out=torch.empty_like({a}))

for item in [{a}, {b}]:
    item.mul_(0.75)

pair = ({a}, {b})
pair[0].add_(1)

{v} = {a}.view(-1, 4).view({a}.shape)
{v}.add_(0.5)

init self.act{n} = nn.ReLU(inplace=True)
self.act{n}({a})

init self.act{n} = nn.Dropout(0.0, inplace=True)
{v} = self.act{n}({a})
{v}.mul_(2)

init self.same{n} = nn.Identity()
{v} = self.same{n}({a})
{a}.mul_(2)

init self.flat{n} = nn.Flatten(2)
{v} = self.flat{n}({a})
{a} += 1

{leaf}({a})

with torch.no_grad():
    self.scale.mul_(0.9)

{a} = {a}.clone()
{a}.sub_(0.25)

{a} = {a} * 1
{a}.clamp_(-1, 1)
"""

CALLS = """
{v} = {call}

{v} = {a} + {call}

{a} = {call}

{v} = {leaf}({a})

{v} = {leaf}({a})

for _ in range(2):
    {a} = {call}

{call}

{leaf}({a})

{v} = {leaf}({a}) + {leaf}({b})

init self.layers{n} = nn.ModuleList([{made}, {made}, {made}])
for layer in self.layers{n}:
    {a} = layer({a})

init self.layers{n} = nn.Sequential({made}, {made})
{v} = self.layers{n}({a})

init self.layers{n} = nn.Sequential({made}, {made}, {made})
{v} = self.layers{n}[:2]({a})

init self.choices{n} = nn.ModuleDict({{"p": {made}, "q": {made}}})
{v} = self.choices{n}["q"](self.choices{n}["p"]({a}))

init self.choices{n} = nn.ModuleDict({{"p": {made}, "q": {made}}})
{v} = {a}
for name, layer in self.choices{n}.items():
    {v} = {v} + layer({a})

init self.layers{n} = nn.ModuleList([{made}, {made}])
{v} = sum(layer({a}) for layer in self.layers{n})
"""
