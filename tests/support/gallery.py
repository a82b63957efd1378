"""Tiny hostile models, each named for the one thing that it does.

``GALLERY`` lists them by name, each with a recipe for its inputs. Every place has to be cut exactly. Only those that
are listed in `refuses` may be refused instead, in clear words: what their forward does cannot be seen on proxies.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import functools
import math
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from oracle import DEVICE, on_device, randomize
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Specimen:
    kind: type[nn.Module]
    example: Callable[[int], Arguments]  # batch size -> arguments
    refuses: tuple[str, ...]  # places that may be refused, but not be wrong
    exact: bool  # whether autograd finds all that a cut has to hold

    def make(self) -> nn.Module:
        torch.manual_seed(0)
        return on_device(randomize(self.kind()))

    def inputs(self, batch: int = 2) -> Arguments:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch)
            return on_device(self.example(batch))


GALLERY: dict[str, Specimen] = {}


def vectors(batch: int) -> Arguments:
    return (torch.randn(batch, 4),), {}


def two_vectors(batch: int) -> Arguments:
    return (torch.randn(batch, 4), torch.randn(batch, 4)), {}


def images(batch: int) -> Arguments:
    return (torch.randn(batch, 3, 6, 6),), {}


def specimen(
    example: Callable[[int], Arguments] = vectors, refuses: tuple[str, ...] = (), exact: bool = True
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    def add(kind: type[nn.Module]) -> type[nn.Module]:
        GALLERY[kind.__name__] = Specimen(kind, example, refuses, exact)
        return kind

    return add


def linear() -> nn.Linear:
    return nn.Linear(4, 4)


# -- the same module more than once ----------------------------------------------------------------------------------


@specimen()
class SharedUnderTwoNames(nn.Module):
    """One layer under two names, both called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = linear()
        self.middle = linear()
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.middle(self.first(x)))


@specimen()
class CalledInLoop(nn.Module):
    """One activation and one layer called three times each."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.relu(self.fc(x) + x)
        return x


class Residual(nn.Module):
    """A block to put in other models."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.fc = linear()
        self.norm = nn.BatchNorm1d(4)
        self.act = nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.fc(x))
        y += x
        return self.act(y)


@specimen()
class SharedBlock(nn.Module):
    """A block that runs twice: a target inside its last call still needs the whole of its first."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Residual()
        self.between = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.between(self.block(x)))


@specimen()
class SharedAcrossBlocks(nn.Module):
    """One activation inside two blocks: its last call lies in the second, whatever name is used."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Residual()
        self.two = Residual()
        self.two.act = self.one.act

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))


@specimen()
class SequentialWithRepeats(nn.Module):
    """A Sequential that holds one activation at two positions."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU()
        self.body = nn.Sequential(linear(), relu, linear(), relu)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * 2


@specimen()
class TiedWeights(nn.Module):
    """The decoder's weight is the encoder's, and is used as a plain tensor as well."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = linear()
        self.decoder = linear()
        self.decoder.weight = self.encoder.weight
        self.after = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(F.linear(self.decoder(self.encoder(x)), self.encoder.weight))


@specimen()
class CallsItself(nn.Module):
    """Recursion: the forward calls its own module with another constant."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.leaf = linear()

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        if depth == 0:
            return self.leaf(x)
        return self.forward(self.fc(x), depth - 1)


# -- containers and names --------------------------------------------------------------------------------------------


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


# -- work in place ---------------------------------------------------------------------------------------------------


@specimen()
class WritesOnSlice(nn.Module):
    """Assigns to slices, adds to slices, writes through views and masks."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.c = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x[:, 0] = 0
        x[:, 1:3] += 1
        x[..., -1:] *= 2
        x = self.b(x)
        view = x.view(-1)
        view.mul_(2)
        left = x[:, :2]
        left.add_(x[:, 2:])
        x[x > 1] = 1
        return self.c(x)


