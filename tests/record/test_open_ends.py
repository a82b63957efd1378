"""What cannot be recorded after the last target does not matter; what cannot be recorded before it is refused."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from oracle import capture
from rebuilt import truncate
from three import Three
from torch import Tensor, nn

from truncate import CannotFollowError, split

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def by_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy() * 2)


def by_chance(x: Tensor) -> Tensor:
    return x * random.random()


def seeded(x: Tensor) -> Tensor:
    torch.manual_seed(3)
    return x + torch.rand(4)


def mapped(x: Tensor) -> Tensor:
    return torch.vmap(lambda row: row * 2)(x)


WAYS = {
    by_numpy: "computes with numpy",
    by_chance: "draws random numbers outside of torch",
    seeded: "seeds the random numbers",
    mapped: "made out of sight",
}


class Behind(Three):
    """Does it after `b`, and then goes on to `c`."""

    def __init__(self, does: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.does = does

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.shape[0] > 90:
            return x
        return self.c(self.does(self.b(x) + 1))


@pytest.mark.parametrize("does", WAYS, ids=lambda does: does.__name__)
def test_behind_the_target_it_does_not_matter(does: Callable[[Tensor], Tensor]) -> None:
    model = Behind(does)
    for place in ("a", "b"):
        cut = truncate(model, place, (X,))
        for batch in (2, 5):
            x = torch.randn(batch, 4)
            assert torch.equal(cut(x), capture(model, [place], x)[place][-1])
    assert not hasattr(truncate(model, "b", (X,)), "c")


@pytest.mark.parametrize("does", WAYS, ids=lambda does: does.__name__)
@pytest.mark.parametrize("places", ["c", ["a", ""], ["a", "c"]], ids=str)
def test_before_a_target_it_is_refused(does: Callable[[Tensor], Tensor], places: object) -> None:
    with pytest.raises(CannotFollowError) as caught:
        truncate(Behind(does), places, (X,))
    assert WAYS[does] in str(caught.value)
    assert "test_open_ends.py" in str(caught.value)


@pytest.mark.parametrize("does", WAYS, ids=lambda does: does.__name__)
def test_what_follows_it_cannot_be_had(does: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(CannotFollowError, match=WAYS[does]):
        split(Behind(does), "a", (X,))
    with pytest.raises(CannotFollowError, match=WAYS[does]):
        truncate(Behind(does), after="a", args=(X,))


class RunsItAgain(Behind):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(super().forward(x))


def test_a_target_that_runs_again_behind_it() -> None:
    """The last call is asked for, and it is after; the first one would do."""
    with pytest.raises(CannotFollowError, match="computes with numpy"):
        truncate(RunsItAgain(by_numpy), "b", (X,))


class Holds(nn.Module):
    """Asks whether the child, of which a target is cut, returns None."""

    def __init__(self) -> None:
        super().__init__()
        self.child = Behind(by_numpy)
        self.end = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor | None:
        y = self.child(x)
        return self.end(y) if y is not None else None


def test_inside_of_a_child() -> None:
    model = Holds()
    assert torch.equal(truncate(model, "child.b", (X,))(X), capture(model, ["child.b"], X)["child.b"][-1])
    assert torch.equal(truncate(model, "child", (X,))(X), capture(model, ["child"], X)["child"][-1])
    assert torch.equal(truncate(model, "end", (X,))(X), capture(model, ["end"], X)["end"][-1])
    with pytest.raises(CannotFollowError, match="computes with numpy"):
        truncate(model, ["child.b", "end"], (X,))


collected: list[Tensor] = []


def collect(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
    collected.append(output)


class Collects(Three):
    """Hooks, registered in the first call, collect what blocks and their parts return."""

    def add(self) -> None:
        self.blocks = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Sequential(nn.Linear(4, 4)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if not getattr(self, "is_watched", False):
            for watched in (self.blocks[0][0], self.b):
                watched.register_forward_hook(collect)
            setattr(self, "is_" + "watched", True)
        collected.clear()
        x = self.blocks(self.a(x))
        x = self.c(x if x.shape[0] > 90 else self.b(x) + collected[-1])
        return x, *collected


@pytest.mark.parametrize("was_called", [False, True])
@pytest.mark.parametrize("place", ["a", "blocks.0.0", "blocks.1", "b", "c"])
def test_what_hooks_collect(place: str, was_called: bool) -> None:
    """The forward may read what hooks on its own children have seen; what they saw deeper inside only goes out."""
    model, whole = Collects(), Collects()
    whole.load_state_dict(model.state_dict())
    if was_called:
        model(X)
    # Nothing shows that what the forward hangs hooks on runs only once, so there `b` keeps its Python.
    cut = truncate(model, place, (X,), live=None if place == "b" else False)
    for batch in (2, 3):
        x = torch.randn(batch, 4)
        assert torch.equal(cut(x), capture(whole, [place], x)[place][-1])
    assert len(model.b._forward_hooks) == was_called
    with pytest.raises(CannotFollowError, match="made out of sight"):
        truncate(model, ["", "c"], (X,))


class Fills(nn.Module):
    def __init__(self, key: str) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.key = key

    def forward(self, x: Tensor, into: dict[str, Tensor]) -> None:
        into[self.key] = self.fc(x)


class ReadsWhatWasFilled(Three):
    def add(self) -> None:
        self.first, self.second = Fills("first"), Fills("second")

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        found: dict[str, Tensor] = {}
        self.first(x if x.shape[0] > 90 else x * 2, found)
        x = found["first"] * 2  # here the recording ends, and the forward goes on
        self.second(x, found)
        return self.b(found["second"])


@pytest.mark.parametrize("place", ["a", "first.fc"])
def test_children_still_fill_a_dict_behind_it(place: str) -> None:
    model = ReadsWhatWasFilled()
    cut = truncate(model, place, (X,))
    x = torch.randn(3, 4)
    assert torch.equal(cut(x), capture(model, [place], x)[place][-1])
    assert torch.equal(truncate(model, "b", (X,))(x), model(x))


def keeps_a_size(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
    kept.append(output.shape[0])


def keeps_an_answer(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
    kept.append(2 if output.sum() > 0 else 3)


def writes(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
    output.clamp_(-50, 50)
    kept.append(1)


kept: list[float] = []


class HooksThatCompute(Three):
    def __init__(self, hook: Callable[..., None]) -> None:
        super().__init__()
        self.hook = hook

    def forward(self, x: Tensor) -> Tensor:
        kept.clear()
        handle = self.a.register_forward_hook(self.hook)
        x = self.a(x)
        handle.remove()
        return x if x.shape[0] > 90 else self.b(x * kept[0])


@pytest.mark.parametrize("hook", [keeps_a_size, keeps_an_answer, writes])
def test_a_hook_of_the_forward_that_computes(hook: Callable[..., None]) -> None:
    with pytest.raises(CannotFollowError, match="registers a hook that computes with what it sees"):
        truncate(HooksThatCompute(hook), "b", (X,))
