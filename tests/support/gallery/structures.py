"""What goes in and what comes out."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gallery.specimen import linear, specimen, two_vectors


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