@specimen()
class WritesThroughUndeclaredViews(nn.Module):
    """Writes on what functions return that hand back their argument, though torch's signatures do not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear() for _ in range(9))

    def forward(self, x: Tensor) -> Tensor:
        views = (
            torch.atleast_2d,
            lambda x: +x,
            lambda x: x.type_as(x),
            lambda x: x.sum_to_size(x.shape),
            lambda x: torch.einsum("ij->ji", x),
            lambda x: torch.broadcast_tensors(x, x)[0],
            lambda x: torch.unsafe_chunk(x, 2, 1)[0],
            lambda x: F.dropout(x, training=False),
            torch.conj_physical,
        )
        for layer, view in zip(self.layers, views):
            x = layer(x)
            view(x).mul_(2)
        return x


@specimen()
class InplaceAfterTap(nn.Module):
    """Overwrites what its layers have returned."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.relu = nn.ReLU(inplace=True)
        self.flatten = nn.Flatten()
        self.identity = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        a.add_(1)
        b = self.identity(self.flatten(self.b(a)))
        self.relu(b)
        b *= 2
        return F.relu(b, inplace=True)


@specimen()
class DeadCallsWithEffect(nn.Module):
    """Calls whose results nobody reads, but whose work in place everybody needs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.relu = nn.ReLU(inplace=True)
        self.b = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        self.relu(x)
        x = self.b(x)
        x.clamp_(max=2)
        torch.neg_(x[:, 0])
        F.hardtanh(x, -1, 1, inplace=True)
        return self.out(x)


class AddsInPlace(nn.Module):
    """Changes its argument and returns something else."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()

    def forward(self, values: list[Tensor], scale: float = 1.0) -> Tensor:
        values[0][:, :2] += scale
        return self.fc(values[1])


@specimen(exact=False)  # the child that is kept for its effect is kept whole
class ChildChangesArgument(nn.Module):
    """A child changes a tensor inside a list that it is given; its result is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.adds = AddsInPlace()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = x * 2
        self.adds([x.view(-1, 4), y], scale=3.0)
        return self.b(x)


@specimen()
class InplaceOnInput(nn.Module):
    """Changes its own argument, and returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.a = linear()

    def forward(self, x: Tensor) -> Tensor:
        x += 1
        y = self.drop(x)
        return self.a(x.clone()) + y.mul_(2)


@specimen()
class InplaceBlocks(nn.Module):
    """Residual blocks with in-place activations, as ResNet has: taps inside are overwritten by what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Residual(True), Residual(True), linear())
        self.head = nn.Sequential(nn.ReLU(inplace=True), linear(), nn.Dropout(0.5, inplace=True), linear())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x.clone()))


@specimen(images)
class SizesInPlace(nn.Module):
    """Computes with sizes by ``//=``, which changes no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.out = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        old = h
        h //= 2
        w = w // 2
        x = x.reshape(n * 4, c, h, w)
        return self.out(self.conv(x) + old)


# -- what goes in and what comes out ---------------------------------------------------------------------------------


@specimen()
class Defaults(nn.Module):
    """Optional arguments of several kinds, left out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()

    def forward(
        self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0, *, top: float = math.inf, how: str = "sum"
    ) -> Tensor:
        x = self.fc(x) * scale
        if mask is not None:
            x = x * mask
        return self.out(x.clamp(max=top) if how == "sum" else -x)


@specimen(lambda batch: ((), {"x": torch.randn(batch, 4), "y": torch.randn(batch, 4)}))
class KeywordsOnly(nn.Module):
    """Takes nothing by position."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()

    def forward(self, *, x: Tensor, y: Tensor) -> Tensor:
        return self.out(self.fc(x) + y)


@specimen()
class VariableArguments(nn.Module):
    """Takes any number of arguments, and passes them on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Defaults()
        self.out = linear()

    def forward(self, *xs: Tensor, **options: Any) -> Tensor:
        return self.out(self.inner(*xs, **options))


@specimen(two_vectors)
class SeveralInputs(nn.Module):
    """Two inputs, of which a target may need one."""

    def __init__(self) -> None:
        super().__init__()
        self.left = linear()
        self.right = linear()
        self.join = nn.Bilinear(4, 4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.join(self.left(x), input2=self.right(y))


@specimen(lambda batch: (({"image": torch.randn(batch, 4), "more": [torch.randn(batch, 4)]},), {}))
class StructuredInput(nn.Module):
    """Reads its tensors out of a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"out": self.b(self.a(batch["image"]) + batch["more"][0])}


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


