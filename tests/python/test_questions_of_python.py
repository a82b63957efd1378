"""What Python and torch ask of a value without the forward being asked: each tiny model is equal, or it is refused.

As in ``test_hidden_work.py``, each is cut at one place on proxies and on an example, and run on other sizes.
"""

from __future__ import annotations

import copy
import math
import pickle
import types
from typing import Any, NamedTuple

import helpers
import pytest
import torch
from oracle import capture
from rebuilt import truncate
from three import RIGHT, Three, X, many
from torch import Tensor, nn

from truncate import CannotFollowError

BY_VALUE = "branches on a value"


class AsksForAnAttribute(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        scale = getattr(x, "scale", None)
        return self.b(x * 3 if scale is None else x * 2)


class TriesAnAttribute(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        try:
            return self.b(x * x.scale)
        except AttributeError:
            return self.b(x * 3)


class AsksForTheClass(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x * 2 if x.__class__ is torch.Tensor else x)


class AttributeOfAParameter(Three):
    def add(self) -> None:
        self.a.weight.gain = 2.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) * getattr(self.a.weight, "gain", 1.0) * getattr(self.b.weight, "gain", 1.0)
        return self.b(x)


class HelperOfAModule(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(helpers.doubled_if_tensor(self.a(x)))


class RootInAHelper(Three):
    def forward(self, x: Tensor) -> Tensor:
        return x if many(x) else self.b(helpers.over_root_of_width(self.a(x), x.shape[0]))


class HelpersThatCallEachOther(Three):
    def forward(self, x: Tensor) -> Tensor:
        return x if many(x) else self.b(helpers.odd(self.a(x), 3))


class LambdaInAnAttribute(Three):
    def add(self) -> None:
        self.root = lambda n: math.sqrt(n / 1)

    def forward(self, x: Tensor) -> Tensor:
        return x if many(x) else self.b(self.a(x) * self.root(x.shape[0]))


class PropertyThatAsks(Three):
    count: Any = None

    @property
    def factor(self) -> Tensor:
        return self.a.weight.sum() if isinstance(self.a.weight, nn.Parameter) else self.a.bias.sum()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * self.factor)


class CachedFunction(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) + helpers.positions(x.shape[0])[:, None])


class Fills(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor, memo: dict[str, Tensor]) -> Tensor:
        if "x" not in memo:
            memo["x"] = self.inner(x)
        return memo["x"]


class HandsOnAnEmptyDict(Three):
    def add(self) -> None:
        self.fills = Fills()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return x if many(x) else self.b(self.fills(x, {}))


class Memo:
    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.memo: dict[str, Tensor] = {}


class Remembers(nn.Module):
    def forward(self, given: Memo) -> Tensor:
        if "x" not in given.memo:
            given.memo["x"] = given.x * 2
        return given.memo["x"]


class HandsOnAnObjectWithAnEmptyDict(Three):
    def add(self) -> None:
        self.remembers = Remembers()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return x if many(x) else self.b(self.remembers(Memo(x)))


class FillsItsDefault(Three):
    def forward(self, x: Tensor, seen: dict[str, Tensor] = {}) -> Tensor:  # noqa: B006
        seen["x"] = self.a(x)
        return self.b(seen["x"])


class ChecksWithTorch(Three):
    def forward(self, x: Tensor) -> Tensor:
        torch._check(x.shape[1] == 4)
        torch._check_tensor_all(x < 1e9, lambda: "too large")
        many_rows = x.shape[0] > 1
        torch._check(many_rows)
        return self.b(self.a(x)) if not many(x) else x


class HandsAnAnswerOn(Three):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y + y.sum(1, keepdim=x.shape[1] > 1) + y.sort(descending=x.shape[1] > 2).values
        with torch.set_grad_enabled(x.shape[1] > 3):
            y = y * 2
        return self.b(y) if not many(x) else x


class TakesAShapeInADict(nn.Module):
    def forward(self, x: Tensor, how: dict[str, Any]) -> Tensor:
        return x.reshape(how["shape"]) * how["shape"][0]


class HandsOnAShape(Three):
    def add(self) -> None:
        self.child = TakesAShapeInADict()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return x if many(x) else self.b(self.child(x, {"shape": x.shape}))


class Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, how: Any) -> Tensor:
        return torch.zeros_like(x) + x * how["by"]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return -grad, None


