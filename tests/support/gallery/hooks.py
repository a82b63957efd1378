"""Hooks and parametrizations."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from gallery.repeats import Residual
from gallery.specimen import linear, specimen


def double_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 2


def add_one_to_input(module: nn.Module, args: Any) -> Any:
    return (args[0] + 1, *args[1:])


def scale_keywords(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return tuple(a * 3 for a in args), kwargs


def double_with_keywords(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    return output + args[0] * 2


@specimen()
class HookedChildren(nn.Module):
    """Hooks on a target, on what is outside it, and on what holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = linear()
        self.aside.register_forward_hook(double_output)
        self.block = Residual()
        self.block.register_forward_pre_hook(add_one_to_input)
        self.block.register_forward_pre_hook(scale_keywords, with_kwargs=True)
        self.block.register_forward_hook(double_output)
        self.block.register_forward_hook(double_with_keywords, with_kwargs=True)
        self.block.fc.register_forward_pre_hook(add_one_to_input)
        self.block.norm.register_forward_hook(double_output)
        self.chain = nn.Sequential(linear(), nn.ReLU())
        self.chain.register_forward_pre_hook(add_one_to_input)
        self.chain.register_forward_hook(double_output)

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(self.block(self.aside(x)))


@specimen()
class HookedItself(nn.Module):
    """Hooks on the model itself change what it is given and what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.register_forward_pre_hook(add_one_to_input)
        self.register_forward_hook(double_output)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


@specimen()
class HookedSharedBlock(nn.Module):
    """A hooked block runs twice, so its own output and what is picked inside it are both needed."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Residual(inplace=True)
        self.block.register_forward_hook(double_output)
        self.block.register_forward_pre_hook(add_one_to_input)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


@specimen()
class Parametrized(nn.Module):
    """Parametrized weights on kept modules and on one of the path."""

    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.weight_norm(linear())
        self.b = parametrize.register_parametrization(linear(), "weight", Symmetric())
        self.block = OwnWeight()
        self.out = parametrizations.spectral_norm(linear())

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(self.b(self.a(x))))


class OwnWeight(nn.Module):
    """Uses a parametrized parameter of its own before and after a child."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 4))
        self.fc = linear()
        parametrize.register_parametrization(self, "weight", Symmetric())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x @ self.weight) @ self.weight


@specimen()
class OldWeightNorm(nn.Module):
    """The weight norm of old, which is a hook that sets an attribute, on a leaf and on what holds a target."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.a = nn.utils.weight_norm(linear())
            block = OwnPlainWeight()
            self.block = nn.utils.weight_norm(block)
        self.out = linear()
        with torch.no_grad():  # only a weight that was computed without gradients can be copied
            self(torch.zeros(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(self.a(x)))


class OwnPlainWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 4))
        self.fc = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x @ self.weight)