class Branches(nn.Module):
    """Returns a nested structure."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor, twice: bool = False) -> Any:
        a = self.a(x)
        if twice:
            a = self.a(a)
        return a, (self.b(a), [a + 1, {"k": a - 1}])


@specimen()
class NestedTuples(nn.Module):
    """Unpacks what its children return, and takes arguments in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = Branches()
        self.join = Joins()
        self.lstm = nn.LSTM(4, 4)

    def forward(self, x: Tensor) -> tuple[Any, Tensor]:
        a, (b, rest) = self.branches(x, twice=True)
        out, (h, _) = self.lstm(self.join([a, b], more={"rest": rest, "pair": Pair(a, b)}))
        return (out, h), a


class Joins(nn.Module):
    """Takes a list and a dict of nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()

    def forward(self, parts: list[Tensor], more: dict[str, Any]) -> Tensor:
        total = torch.stack(parts).sum(0) + more["rest"][1]["k"] * more["pair"].right
        return self.fc(total)


@specimen(exact=False)  # the child of whose dict one item is read is kept whole
class DictOutputs(nn.Module):
    """A child that returns an ordered dict, to which the parent adds."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Pyramid()
        self.extra = linear()
        self.head = linear()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        features["pool"] = self.extra(features["low"])
        return {"head": self.head(features["pool"] + features["high"]), "low": features["low"]}


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low = linear()
        self.high = linear()

    def forward(self, x: Tensor) -> collections.OrderedDict[str, Tensor]:
        low = self.low(x)
        return collections.OrderedDict(low=low, high=self.high(low))


@specimen(refuses=("extra", "head"))
class AppendsToChildsList(nn.Module):
    """Adds to a list that a child has returned, and hands it on."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ListOfTwo()
        self.extra = linear()
        self.head = SumsList()

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        features.append(self.extra(features[-1]))
        return self.head(features)


class ListOfTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, self.fc(x)]


class SumsList(nn.Module):
    def forward(self, xs: list[Tensor]) -> Tensor:
        return sum(xs)


class Collects(nn.Module):
    """Leaves what it computes in a list that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()

    def forward(self, x: Tensor, seen: list[Tensor]) -> Tensor:
        x = self.fc(x)
        seen.append(x)
        return x


@specimen(refuses=("one", "two", "out"))
class CollectsInArgument(nn.Module):
    """Hands a list to its children, which fill it."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Collects()
        self.two = Collects()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        x = self.two(self.one(x, seen), seen)
        for value in seen:
            x = x + value
        return self.out(x)


class AppendsToItsList(nn.Sequential):
    """Adds what each child returns to a list that it is given, and joins them."""

    def forward(self, x: Tensor, found: list[Tensor], named: dict[str, Tensor]) -> Tensor:
        for child in self:
            found.append(child(found[-1]))
        named["last"] = found[-1]
        return torch.stack(found).sum(0) + named["first"]


@specimen()
class ChildFillsList(nn.Module):
    """Hands a list and a dict to a child, which fills them, and reads what it had put there itself."""

    def __init__(self) -> None:
        super().__init__()
        self.collect = AppendsToItsList(linear(), nn.Sequential(linear(), nn.ReLU()), linear())
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        found, named = [x + 1], {"first": x}
        y = self.collect(x, found, named=named)
        return self.out(y + found[0] + named["first"] + len(found))


@dataclasses.dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None


class MakesDataclass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()

    def forward(self, x: Tensor) -> Output:
        return Output(self.fc(x), x)


@specimen()
class DataclassOutputs(nn.Module):
    """Dataclasses and named tuples come out of a child and of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MakesDataclass()
        self.out = linear()

    def forward(self, x: Tensor) -> Output:
        inner = self.inner(x)
        return Output(logits=self.out(inner.logits + inner.hidden))


class MaybeTwo(nn.Module):
    """Returns a tensor, and weights if it was told to."""

    def __init__(self, weights: bool) -> None:
        super().__init__()
        self.fc = linear()
        self.weights = weights

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.fc(x)
        return x, (x.softmax(-1) if self.weights else None)


@specimen()
class AsksForNone(nn.Module):
    """Branches on whether a part of a child's output is None."""

    def __init__(self) -> None:
        super().__init__()
        self.without = MaybeTwo(False)
        self.with_ = MaybeTwo(True)
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x, nothing = self.without(x)
        if nothing is not None:
            x = x * nothing
        output = self.with_(x)
        if output[1] is None:
            return x
        return self.out(output[0] * output[1])