class AppliesAFunction(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return x if many(x) else self.b(Turned.apply(x, {"by": 2}))


class ComputesInInferenceMode(Three):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            scale = self.a(x) * 2
        return self.b(x * scale.mean().item())


class MatchesItsShape(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        match x.shape:
            case (_, _):
                x = x * 2
            case _:
                x = x * 3
        return self.b(x)


class AsksTheTextOfADevice(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x * 2 if str(x.device).startswith("cpu") else x)


class ComparesTwoValues(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = x.contiguous()
        return self.b(x * 2 if y is x else x)


class AsksTorchScript(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x * 2 if torch.jit.isinstance(x, Tensor) else x)


class Irreps(tuple):  # type: ignore[type-arg]
    """A tuple that has no length."""

    def __len__(self) -> int:
        raise NotImplementedError


class UsesATupleWithoutLength(Three):
    def add(self) -> None:
        self.irreps = Irreps((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return x if many(x) else self.b(torch.stack([x * n for n in self.irreps]).sum(0))


class MethodsOfASize(Three):
    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        return x if many(x) else self.b(self.a(x) * n.real * (n / 3).real)


def noted(condition: object, message: str) -> None:
    """Stands for a function of the user's that shows a text."""


class ShowsTexts(Three):
    def forward(self, x: Tensor) -> Tensor:
        noted(x.shape[1] == 4, f"{x.shape[1]} is not {self.a.in_features}, nor {x.shape[0]}")
        noted(True, "{} of {}".format(x.shape[0], x.dtype))  # noqa: UP032
        torch._assert(x.dim() == 2, f"two dimensions, not {x.dim()}")
        if x.shape[1] != self.a.in_features:
            raise ValueError(f"{x.shape[1]} channels, and not {self.a.in_features}")
        return self.b(self.a(x))


class KeepsAText(Three):
    def forward(self, x: Tensor) -> Tensor:
        x, texts = self.a(x), list[str]()
        texts.append(f"{x.shape[1]} columns")
        return self.b(x * 2 if texts[0] == "4 columns" else x)


class CachedWithItsInfo(Three):
    def forward(self, x: Tensor) -> Tensor:
        helpers.positions.cache_clear()
        return self.b(self.a(x) + helpers.positions(x.shape[0])[:, None])


class DecoratedHelper(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(helpers.doubled_without_gradients(self.a(x)))


class AsksInAMethod:
    def __call__(self, x: Any) -> Any:
        return x * 2 if type(x) is torch.Tensor else x


class AsksTheTypeBesideTheCopies(Three):
    def add(self) -> None:
        self.asks = AsksInAMethod()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.asks(self.a(x)))


class TypesOfAChildAndANumber(Three):
    count = 3

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x * 2 if type(self.a) is nn.Linear and type(self.count) is int else x)


class ComparesFunctions(Three):
    def add(self) -> None:
        self.act, self.other = nn.functional.gelu, helpers.doubled_if_tensor

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.a(x))
        x = x * 2 if self.act is nn.functional.gelu else x
        return self.b(x * 3 if self.other is helpers.doubled_if_tensor else x)


class LooksASizeUp(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * {4: 2.0}.get(x.shape[1], 1.0))


class GivesNone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        return x * 2, None

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:
        return grad


class NoneOfAFunction(Three):
    def forward(self, x: Tensor) -> Tensor:
        x, rest = GivesNone.apply(self.a(x))
        return self.b(x * 2 if rest is None else x)


class UsesAPythonModule(Three):
    def forward(self, x: Tensor) -> Tensor:
        known = isinstance(helpers, types.ModuleType) and "TABLE" in dir(helpers) and helpers.__name__ == "helpers"
        return self.b(self.a(x) * 2 if known and "odd" in vars(helpers) else x)


FILLS = "fills the default of an argument, 'seen', from call to call"
CASES: list[tuple[type[Three], str, str]] = [  # what is said without an example and with one
    (AsksForAnAttribute, RIGHT, RIGHT),
    (TriesAnAttribute, RIGHT, RIGHT),
    (AsksForTheClass, RIGHT, RIGHT),
    (AttributeOfAParameter, RIGHT, RIGHT),
    (HelperOfAModule, RIGHT, RIGHT),
    (RootInAHelper, BY_VALUE, RIGHT),
    (HelpersThatCallEachOther, BY_VALUE, RIGHT),
    (LambdaInAnAttribute, BY_VALUE, RIGHT),
    (PropertyThatAsks, RIGHT, RIGHT),
    (CachedFunction, RIGHT, RIGHT),
    (HandsOnAnEmptyDict, BY_VALUE, RIGHT),
    (HandsOnAnObjectWithAnEmptyDict, BY_VALUE, RIGHT),
    (FillsItsDefault, FILLS, FILLS),
    (ChecksWithTorch, BY_VALUE, RIGHT),
    (HandsAnAnswerOn, "cannot follow the forward", RIGHT),
    (HandsOnAShape, BY_VALUE, RIGHT),
    (AppliesAFunction, BY_VALUE, RIGHT),
    (ComputesInInferenceMode, "computes in torch.inference_mode", "computes in torch.inference_mode"),
    (MatchesItsShape, "asks for the class or the items of a value with `match`", RIGHT),
    (MethodsOfASize, BY_VALUE, RIGHT),
    (TypesOfAChildAndANumber, RIGHT, RIGHT),
    (ComparesFunctions, RIGHT, RIGHT),
    (LooksASizeUp, "looks a value up in a dict or set", RIGHT),
    (NoneOfAFunction, "asks whether a value that it computes is None", RIGHT),
    (UsesAPythonModule, RIGHT, RIGHT),
    (ShowsTexts, RIGHT, RIGHT),
    (KeepsAText, "computes with the text of a value", RIGHT),
    (CachedWithItsInfo, RIGHT, RIGHT),
    (DecoratedHelper, RIGHT, RIGHT),
    (AsksTheTypeBesideTheCopies, "asks for the type of a value", RIGHT),
    (AsksTorchScript, "asks for the type of a value with torch.jit.isinstance", RIGHT),
    (UsesATupleWithoutLength, BY_VALUE, RIGHT),
    (AsksTheTextOfADevice, "computes with the text of a value", RIGHT),
]


def cases() -> list[Any]:
    found = []
    for kind, alone, recorded in CASES:
        found.append(pytest.param(kind, alone, False, id=kind.__name__))
        found.append(pytest.param(kind, recorded, True, id=f"{kind.__name__}-example"))
    return found


@pytest.mark.parametrize(("kind", "says", "on_example"), cases())
def test_equal_on_other_sizes_or_refused(kind: type[Three], says: str, on_example: bool) -> None:
    torch.manual_seed(0)
    model = kind()
    torch.manual_seed(0)
    whole = kind()
    example: dict[str, Any] = {"args": (X,)} if on_example else {}
    if says:
        with pytest.raises(CannotFollowError) as caught:
            truncate(model, "b", **example)
        assert says in str(caught.value)
        assert "site-packages" not in str(caught.value) and "contextlib" not in str(caught.value)
    else:
        cut = truncate(model, "b", **example)
        copied = pickle.loads(pickle.dumps(cut)) if kind is not LambdaInAnAttribute else copy.deepcopy(cut)
        for batch in (2, 3, 5):
            x = torch.randn(batch, 4)
            expected = capture(whole, ["b"], x.clone())["b"][-1]
            assert torch.equal(cut(x.clone()), expected) and torch.equal(copied(x.clone()), expected)
    assert torch.equal(model(X), whole(X))  # nothing was left behind in it


def test_two_values_that_are_compared() -> None:
    """On an example too: two names of one value there may be two values in another pass."""
    for example in ({}, {"args": (X,)}):
        with pytest.raises(CannotFollowError, match="compares two values with `is`"):
            truncate(ComparesTwoValues(), "b", **example)


def test_nothing_stays_in_a_default() -> None:
    FillsItsDefault.forward.__defaults__[0].clear()
    for example in ({}, {"args": (X,)}):
        with pytest.raises(CannotFollowError):
            truncate(FillsItsDefault(), "b", **example)
        assert FillsItsDefault.forward.__defaults__ == ({},)


class CheckpointsInTraining(Three):
    checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if torch.is_grad_enabled() and self.checkpointing:
            x = x * 2
        return x if many(x) else self.b(x)


class ComparesBeside(CheckpointsInTraining):
    """What it compares by `is` needs real bools; that it may ask for gradients needs none."""

    def forward(self, x: Tensor, skips: bool = False) -> Tensor:
        if skips is True:
            return x
        return super().forward(x)


@pytest.mark.parametrize("kind", [CheckpointsInTraining, ComparesBeside])
def test_a_question_whose_answer_does_not_matter(kind: type[Three]) -> None:
    model = kind()
    cut = truncate(model, "b", (X,))
    assert cut.assumptions and not any("is_grad_enabled" in found.code for found in cut.assumptions)
    with torch.no_grad():
        assert torch.equal(cut(X), capture(model, ["b"], X)["b"][-1])


class Squares(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) ** 2
        return x if many(x) else self.b(x)


class Pair(NamedTuple):
    last: Tensor
    hidden: Tensor | None = None


class AsksOfAPair(Three):
    def forward(self, x: Tensor) -> Tensor:
        found = self.pair(self.a(x))
        return self.b(found.last if found.hidden is None else found.hidden)

    def add(self) -> None:
        self.pair = MakesAPair()


class MakesAPair(nn.Module):
    def forward(self, x: Tensor) -> Pair:
        return Pair(x * 2)


@torch.no_grad()
def test_questions_while_gradients_are_off() -> None:
    model = AsksOfAPair()
    assert torch.equal(truncate(model, "b")(X), capture(model, ["b"], X)["b"][-1])


def test_a_power_can_be_pickled() -> None:
    cut = truncate(Squares(), "b", (X,))
    assert torch.equal(pickle.loads(pickle.dumps(cut))(X), cut(X))
