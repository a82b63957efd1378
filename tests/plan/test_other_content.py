"""What a child changes only for other content, in another mode, or where gradients flow, and what it leaves behind.

The example, if there is one, is small, in evaluation and without gradients. Each cut is compared with hooks on an
untouched copy on inputs where the child does what it did not do there: values, inputs, buffers and gradients.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import capture, equal
from torch import Tensor, nn

from truncate import CannotFollowError, split, truncate

pytestmark = pytest.mark.filterwarnings("ignore::truncate.ContentWarning")
torch.manual_seed(0)
SMALL, LARGE = torch.rand(2, 4), torch.rand(2, 4) * 10 + 4


class HalvesLarge(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 3:
            x.mul_(0.5)
        return x.sum()


class Inside(nn.Module):
    """A child whose own forward is followed, with one inside that has to be observed."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> None:
        self.inner(x)


class Unread(nn.Module):
    """Nobody reads what the child returns, but it may have changed the input."""

    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child, self.a = child, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.child(x)
        return self.a(x)


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("x", [SMALL, LARGE], ids=["small", "large"])
def test_an_unread_child_that_changes_large_inputs(depth: int, x: Tensor) -> None:
    child: nn.Module = HalvesLarge()
    for _ in range(depth):
        child = Inside(child)
    model = Unread(child)
    cut = truncate(copy.deepcopy(model), "a", args=(SMALL.clone(),))
    given, left = x.clone(), x.clone()
    assert torch.equal(cut(given), model(left)) and torch.equal(given, left)


class Later(nn.Module):
    """A view of the input is a target, and changed by the child that runs next."""

    def __init__(self) -> None:
        super().__init__()
        self.view, self.child = nn.Flatten(), HalvesLarge()

    def forward(self, x: Tensor) -> Tensor:
        return self.child(self.view(x))


@pytest.mark.parametrize("x", [SMALL, LARGE], ids=["small", "large"])
def test_a_target_that_a_later_child_may_overwrite(x: Tensor) -> None:
    model = Later()
    cut = truncate(copy.deepcopy(model), {"view": "view", "child": "child"}, args=(SMALL.clone(),))
    expected = {path: calls[-1] for path, calls in capture(model, ["view", "child"], x.clone()).items()}
    assert equal(cut(x.clone()), expected)


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> None:
        if x.requires_grad:
            x.register_hook(lambda grad: grad * 2)


def test_an_unread_child_that_hooks_the_gradient() -> None:
    model = Unread(Doubles())
    cut = truncate(copy.deepcopy(model), "a", args=(SMALL.clone(),))
    one, other = SMALL.clone().requires_grad_(), SMALL.clone().requires_grad_()
    cut(one).sum().backward(), model(other).sum().backward()
    assert one.grad is not None and equal(one.grad, other.grad)


class ThenInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        x.add_(1)
        return y


@pytest.mark.parametrize("example", [False, True], ids=["no example", "example"])
@pytest.mark.parametrize("targets", [["a", ""], ["", "b"], ["b", "a"]], ids=str)
def test_the_input_is_changed_as_far_as_the_targets_go(targets: list[str], example: bool) -> None:
    model, given, left = ThenInPlace(), SMALL.clone(), SMALL.clone()
    cut = truncate(copy.deepcopy(model), targets, args=(SMALL.clone(),) if example else None)
    expected = capture(model, targets, left)
    assert equal(cut(given), [expected[path][-1] for path in targets])
    assert torch.equal(given, left if "" in targets else SMALL)