@specimen()
class AsksForType(nn.Module):
    """Branches on the type of a child's output."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = MaybeTwo(False)
        self.single = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.pair, self.single):
            y = layer(x)
            x = y[0] if isinstance(y, (tuple, list)) else y * 2
        if isinstance(self.single(x), torch.Tensor):
            x = x + 1
        return self.out(x)


@specimen(lambda batch: ((torch.randint(0, 5, (batch, 3)),), {}))
class IntegerTokens(nn.Module):
    """Starts from integers, with embeddings and positions made in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4, padding_idx=0)
        self.position = nn.Embedding(10, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embed(tokens) + self.position(positions).unsqueeze(0)
        y, _ = self.attention(x, x, x, key_padding_mask=tokens == 0, need_weights=False)
        return self.norm(x + y)[:, 0]


# -- modes -----------------------------------------------------------------------------------------------------------


class AlwaysEvaluating(nn.BatchNorm1d):
    def train(self, mode: bool = True) -> AlwaysEvaluating:
        return super().train(False)


@specimen()
class FrozenNorm(nn.Module):
    """One norm stays in evaluation while the model trains."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Residual()
        self.norm = AlwaysEvaluating(4)
        self.drop = nn.Dropout(0.5)
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.norm(self.block(x))))


@specimen()
class FunctionalDropout(nn.Module):
    """Passes ``self.training`` to functions."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.a(x), p=0.4, training=self.training)
        x = F.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=self.norm.training)
        return self.b(x)


@specimen()
class BranchesOnMode(nn.Module):
    """Goes different ways in training and in evaluation, in a child too."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = Noise()
        self.a = linear()
        self.b = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.noise(x)
        if self.training:
            x = self.a(x) * 2
        else:
            x = self.b(x)
        return self.out(x) if not self.training else self.out(x) + self.a(x)


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.fc(x)
        return self.fc(x + torch.randn_like(x))


@specimen()
class OnlyInTraining(nn.Module):
    """An auxiliary head that runs in training only, and a final one in evaluation only."""

    def __init__(self) -> None:
        super().__init__()
        self.body = linear()
        self.aux = nn.Sequential(linear(), nn.ReLU())
        self.final = linear()

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        return (x, self.aux(x)) if self.training else self.final(x)


@specimen()
class AsksSeveralModes(nn.Module):
    """Control flow asks for the mode of a child that can differ from its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.drop = nn.Dropout(0.5)
        self.out = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.drop.training and self.training:
            x = self.drop(x)
        elif self.training:
            x = x + 1
        return self.out(x)


# -- state -----------------------------------------------------------------------------------------------------------


@specimen(exact=False)
class UpdatesBuffers(nn.Module):
    """Changes its buffers by every spelling, and computes with them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("last", torch.zeros(4), persistent=False)
        self.register_buffer("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.count.add_(1)
        x = self.fc(x)
        if self.training:
            self.mean = self.mean * 0.9 + x.detach().mean(0) * 0.1
            with torch.no_grad():
                self.last.copy_(x[0])
        return self.out((x - self.mean) / self.count + self.last)


@specimen()
class StoresHidden(nn.Module):
    """Keeps a result as an attribute, and uses it afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.a(x)
        self.seen = [self.hidden]
        self.seen.append(self.b(self.hidden))
        return torch.stack(self.seen).sum(0)


class Remembers(nn.Module):
    """Leaves what it computed as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.weights: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.weights = self.fc(x).softmax(-1)
        return x * 2


@specimen(exact=False, refuses=("out",))
class ReadsChildsAttribute(nn.Module):
    """Reads what a child has left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Remembers()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(x)
        return self.out(y * self.attention.weights)


@specimen(exact=False, refuses=("out",))
class ReadsAttributeOfDeadCall(nn.Module):
    """Calls a child only for what it leaves behind, which before the first call is another tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Remembers()
        self.attention.weights = torch.ones(4)
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        self.attention(x)
        return self.out(x * self.attention.weights)


@specimen(refuses=("fc", "out"))
class CountsInPython(nn.Module):
    """Computes with a plain number that changes from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.fc = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        self.calls += 1
        return self.out(x * self.calls)


