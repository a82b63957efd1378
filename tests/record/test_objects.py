"""Objects that a recorded forward makes on the way, and what its children return."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracle import capture, equal
from rebuilt import truncate
from recorded import EXAMPLE, WIDE, content_may_decide, drawn, grew
from torch import Tensor, nn

from truncate import CannotFollowError, split
from truncate import truncate as plain_truncate

# -- objects that are made on the way --------------------------------------------------------------------------------


class Cache:
    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def update(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return torch.stack(self.seen).sum(0) * len(self.seen)


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        return cache.update(self.fc(x))


class WithCache(nn.Module):
    """Hands a cache of its own, or one that it is given, from child to child."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Remembering()
        self.two = Remembering()
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        cache = Cache() if cache is None else cache
        return self.b(self.two(self.one(x, cache) if x.shape[0] < 1000 else x, cache))


@pytest.mark.parametrize("path", ["one", "two", "two.fc", "b"])
def test_each_run_has_a_cache_of_its_own(path: str) -> None:
    model = WithCache()
    cut = truncate(model, path, args=(EXAMPLE,))
    expected = capture(model, [path], WIDE)[path][-1]
    assert equal(cut(WIDE), expected) and equal(cut(WIDE), expected) and equal(cut(WIDE[:3]), expected[:3])


class Sizes:
    """Sizes of a batch, as detection hands them to its children: where they lie, nobody sees that C code reads them."""

    def __init__(self, rows: int, pair: tuple[int, int]) -> None:
        self.rows = rows
        self.nested = {"pairs": [pair]}


class Clipping(nn.Module):
    def forward(self, x: Tensor, sizes: Sizes) -> Tensor:
        return x.clamp(max=sizes.rows) * sizes.nested["pairs"][0][1]


class RecordedInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.clip = Clipping()

    def forward(self, x: Tensor, sizes: Sizes) -> Tensor:
        return self.clip(x, sizes) if x.shape[0] < 1000 else x


class PassesSizes(nn.Module):
    """A branch after the children goes the model's way only if they found the sizes as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = Clipping()
        self.inside = RecordedInside()
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        sizes = Sizes(x.shape[0], (x.shape[0], x.shape[1]))
        x = self.inside(self.clip(x * 10, sizes), sizes)
        if x.abs().max() > 1e6 or x.shape[0] * sizes.nested["pairs"][0][1] > 1000:
            return x
        return self.b(x * sizes.rows)


@content_may_decide
@pytest.mark.parametrize("path", ["clip", "inside.clip", "inside", "b"])
@pytest.mark.parametrize("check", [True, False])
def test_children_find_real_sizes_inside_of_objects(path: str, check: bool) -> None:
    model = PassesSizes()
    cut = truncate(model, path, args=(EXAMPLE,), check=check)
    for batch in (2, 5, 3):
        x = drawn(batch, 4)
        assert equal(cut(x), capture(model, [path], x)[path][-1])


class Counts(nn.Module):
    """Adds its rows to a number in an object, and a list there."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, sizes: Sizes) -> Tensor:
        sizes.rows += x.shape[0]
        return self.fc(x) * sizes.rows