class Halves(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        y.mul_(0.5)
        return x + y


class Aliases(nn.Module):
    """A target deep inside is its module's own argument, and the input, which is overwritten later."""

    def __init__(self, *first: nn.Module) -> None:
        super().__init__()
        self.deep = Inside(nn.Sequential(*first, Inside(nn.Sequential(nn.Identity()))))
        self.halves = Halves()

    def forward(self, x: Tensor) -> Tensor:
        self.deep(x)
        return self.halves(x, x)


@pytest.mark.parametrize("first", [[], [nn.Identity()], [nn.Flatten()]], ids=["alone", "identity", "flatten"])
def test_a_target_that_is_the_input_of_what_holds_it(first: list[nn.Module]) -> None:
    model = Aliases(*first)
    path = f"deep.inner.{len(first)}.inner.0"
    cut = truncate(copy.deepcopy(model), [path, ""])
    expected = capture(model, [path, ""], SMALL.clone())
    assert equal(cut(SMALL.clone()), [expected[path][-1], expected[""][-1]])


class UnreadInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a = nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.norm(x)
        else:
            x = self.norm(x)
        return self.a(x)


@pytest.mark.parametrize(
    ("inside", "example"),
    [(False, False), (False, True), (True, True)],  # inside of a child it is refused without an example
    ids=["no example", "example", "inside"],
)
def test_pieces_run_what_only_training_calls(inside: bool, example: bool) -> None:
    model = nn.Sequential(UnreadInTraining()).eval() if inside else UnreadInTraining().eval()
    at, args = ("0.norm" if inside else "norm"), (SMALL.clone(),) if example else None
    pieces = nn.Sequential(*split(copy.deepcopy(model), at, args=args, crossing="pass"))
    assert torch.equal(pieces.train()(LARGE), model.train()(LARGE))
    assert torch.equal(pieces.eval()(SMALL), model.eval()(SMALL))
    theirs = list(model.buffers())
    assert equal(list(pieces.buffers()), theirs) and int(theirs[-1]) == 1


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class FoundByAHook(nn.Module):
    """A hook puts into a dict what a child returns, which is its own argument in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.noise, self.found, self.a = Noise(), {}, nn.Linear(4, 4)
        self.noise.register_forward_hook(lambda module, args, output: self.found.update(k=output))

    def forward(self, x: Tensor) -> Tensor:
        self.noise(x)
        return self.a(self.found["k"])


def test_what_a_hook_puts_into_a_dict_is_not_what_it_is_on_the_example() -> None:
    model = FoundByAHook().eval()
    with pytest.raises(CannotFollowError, match="has put into a list or dict"):
        split(model, "a", args=(SMALL,))
    cut = truncate(model, "a", args=(SMALL,)).train()
    torch.manual_seed(0)
    result = cut(SMALL)
    torch.manual_seed(0)
    assert torch.equal(result, model.train()(SMALL))


class OwnCall(nn.Module):
    def __call__(self, x: Any) -> Any:
        return super().__call__(x)

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Sliced(nn.Module):
    """Slices a container after the target, where a live part may drop what does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest, self.last = nn.Sequential(OwnCall()), nn.Sequential(nn.Linear(4, 4)), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.rest[:2](x))


def test_a_slice_is_made_of_what_a_live_part_watches() -> None:
    model = Sliced()
    cut = truncate(copy.deepcopy(model), ["first.0", "last"], args=(SMALL,))
    assert equal(cut(LARGE), [LARGE + 1, model(LARGE)])


class Fills(nn.Module):
    def __init__(self, held: list[Tensor]) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        self.held[:] = [x * 3]
        return x


class Reads(Fills):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.held[-1]


class Share(nn.Module):
    """Nobody reads what the first child returns, but it fills a list that the second one has, too."""

    def __init__(self) -> None:
        super().__init__()
        held: list[Tensor] = []
        self.fills, self.reads, self.last = Inside(Fills(held)), Reads(held), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.fills(x)
        return self.last(self.reads(x))


@pytest.mark.parametrize(
    "options",
    [{}, {"copy": True}, {"args": (SMALL,)}, {"live": True}],
    ids=["no example", "copy", "example", "live"],
)
@pytest.mark.parametrize("before", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("target", ["reads", "last"])
def test_a_list_that_two_children_hold(target: str, before: bool, options: dict[str, Any]) -> None:
    model = Share()
    if before:
        model(LARGE)  # it leaves something there
    cut = truncate(model, target, **options)
    for x in (SMALL, LARGE):
        assert torch.equal(cut(x), x * 4)


class AsksTwoModes(nn.Module):
    """In one mode of a child it reads the mode of its own, too."""

    def __init__(self) -> None:
        super().__init__()
        self.flag, self.a = nn.Identity(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        if self.flag.training and x.shape[0] > 1:
            x = x * (3 if self.training else 2)
        return self.a(x), self.training


@pytest.mark.parametrize("training", [False, True])
def test_modes_that_only_one_branch_asks_for(training: bool) -> None:
    model, x = AsksTwoModes().train(training), torch.randn(2, 4)
    cut = truncate(copy.deepcopy(model), "a", args=(x,))
    for mode in (training, not training):
        assert torch.equal(cut.train(mode)(x), capture(model.train(mode), ["a"], x)["a"][-1])


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) * 2


class TwoNames(nn.Module):
    """A module with statistics has two names, and is run by both."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Sequential(Norm(), nn.ReLU()), nn.Tanh())
        self.two = self.one

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x) + x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("path", ["one", "one.0", "one.0.0", "one.0.0.norm", "one.0.1"])
def test_what_a_module_with_two_names_is_given(path: str, training: bool) -> None:
    model = TwoNames().train(training)
    cut, given = truncate(copy.deepcopy(model), before=path), list[Tensor]()
    model.get_submodule(path).register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
    model(SMALL)
    assert torch.equal(cut(SMALL), given[-1])