class Scales(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@specimen(refuses=("fc", "scale", "out"))
class SetsChildsAttribute(nn.Module):
    """Changes an option of a child just before it calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.scale = Scales()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        self.scale.factor = 3.0
        return self.out(self.scale(x))


@specimen(refuses=("a", "b"))
class KeepsHistory(nn.Module):
    """Appends to a list and a dict of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.history: list[Tensor] = []
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        self.history.append(x)
        self.cache["last"] = x
        return self.b(x + self.cache["last"])


@specimen(exact=False)
class ClipsWeightOfChild(nn.Module):
    """Normalises the weight of a child in place before it uses it, as prototypes are."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.prototypes = nn.Linear(4, 4, bias=False)
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        with torch.no_grad():
            weight = F.normalize(self.prototypes.weight.data, dim=1)
            self.prototypes.weight.copy_(weight)
        self.out.weight.data.clamp_(min=0)
        return self.out(self.prototypes(x))


@specimen()
class ParameterContainers(nn.Module):
    """Parameters in a list and a dict, and one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.rand(4)) for _ in range(3)])
        self.shifts = nn.ParameterDict({"a": nn.Parameter(torch.rand(4)), "b": nn.Parameter(torch.rand(4))})
        self.gain = nn.Parameter(torch.rand(4))
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x * self.scales[0] + self.shifts["a"])
        x = self.b(x * self.gain.exp())
        for scale in self.scales:
            x = x * scale
        return x + self.shifts.b


@specimen()
class AsksItsParameters(nn.Module):
    """Takes a type and a device from its own parameters and from those of a child."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(next(self.parameters()).dtype)
        x = self.fc(x.to(self.fc.weight.device))
        x = x + torch.ones(self.fc.out_features, dtype=self.fc.weight.dtype)
        return self.out(x * self.fc.weight.shape[0])


@specimen(exact=False)
class PlainTensors(nn.Module):
    """Computes with tensors that it holds as plain attributes, alone and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()
        self.mean = torch.rand(4)
        self.anchors = [torch.rand(4), torch.rand(4)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x - self.mean)
        return self.out(x * self.anchors[0] + self.anchors[1])


# -- gradients and contexts ------------------------------------------------------------------------------------------


@specimen(exact=False)
class NoGradInside(nn.Module):
    """Runs a part of itself without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(linear(), nn.ReLU(), linear())
        self.middle = linear()
        self.head = linear()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.backbone(x)
            with torch.enable_grad():
                x = self.middle(x)
            x = x + 1 - self.middle.weight[0]
        return self.head(x)


@specimen(exact=False)
class NoGradDecorator(nn.Module):
    """Its forward as a whole, and that of a child, runs without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Frozen()
        self.head = linear()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x))


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(x).relu())


@specimen(refuses=("b", "out"))
class AutocastInside(nn.Module):
    """Runs a part of itself in lower precision."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.b(x)
            x = x @ x.t()
        return self.out(x.float().mean(1, keepdim=True).expand(-1, 4))


@specimen()
class Checkpointed(nn.Module):
    """Recomputes a block in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Residual()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(checkpoint(self.block, x, use_reentrant=False))


class Reverse(torch.autograd.Function):
    """Passes values on and turns gradients round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


@specimen(refuses=("b",))
class GradientReversal(nn.Module):
    """Uses an autograd function of its own, whose gradient is not that of its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(Reverse.apply(self.a(x)))


def triple(grad: Tensor) -> Tensor:
    return grad * 3


@specimen(refuses=("a", "b"))
class HooksTensors(nn.Module):
    """Hangs a hook on a tensor, which changes its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = self.a(x)
            x.register_hook(triple)
        return self.b(x)


@specimen(refuses=("a", "drop", "b"))
class SeedsItself(nn.Module):
    """Sets the seed of all random numbers in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.drop = nn.Dropout(0.5)
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        torch.manual_seed(3)
        return self.b(self.drop(x))


