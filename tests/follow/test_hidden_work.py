"""Work that a forward does where nobody looks: each tiny model is cut at one place, on proxies and on an example.

A cut is equal to what hooks see on an untouched copy, in two calls, or it is refused; which of them is written down.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import capture
from rebuilt import truncate
from three import RIGHT, Three
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from truncate import CannotFollowError, split
from truncate import _api as _api

pytestmark = pytest.mark.filterwarnings("ignore::truncate._errors.ContentWarning")


class WritesByKeyword(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        nn.init.constant_(x[:, 1], 7.0)
        torch.relu_(input=x)
        return self.b(x)


class WritesByOperator(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        torch.ops.aten.mul_.Tensor(x, x)
        return self.b(x)


class TakesOthersMemory(Three):
    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        w = torch.empty(0)
        w.set_(z.detach())
        w.add_(1)
        return self.b(z)


class Doubles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class MarksDirty(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        Doubles.apply(x)
        return self.b(x)


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class UsesOneFunctionThrice(Three):
    def forward(self, x: Tensor) -> Tensor:
        u = self.a(x)
        y = Sign.apply(u)
        v = self.b(x)
        z = Sign.apply(v)
        return self.c(Sign.apply(y + z * y) + u + v)


class Bounded(Three):
    def add(self) -> None:
        self.embed = nn.Embedding(8, 4, max_norm=0.5)

    def forward(self, x: Tensor) -> Tensor:
        before = F.linear(self.a(x), self.embed.weight)
        self.embed(torch.arange(8, device=x.device))
        return self.b(before[:, :4] + F.linear(x, self.embed.weight)[:, :4])


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x


class ReadsWhatAChildCounts(Three):
    def add(self) -> None:
        self.counting = Counting()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        self.counting(x)
        return self.b(x + self.counting.count)


class OneBufferOfTwoNames(Three):
    def add(self) -> None:
        both = torch.ones(8)
        self.register_buffer("first", both[:4])
        self.register_buffer("all", both)

    def forward(self, x: Tensor) -> Tensor:
        self.all.mul_(2)
        return self.b(self.a(x) + self.first)


class SharesABufferWithAChild(Three):
    def add(self) -> None:
        self.counting = Counting()
        self.register_buffer("same", self.counting.count)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        self.counting(x)
        return self.b(x + self.same)


class HookWritesInput(Three):
    def add(self) -> None:
        self.act = nn.Tanh()
        self.act.register_forward_pre_hook(lambda module, args: _double(args))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        self.act(x)
        return self.b(x)


def _double(args: tuple[Tensor, ...]) -> None:
    args[0].mul_(2)


class ScaledChain(nn.Sequential):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x * 2) + 1


class CallOfASequential(Three):
    def add(self) -> None:
        self.chain = ScaledChain(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.chain(self.a(x)))


class CompiledInPlace(Three):
    def add(self) -> None:
        self.chain = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.chain.compile(backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.chain(self.a(x)))


class GradientsOffInAutocast(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            y = x @ x.t()
        return self.b(x + y.float().sum())


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.scale = nn.Linear(4, 4), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scale


class SetsOptionOfAGrandchild(Three):
    def add(self) -> None:
        self.chain = nn.Sequential(Scaled())

    def forward(self, x: Tensor) -> Tensor:
        self.chain[0].scale = 3.0
        return self.b(self.chain(self.a(x)))


class CallsAPartAlone(Three):
    def add(self) -> None:
        self.block = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return self.b(self.block[0](x)) + x


class WritesOnATensorInAList(Three):
    def add(self) -> None:
        self.listed = [torch.ones(4)]

    def forward(self, x: Tensor) -> Tensor:
        self.listed[0].add_(1)
        return self.b(self.a(x) * self.listed[0])


class KeepsATensor(Three):
    def add(self) -> None:
        self.kept = torch.ones(4)

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.kept + 1
        return self.b(self.a(x) * self.kept)


class AssignsData(Three):
    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        z.data = z.data * 0.5 if bool(x.sum() < 1e9) else z.data
        return self.b(z)


class ReadsContentByNumpy(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * float(x.detach().numpy().max()))


class RegistersABuffer(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        self.register_buffer("last", x.detach())
        return self.b(x)


class DrawsFromAGenerator(Three):
    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return self.b(self.a(x) + torch.rand(4, generator=generator))


class SetsRandomState(Three):
    def forward(self, x: Tensor) -> Tensor:
        state = torch.get_rng_state()
        x = self.a(x) * torch.rand(4)
        torch.set_rng_state(state)
        return self.b(x)


class Summing(nn.Module):
    def forward(self, x: Tensor, more: Any) -> Tensor:
        return x + sum(more)


class HidesInADeque(Three):
    def add(self) -> None:
        self.summing = Summing()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(self.summing(x, collections.deque([self.c(x)])))


class Reading(nn.Module):
    def forward(self, given: Any) -> Tensor:
        return given.value * 2


class HandsOnANamespace(Three):
    def add(self) -> None:
        self.reading = Reading()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.reading(types.SimpleNamespace(value=self.a(x))))


@dataclasses.dataclass
class Settings:
    width: int = 4
    depth: int = 2

    def __getattribute__(self, name: str) -> Any:
        if name == "depth":
            raise ValueError("each layer has its own depth")
        return super().__getattribute__(name)


class HoldsSettingsThatRefuse(Three):
    def add(self) -> None:
        self.settings = Settings()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return x if len(x) > 90 else self.b(x * self.settings.width)


class RegistersAHook(Three):
    def forward(self, x: Tensor) -> Tensor:
        handle = self.a.register_forward_hook(lambda module, args, output: output * 2)
        x = self.a(x)
        handle.remove()
        return self.b(x)


class ModeIsTrue(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x * 2 if self.training is True else x)


class MatchesTheMode(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        match self.training:
            case True:
                x = x * 2
            case False:
                x = x * 3
        return self.b(x)


def doubled_if_true(x: Tensor, flag: bool) -> Tensor:
    return x * 2 if flag is True else x


class HelperComparesTheMode(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(doubled_if_true(self.a(x), self.training))


class HelperComparesAnAnswer(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(doubled_if_true(self.a(x), x.dim() == 2))


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor, flag: bool | None = None) -> Tensor:
        return self.inner(x) if flag is True else x


class ChildComparesTheMode(Three):
    def add(self) -> None:
        self.child = Doubling()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.child(self.a(x), self.training))


class ChildComparesAConstant(Three):
    def add(self) -> None:
        self.child = Doubling()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.child(self.a(x), flag=True))


class ShowsContent(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        print(f"{x.sum():.2f}")
        return self.b(x)


class ComputesWithText(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        text = str(x)
        return self.b(x * 2 if "0" in text else x)


class StartsFromItsFirstBatch(Three):
    def add(self) -> None:
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if not self.ready:
            self.scale.copy_(1 / (x.detach().std(0) + 1))
            self.ready.fill_(True)
        return self.b(x * self.scale)


BY_VALUE = "branches on a value"
CASES: list[tuple[type[Three], str, str, str]] = [  # the place, and what is said without an example and with one
    (WritesByKeyword, "b", RIGHT, RIGHT),
    (WritesByOperator, "b", RIGHT, RIGHT),
    (TakesOthersMemory, "b", RIGHT, RIGHT),
    (MarksDirty, "b", RIGHT, RIGHT),
    (UsesOneFunctionThrice, "c", RIGHT, RIGHT),
    (Bounded, "b", RIGHT, RIGHT),
    (ReadsWhatAChildCounts, "b", RIGHT, RIGHT),
    (OneBufferOfTwoNames, "b", RIGHT, RIGHT),
    (SharesABufferWithAChild, "b", RIGHT, RIGHT),
    (HookWritesInput, "b", RIGHT, RIGHT),
    (CallOfASequential, "chain.0", RIGHT, RIGHT),
    (CompiledInPlace, "chain.0", RIGHT, RIGHT),
    (GradientsOffInAutocast, "b", RIGHT, RIGHT),
    (SetsOptionOfAGrandchild, "b", "sets an attribute of 'chain' and then calls it", "the same"),
    (CallsAPartAlone, "block.0.0", "'block.0' is called by itself and as a part of 'block'", "the same"),
    (WritesOnATensorInAList, "b", RIGHT, RIGHT),
    (KeepsATensor, "b", "keeps something in its attribute 'kept' from call to call", "the same"),
    (AssignsData, "b", BY_VALUE, "assigns to 'data' of a tensor"),
    (ReadsContentByNumpy, "b", "turns a value into a Python number", "computes with numpy, which cannot be seen"),
    (RegistersABuffer, "b", "registers a parameter, buffer or module, for the next call to find", "the same"),
    (DrawsFromAGenerator, "b", "draws random numbers of its own, from a torch.Generator", "the same"),
    (SetsRandomState, "b", "seeds the random numbers", "the same"),
    (HidesInADeque, "b", "hides a value in a deque", "the same"),
    (HoldsSettingsThatRefuse, "b", BY_VALUE, RIGHT),
    (RegistersAHook, "b", "registers a hook on a module", "registers a hook that computes with what it sees"),
    (ModeIsTrue, "b", RIGHT, RIGHT),
    (MatchesTheMode, "b", RIGHT, RIGHT),
    (HelperComparesTheMode, "b", RIGHT, RIGHT),
    (HelperComparesAnAnswer, "b", "asks whether a value that it computes is True or False", RIGHT),
    (ChildComparesTheMode, "child.inner", "is a part of an argument is True or False", RIGHT),
    (ChildComparesAConstant, "child.inner", RIGHT, RIGHT),
    (ShowsContent, "b", RIGHT, RIGHT),
    (ComputesWithText, "b", "computes with the text of a value", "computes with the text of a tensor"),
    (HandsOnANamespace, "b", "hides a value in a SimpleNamespace", RIGHT),
]


def cases() -> list[Any]:
    found = []
    for kind, place, alone, recorded in CASES:
        same = recorded == "the same"
        found.append(pytest.param(kind, place, alone, False, id=kind.__name__))
        found.append(pytest.param(kind, place, alone if same else recorded, True, id=f"{kind.__name__}-example"))
    return found


@pytest.mark.parametrize(("kind", "place", "says", "on_example"), cases())
def test_equal_in_two_calls_or_refused(kind: type[Three], place: str, says: str, on_example: bool) -> None:
    model = kind()
    whole, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    example: dict[str, Any] = {"args": (torch.randn(2, 4),)} if on_example else {}
    if says:
        with pytest.raises(CannotFollowError) as caught:
            truncate(model, place, **example)
        assert says in str(caught.value)
        return
    cut = truncate(model, place, **example, copy=True)
    assert list(model.state_dict()) == list(before)
    for batch in (2, 3):
        x = torch.randn(batch, 4)
        expected = capture(whole, [place], x.clone())[place][-1]
        result = cut(x.clone())
        assert torch.equal(result, expected)
        assert result.requires_grad is expected.requires_grad


@pytest.mark.parametrize("read", [lambda x: float(f"{x.sum():.2f}"), lambda x: complex(x.sum()).real])
def test_content_that_is_read_as_text_or_as_a_complex_number(read: Callable[[Tensor], float]) -> None:
    class Reads(Three):
        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x * read(x.detach()))

    model, x = Reads(), torch.randn(2, 4)
    cut = truncate(model, "b", (x,))
    assert torch.equal(cut(x), capture(model, ["b"], x)["b"][-1])
    with pytest.raises(AssertionError, match="unlike the example"):
        cut(x + 1)


def test_a_check_of_what_the_forward_changes_then() -> None:
    """The way of the example is that of a first batch, and only a first batch goes it."""
    model, x = StartsFromItsFirstBatch(), torch.randn(3, 4)
    whole = copy.deepcopy(model)
    cut = truncate(model, "b", (x,))
    assert not model.ready
    assert torch.equal(cut(x), capture(whole, ["b"], x)["b"][-1])
    with pytest.raises(AssertionError, match="unlike the example"):
        cut(x)


class ReadsWhatAHookSets(Three):
    def add(self) -> None:
        self.b.register_forward_pre_hook(lambda module, args: setattr(module, "seen", args[0].mean()))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x))) * self.b.seen


def test_an_attribute_that_only_a_hook_sets() -> None:
    model, x = ReadsWhatAHookSets(), torch.randn(2, 4)
    with pytest.raises(CannotFollowError, match="reads 'b.seen', which exists only while the model runs"):
        split(model, "a", (x,))


def test_a_mode_of_the_caller_does_not_reach_the_parameters() -> None:
    model, x = HoldsSettingsThatRefuse(), torch.randn(2, 4)
    before = copy.deepcopy(model.state_dict())
    with FakeTensorMode(allow_non_fake_inputs=True):
        truncate(model, "a", (x,))
    assert all(type(p) is nn.Parameter and torch.equal(p, before[name]) for name, p in model.named_parameters())
