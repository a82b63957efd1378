"""Containers and names."""

from __future__ import annotations

import collections

import torch
from torch import Tensor, nn

from gallery.specimen import linear, specimen


@specimen()
class UsesModuleList(nn.Module):
    """Walks a ModuleList forwards, by index and by slice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([linear(), nn.ReLU(), linear(), linear()])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:2]:
            x = layer(x)
        return self.layers[-1](x) + self.layers[2](x)


@specimen()
class UsesModuleDict(nn.Module):
    """Reaches children by keys that are no identifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"1": linear(), "a-b": linear(), "class": linear(), "keys_": linear()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: head(x) for name, head in self.heads.items()}


@specimen()
class ChildNamedSelf(nn.Module):
    """Has a child called ``self``, as BERT does."""

    def __init__(self) -> None:
        super().__init__()
        self.self = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.self(x))


@specimen()
class NumberedNames(nn.Module):
    """Names that a tool might make up itself when a layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = linear()
        self.conv1_1 = linear()
        self.conv1_2 = linear()
        self.add = linear()
        self.add_1 = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.conv1_1(self.conv1(x)) + x
        x = x + self.add(x)
        return self.add_1(self.conv1_2(x) + x)


@specimen()
class NamesOfOurOwn(nn.Module):
    """Children and buffers called like things that generated code might use."""

    NAMES = ("source", "names", "torch", "F", "clone", "x", "input", "item", "del_", "getattr", "getitem", "Tensor")

    def __init__(self) -> None:
        super().__init__()
        for name in self.NAMES:
            self.add_module(name, linear())
        self.register_buffer("_", torch.ones(4))

    def forward(self, input: Tensor) -> Tensor:
        for name in self.NAMES:
            input = getattr(self, name)(input) + self._
        return torch.tanh(input)


@specimen()
class OddArgumentNames(nn.Module):
    """Arguments called like modules and builtins, and a first one that is not called self."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = nn.ReLU()

    def forward(this, F: Tensor, torch: float = 2.0, len: int = 1) -> Tensor:
        return this.out(nn.functional.relu(this.fc(F)) * torch + len)


@specimen()
class OddChildNames(nn.Module):
    """Children whose names are no identifiers, or are keywords."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("a-b", "0", "lambda", "größe", "with space"):
            self.add_module(name, linear())

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x + 1


@specimen()
class WalksItsChildren(nn.Module):
    """Finds its children by every way but their names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.none = None
        self.register_module("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.none is not None or self.absent is not None:
            return x
        for child in self.children():
            x = child(x)
        for _, child in self.named_children():
            x = child(x)
        for child in reversed(self._modules.values()):
            x = child(x) if child is not None else x
        return next(iter(self.modules())).a(x)


class Stack(nn.Sequential):
    """A Sequential with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        total = x
        for module in self:
            x = module(x)
            total = total + x
        return total


class Renamed(nn.Sequential):
    """A Sequential under another name."""


@specimen()
class SequentialSubclasses(nn.Module):
    """Subclasses of Sequential, with and without their own forward, one inside the other."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = Renamed(collections.OrderedDict(first=linear(), stack=Stack(linear(), nn.ReLU())))
        self.own = Stack(linear(), nn.Sequential(nn.ReLU(), linear()), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.own(self.plain(x))


@specimen()
class SlicesInForward(nn.Module):
    """Makes a Sequential of some of its layers while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(linear(), nn.BatchNorm1d(4), linear(), nn.Dropout(0.3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features[:2](x)
        return nn.Sequential(*self.features[2:])(x)


@specimen()
class PlainListOfModules(nn.Module):
    """Keeps its registered layers in a plain list too, and walks that."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.order = [("twice", self.b), ("once", self.a)]

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.order:
            x = layer(x) * (2 if name == "twice" else 1)
        return x


@specimen()
class DeepChain(nn.Module):
    """Six hundred layers in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(linear(), nn.ReLU()) for _ in range(300))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + 0.1 * layer(x)
        return x


@specimen()
class DeepNesting(nn.Module):
    """A module in a module in a module, thirty deep."""

    def __init__(self) -> None:
        super().__init__()
        inner: nn.Module = linear()
        for _ in range(30):
            inner = Wrapper(inner)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x