@specimen(exact=False, refuses=("energy", "out"))
class GradientInside(nn.Module):
    """Returns a force: the gradient of an energy, taken in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            energy = self.energy(x).square().sum()
            (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return self.out(force)


# -- hooks and parametrizations --------------------------------------------------------------------------------------


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


# -- how Python reaches a forward ------------------------------------------------------------------------------------


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = linear()
        self.fc2 = linear()

    def encode(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x).relu())


@specimen()
class MethodOtherThanForward(nn.Module):
    """Uses a child through a method, and another through ``forward`` itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.block = Residual()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block.forward(self.encoder.encode(x)))


@specimen()
class ForwardOnInstance(nn.Module):
    """Chooses its forward when it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()
        self.step = self._step
        self.forward = self._forward

    def _step(self, x: Tensor) -> Tensor:
        return self.b(x) + self.a(x)

    def _forward(self, x: Tensor) -> Tensor:
        return self.step(self.a(x))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if isinstance(self.gain, float) else x

    @property
    def gain(self) -> float:
        return 2.0

    @functools.cached_property
    def table(self) -> list[float]:
        return [1.0, self.gain]


@specimen()
class Inherits(Base):
    """Calls its parent's forward, properties, static and class methods."""

    SCALE = 3.0

    def __init__(self) -> None:
        super().__init__()
        self.b = linear()
        self.act = F.relu
        self.shift = functools.partial(torch.add, alpha=2)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x) * self.gain * self.table[1]
        x = self.shift(self.static(x, isinstance(x, Tensor)), self.scaled(x))
        return self.b(self.act(x))

    @staticmethod
    def static(x: Tensor, flag: bool) -> Tensor:
        return x + 1 if flag else x

    @classmethod
    def scaled(cls, x: Tensor) -> Tensor:
        return x * cls.SCALE


class Registered(nn.Module):
    """Keeps a list of its subclasses, and is strict about them."""

    kinds: list[type] = []

    def __init_subclass__(cls, *, code: str) -> None:
        super().__init_subclass__()
        Registered.kinds.append((cls, code))


@specimen()
class RegistersSubclasses(Registered, code="gallery"):
    """Its class must not be subclassed after its back."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) + len(Registered.kinds)


@specimen(refuses=("a", "b"))
class OwnCall(nn.Module):
    """Prepares its input in ``__call__``, where no hook sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x / 255)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


@specimen(refuses=("child",))
class ChildWithOwnCall(nn.Module):
    """A child that is kept changes its output in ``__call__``."""

    def __init__(self) -> None:
        super().__init__()
        self.child = Amplified()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.child(x))


class Amplified(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * 10


@specimen()
class OwnGetattr(nn.Module):
    """Answers for attributes of a module that it wraps."""

    def __init__(self) -> None:
        super().__init__()
        self.wrapped = Residual()
        self.out = linear()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.wrapped, name)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.fc(x)))


def twice(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs) + (self.a(args[0]) if isinstance(args[0], Tensor) else 0)

    return wrapper


class Decorated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    @twice
    def forward(self, x: Tensor, bias: float = 1.0) -> Tensor:
        return self.b(self.a(x)) + bias


@specimen()
class DecoratedForward(nn.Module):
    """A child's forward is wrapped by a decorator that asks for the type of its argument."""

    def __init__(self) -> None:
        super().__init__()
        self.first = linear()
        self.decorated = Decorated()

    def forward(self, x: Tensor) -> Tensor:
        return self.decorated(self.first(x).relu(), bias=2.0)


class Helper:
    """No module, but uses one."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def run(self, x: Tensor) -> Tensor:
        return self.layer(x)


@specimen(refuses=("fc", "out"))
class ModuleInHelper(nn.Module):
    """Calls a layer through an object that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()
        self.helper = Helper(self.fc)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.helper.run(x))


@specimen(refuses=("norm", "out"))
class ModuleInClosure(nn.Module):
    """Calls a layer, with running statistics, through a function that remembers it."""

    def __init__(self) -> None:
        super().__init__()
        norm = self.norm = nn.BatchNorm1d(4)
        self.out = linear()
        self.step = lambda x: norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.step(x))