class ReadsCounts(nn.Module):
    def __init__(self, starts_at: int | None, changes: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.b = Counts(), Counts(), nn.Linear(4, 4)
        self.starts_at = starts_at
        self.changes = changes

    def forward(self, x: Tensor) -> Tensor:
        if grew(x):
            return x
        sizes = Sizes(x.shape[0] if self.starts_at is None else self.starts_at, (1, 1))
        y = self.one(x, sizes) / sizes.rows
        if self.changes:
            sizes.rows = 2 * x.shape[1]
        return self.b(self.two(y, sizes) / sizes.rows)


@pytest.mark.parametrize("starts_at", [None, 0, 3])
@pytest.mark.parametrize("path", ["one.fc", "two.fc", "b"])
def test_numbers_that_children_leave_in_objects(path: str, starts_at: int | None) -> None:
    model = ReadsCounts(starts_at)
    cut = truncate(model, path, args=(EXAMPLE,))
    assert equal(cut(WIDE), capture(model, [path], WIDE)[path][-1])
    assert equal(cut(WIDE), capture(model, [path], WIDE)[path][-1])


class Notes(nn.Module):
    """Leaves what it computes in an object, and returns something that nobody needs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        cache.seen.append(self.fc(x))
        return x.sum()


class ReadsNotes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last, self.b = Notes(), Notes(), Remembering(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        cache = Cache()
        self.one(x, cache)
        self.two(x if x.shape[0] < 1000 else x * 2, cache)
        return self.b(self.last(x, cache))


@pytest.mark.parametrize("path", ["two.fc", "last.fc", "last", "b"])
def test_a_call_is_kept_for_what_it_leaves_in_an_object(path: str) -> None:
    model = ReadsNotes()
    cut = truncate(model, path, args=(EXAMPLE,))
    assert equal(cut(WIDE), capture(model, [path], WIDE)[path][-1])


class Context:
    """An object whose state lies in a list, deeper in dicts, in a set, or in a tensor that is changed in place."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.log: dict[str, dict[str, Tensor]] = {"losses": {}}
        self.seen: set[Tensor] = set()
        self.total = torch.zeros(())

    def values(self) -> list[Tensor]:
        return [*self.losses, *self.log["losses"].values(), *self.seen, self.total]


class Noting(nn.Module):
    """Leaves something in an object, always or in training alone; `returns`: and something that is needed."""

    def __init__(self, how: str, always: bool, returns: bool) -> None:
        super().__init__()
        self.gate, self.how, self.always, self.returns = nn.Linear(4, 4), how, always, returns

    def forward(self, x: Tensor, context: Context) -> Tensor | None:
        gate = self.gate(x if x.shape[0] < 1000 else x * 2)
        if self.always or self.training:
            if self.how == "list":
                context.losses.append(gate.mean())
            elif self.how == "nested dict":
                context.log["losses"]["gate"] = gate.mean()
            elif self.how == "set":
                context.seen.add(gate.mean())
            elif self.how == "tensor":
                context.total += gate.mean()
        return x * gate.sigmoid() if self.returns else None


class Adding(nn.Module):
    """Reads what is there in training alone, or for large batches alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        y = self.fc(x)
        if self.training or x.shape[0] > 4:
            for value in context.values():
                y = y + value
        return y


class PassesContext(nn.Module):
    def __init__(self, how: str, always: bool, returns: bool) -> None:
        super().__init__()
        self.noting, self.adding = Noting(how, always, returns), Adding()

    def forward(self, x: Tensor) -> Tensor:
        context = Context()
        x = x if x.shape[0] < 1000 else x * 2
        noted = self.noting(x, context)
        return self.adding(x if noted is None else noted, context)


@pytest.mark.parametrize("how", ("list", "nested dict", "set", "tensor"))
@pytest.mark.parametrize("always", (True, False))
@pytest.mark.parametrize("returns", (True, False))
@pytest.mark.parametrize("targets", ("adding", ["noting.gate", "adding"]))
@pytest.mark.parametrize("trained", (True, False))
@pytest.mark.parametrize("device", ("cpu", "meta"))
def test_an_object_is_changed_as_in_the_model(
    how: str, always: bool, returns: bool, targets: Any, trained: bool, device: str
) -> None:
    torch.manual_seed(0)
    model = PassesContext(how, always, returns).train(trained)
    cut = plain_truncate(model, targets, args=(torch.randn(3, 4).to(device),))
    for training in (False, True):
        for x in (torch.randn(3, 4), torch.randn(6, 4)):
            value = cut.train(training)(x)
            assert torch.equal(value[-1] if isinstance(targets, list) else value, model.train(training)(x))


def test_a_piece_does_not_change_an_object() -> None:
    with pytest.raises(CannotFollowError, match="may change an object that it gets"):
        split(PassesContext("list", True, True), "noting.gate", args=(EXAMPLE,))


def test_an_object_that_is_changed_between_two_calls() -> None:
    model = ReadsCounts(0, changes=True)
    assert equal(truncate(model, "one.fc", args=(EXAMPLE,))(WIDE), capture(model, ["one.fc"], WIDE)["one.fc"][-1])
    with pytest.raises(CannotFollowError, match="changes a Sizes that it has passed on before"):
        truncate(model, "b", args=(EXAMPLE,))


# -- what children return --------------------------------------------------------------------------------------------


FORMS = ["a part is None", "None", "items", "nested items", "keys", "other keys", "text", "type", "class"]


class ReturnsAForm(nn.Module):
    """Returns something of one form for few rows, or in evaluation, and of another one else."""

    def __init__(self, form: str, by_mode: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.form = form
        self.by_mode = by_mode

    def forward(self, x: Tensor) -> Any:
        y = self.fc(x)
        more = self.training if self.by_mode else x.shape[0] > 3
        forms = {
            "a part is None": (y, y * 3 if more else None),
            "None": y * 3 if more else None,
            "items": (y, y * 3) if more else (y,),
            "nested items": ((y, (y, y) if more else (y,)),),
            "keys": {"y": y, "more": y * 3} if more else {"y": y},
            "text": (y, "more" if more else "no more"),
            "class": (y, y * 3) if more else y,
            "other keys": {"y": y, "more": y} if more else {"y": y, "less": y},
            "type": (y, torch.float64 if more else torch.float32),
        }
        return forms[self.form]


class AsksForTheForm(nn.Module):
    def __init__(self, form: str, by_mode: bool) -> None:
        super().__init__()
        self.child = ReturnsAForm(form, by_mode)
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if grew(x):
            return x
        found = self.child(x)
        answers = {
            "a part is None": lambda: found[0] * (2 if found[1] is None else 1),
            "None": lambda: x if found is None else found,
            "items": lambda: found[-1],
            "nested items": lambda: found[0][0] * len(found[0][1]),
            "keys": lambda: found["more"] if "more" in found else found["y"],
            "text": lambda: found[0] * (2 if found[1] == "more" else 1),
            "other keys": lambda: found["y"] * (2 if "more" in found else 1),
            "type": lambda: found[0] * (2 if found[1] == torch.float64 else 1),
            "class": lambda: found[0] if isinstance(found, (tuple, list)) else found,
        }
        return self.b(answers[self.child.form]())


@pytest.mark.parametrize("by_mode", [False, True], ids=["by-size", "by-mode"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("more_in_example", [False, True])
def test_a_child_that_returns_another_form(form: str, by_mode: bool, more_in_example: bool) -> None:
    torch.manual_seed(0)
    model = AsksForTheForm(form, by_mode)
    few, many = (drawn(2, 4), drawn(2, 4)) if by_mode else (drawn(2, 4), drawn(5, 4))
    like, unlike = (many, few) if more_in_example else (few, many)
    model.train(by_mode and more_in_example)
    cut = truncate(model, "b", args=(like,))
    assert equal(cut(like), model(like))
    model.train(by_mode and not more_in_example)
    cut.train(model.training)
    with pytest.raises(
        (AssertionError, TypeError), match="cut on an example with|isinstance of|must be Tensor, not (NoneType|tuple)"
    ):
        cut(unlike)


class GivesMoreInTraining(nn.Module):
    """Returns None or not as its mode is, of which its parent reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.fc(x), (x if self.training else None)


class ReadsTheFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child = GivesMoreInTraining()
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x if mask is None else x * mask
        x, _ = self.child(x)
        return x if grew(x) else self.b(x)


def test_a_form_that_the_forward_does_not_ask_for() -> None:
    """None is checked only where the forward may ask for it; what it asks of its own arguments is another matter."""
    model = ReadsTheFirst().eval()
    cut = truncate(model, "b", args=(EXAMPLE,))
    assert equal(cut(WIDE), model(WIDE)) and equal(cut.train()(WIDE), model.train()(WIDE))


class BranchesInAChild(nn.Module):
    """Returns None or not as its mode is; its parent branches on that and asks for no mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        kept = None if self.training else x * 2
        x = self.a(x)
        return (x if grew(x) else x * 2), kept


class BranchesOnAChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child = BranchesInAChild()
        self.b = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x, kept = self.child(x)
        return self.b(x if kept is None else x + kept)


@pytest.mark.parametrize("made_in", [False, True], ids=["made-in-eval", "made-in-train"])
def test_what_a_child_returns_decides_by_its_mode(made_in: bool) -> None:
    model = BranchesOnAChild().train(made_in)
    cut = truncate(model, ["child.a", "b"], args=(EXAMPLE,))
    front, back = split(model, "child.a", args=(EXAMPLE,), crossing="pass")
    for training in (made_in, not made_in):
        for module in (model, cut, front, back):
            module.train(training)
        assert equal(cut(WIDE)[1], model(WIDE)) and equal(back(front(WIDE)), model(WIDE))
