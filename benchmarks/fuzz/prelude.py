"""What every random model begins with: imports, and what the features use."""

# ruff: noqa: B006, F401

from __future__ import annotations

import collections
import copy
import dataclasses
import decimal
import enum
import functools
import math
import random
import types
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils._pytree import tree_map
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


class Remembers(nn.Module):  # what it leaves in an attribute is read by its parent
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        self.seen = self.inner(x)
        return self.seen.tanh()


class Gain(nn.Module):  # has an option that its parent sets
    factor = 1

    def forward(self, x):
        return x * self.factor


class Coder(nn.Module):  # is called by another method than `forward`
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def encode(self, x):
        return self.inner(x) + 1

    def forward(self, x):
        return self.encode(x) * 0.5


class Several(nn.Module):  # returns a list
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return [x, self.inner(x)]


class Fills(nn.Module):  # holds a list together with `Reads`
    def __init__(self, held, inner):
        super().__init__()
        self.held = held
        self.inner = inner

    def forward(self, x):
        self.held.clear()
        self.held.append(self.inner(x))
        return x


class Reads(nn.Module):
    def __init__(self, held):
        super().__init__()
        self.held = held

    def forward(self, x):
        return x + self.held[-1]


class Writes(nn.Module):  # leaves things in an object that it is given
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, box):
        box.value = self.inner(x)
        box.items.append(box.value * 0.5)
        box.count += 1
        return x


class Helper:  # holds a module, and is none
    def __init__(self, module):
        self.module = module

    def __call__(self, x):
        return self.module(x)


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
    second: Tensor | None = None


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Box:
    def __init__(self):
        self.value = None
        self.items = []
        self.count = 0


class Slots:
    __slots__ = ("value", "items", "count")

    def __init__(self):
        self.value = None
        self.items = []
        self.count = 0


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