@specimen(exact=False)
class UnregisteredModule(nn.Module):
    """Hides a layer from PyTorch in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.hidden = [linear()]
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden[0](self.fc(x)))


@specimen()
class TracedChild(nn.Module):
    """A child that FX has made."""

    def __init__(self) -> None:
        super().__init__()
        self.traced = torch.fx.symbolic_trace(Residual())
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.traced(x))


@specimen(exact=False)
class ScriptedChild(nn.Module):
    """A child that TorchScript has compiled, so that nothing inside it can be seen."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.scripted = torch.jit.script(Residual())
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.scripted(x))


# -- Python that asks for values -------------------------------------------------------------------------------------


@specimen(images)
class ReadsShapes(nn.Module):
    """Unpacks and asserts shapes and computes with them, without branching on them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        assert c == 3, f"three channels are needed, not {c}"
        assert x.dim() == 4 and x.shape[-1] == w
        x = self.conv(x)
        grid = torch.arange(h * w, device=x.device, dtype=x.dtype).view(1, 1, h, w)
        x = self.norm(x + grid / (h * w) + x.new_ones(n, 1, 1, 1))
        x = x.view(x.size(0), 2, -1, *self.conv.kernel_size[:0], h, w).transpose(1, 2).reshape(x.shape)
        return self.pool(x * x.shape[1] ** -0.5).flatten(1)


@specimen()
class MakesTensorsOfItsSize(nn.Module):
    """Hands sizes to the functions that make tensors, alone and in tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = self.fc(x) + torch.zeros(n, 4, device=x.device) + torch.ones((n, 4), dtype=x.dtype)
        x = x + torch.rand(x.shape) + torch.full((n, 1), 2.0) + torch.eye(n)[:, :1]
        return self.out(x + torch.linspace(0, 1, n)[:, None] + torch.empty(x.size(0), 4).fill_(1))


@specimen()
class SignsAndConstants(nn.Module):
    """Negative, complex and infinite constants on either side of an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        signs = (-1) ** torch.arange(4)
        x = 2 - -x * signs / -3 + (-2.0) ** signs
        x = torch.where(x > -math.inf, x, float("nan")) - (-x) ** 2 % -5
        return self.out((x * 1j).imag - 1e-30 + torch.tensor([1.0, -0.0, 2, 3]) + ~torch.tensor([True, False] * 2))


@specimen()
class FunctionsFromCorners(nn.Module):
    """Functions of submodules of torch, with several results, of the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fft.irfft(torch.fft.rfft(self.fc(x)), n=4)
        x = x / torch.linalg.norm(x) + torch.norm(x) + torch.special.expit(x)
        values, indices = torch.max(x, dim=1, keepdim=True)
        top = torch.topk(x, k=2, dim=1).values.sum(1, keepdim=True)
        a, b = torch.split(torch.einsum("bi,bj->bi", x, x), 2, dim=1)
        return self.out(torch.cat([a, b], 1) + values * indices - top)


@specimen(images)
class PoolsWithIndices(nn.Module):
    """Functions whose meaning depends on a flag, with the results that the flag adds."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        self.out = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, indices = self.pool(x)
        z, again = F.max_pool2d(x, 2, return_indices=True)
        y = self.unpool(y, indices, output_size=x.shape)
        return self.out(F.interpolate(z, size=x.shape[-2:]) + y + again.float().mean())


@specimen(images)
class ChecksItsInput(nn.Module):
    """Raises for an input of another shape, in several spellings; so does a norm that only what follows needs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.one = nn.Conv2d(3, 3, 1)
        self.two = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        beside = self.norm(x)
        if x.dim() != 4:
            raise ValueError(f"images have four dimensions, and not {x.dim()}")
        y = self.one(x)
        if x.shape[2] < 2 or not y.shape[1]:
            message = f"too small, or too many channels: {y.shape}"
            raise ValueError(message)
        with torch.enable_grad():
            if y.ndim == 4:
                y = y + 1
            else:
                raise ValueError("no images")
        y += self.two(y)
        return y + beside


@specimen(refuses=("a", "b"))
class CatchesItsOwnError(nn.Module):
    """Raises for an input, and goes on in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        try:
            if x.shape[0] > 2:
                raise ValueError
        except ValueError:
            return self.b(x)
        return self.a(x)


@specimen(refuses=("a", "b"))
class BranchesOnValue(nn.Module):
    """Chooses a way by what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.a(x)
        return self.b(x)


@specimen(refuses=("a", "b"))
class AsksForText(nn.Module):
    """Compares the text of a type."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x) if "float32" in str(x.dtype) or f"{x.device}" == "cpu" else x


@specimen(refuses=("a", "b"))
class AsksGradMode(nn.Module):
    """Goes another way when gradients are off."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * (2 if torch.is_grad_enabled() else 1))


@specimen(refuses=("a", "b"))
class DrawsInPython(nn.Module):
    """Drops a layer by chance, and draws the chance outside torch."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x * random.random())


@specimen(refuses=("a", "b"))
class TakesSizeForNumber(nn.Module):
    """Needs a size as a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) / math.sqrt(x.shape[-1])
        return self.b(x)


@specimen(refuses=("a", "b"))
class SwallowsErrors(nn.Module):
    """Goes on as if nothing were when something cannot be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        with contextlib.suppress(Exception):
            x = x * int(x.shape[0])
        return self.b(x)


@specimen(refuses=("a", "b"))
class CopiesValues(nn.Module):
    """Copies a tensor with Python's own tools."""

    def __init__(self) -> None:
        super().__init__()
        self.a = linear()
        self.b = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(copy.deepcopy(x)))


def helper_with_generator(parts: Iterator[Tensor]) -> Tensor:
    return functools.reduce(lambda a, b: a + b, parts)


@specimen()
class Comprehensions(nn.Module):
    """Generators, closures, sums and zips over its children's results."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([linear(), linear(), linear()])
        self.out = linear()

    def forward(self, x: Tensor) -> Tensor:
        def apply(layer: nn.Module) -> Tensor:
            return layer(x) if isinstance(x, object) else x

        parts = [apply(layer) for layer in self.layers]
        x = helper_with_generator(part * (i + 1) for i, part in enumerate(parts))
        x = sum(a * b for a, b in zip(parts, reversed(parts))) + x
        return self.out(max([x], key=len) if not self.layers else x)


class RunsChildTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.chain = nn.Sequential(linear(), nn.ReLU(inplace=True), linear())

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        early = (x - y) * 0.5
        return {"early": early, "late": self.chain(self.chain(early))}


@specimen()
class RepeatsWhatRepeats(nn.Module):
    """A block that runs twice in evaluation and three times in training, with a chain that it runs twice itself."""

    def __init__(self) -> None:
        super().__init__()
        self.block = RunsChildTwice()

    def forward(self, x: Tensor) -> Tensor:
        first = self.block(y=x * 2, x=x)["late"]
        x = first + self.block(y=first, x=x)["late"]
        if self.training:
            x = x * self.block(x, y=x)["late"]
        return x


class AsksAside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.aside = linear()

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor]:
        x = x - y
        result = torch.cat([x, x], -1)[..., 1:5]
        self.aside(x)
        return (result,)


@specimen(exact=False)
class ChangesWhatABlockHadBefore(nn.Module):
    """A block ends with a call that nobody reads; what it had before that is changed in place later."""

    def __init__(self) -> None:
        super().__init__()
        self.block = AsksAside()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(2):
            (x,) = self.block(x, x * 2)
        x[..., 1:3][..., 0].neg_()
        return x, x


class CountsTwice(nn.Module):
    def __init__(self, anew: bool) -> None:
        super().__init__()
        self.anew = anew
        self.act = nn.Tanh()
        self.register_buffer("count", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        x = self.act(x * self.count)
        if self.anew:
            self.count = self.count * 0.5
        else:
            self.count *= 0.5
        return x - self.count


@specimen(exact=False)
class CountsBeforeAndBehind(nn.Module):
    """A block counts in place before and after its child, and runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = CountsTwice(anew=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


@specimen(exact=False)
class CountsAnew(nn.Module):
    """A block that assigns another tensor to its buffer in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.block = CountsTwice(anew=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


def _runs(spec: Specimen) -> bool:
    """Whether a model runs where the tests do: some make tensors on the CPU, whatever they are given."""
    args, kwargs = spec.inputs()
    try:
        spec.make()(*args, **kwargs)
    except RuntimeError:
        return False
    return True


if DEVICE != "cpu":
    for name in [name for name, spec in GALLERY.items() if not _runs(spec)]:
        del GALLERY[name]
        print(f"{name} does not run on {DEVICE}")
