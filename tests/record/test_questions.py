"""What a forward asks of its values, where there is only one answer or one that is known."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from gallery import GALLERY
from oracle import capture, equal
from rebuilt import truncate
from recorded import EXAMPLE, Layers, model_of
from torch import Tensor, nn

from truncate import CannotFollowError


def source_of(cut: nn.Module) -> str:
    return inspect.cleandoc(type(cut)._truncated_source)


def test_a_branch_that_only_raises_is_checked() -> None:
    """Without an example; with the line of the forward as the text."""
    spec = GALLERY["ChecksItsInput"]
    cut = truncate(spec.make(), "two")
    assert source_of(cut).count("torch._assert") == 4
    for shape, line in (
        ((3, 6, 6), "if x.dim() != 4:"),
        ((2, 3, 1, 6), "if x.shape[2] < 2 or not y.shape[1]:"),
    ):
        with pytest.raises(AssertionError) as caught:
            cut(torch.randn(shape))
        assert str(caught.value) == line


def test_an_error_that_the_forward_catches_is_no_check() -> None:
    with pytest.raises(CannotFollowError, match="branches on a value"):
        truncate(GALLERY["CatchesItsOwnError"].make(), "a")


def raises_on_content(self: Any, x: Tensor) -> Tensor:
    if x.shape[0] > 1000:
        raise ValueError("too many")
    if not (x > -100).all():
        raise ValueError("too small")
    for _ in range(x.dim()):
        x = self.a(x)
    return self.b(x)


def test_a_recorded_branch_that_only_raises_is_checked_and_fixes_nothing() -> None:
    """Nor does it warn, which would be an error here."""
    cut = truncate(model_of(raises_on_content), "b", args=(EXAMPLE,))
    assert [assumption.value for assumption in cut.assumptions] == [2]
    assert equal(cut(EXAMPLE[:1]), model_of(raises_on_content)(EXAMPLE[:1]))
    with pytest.raises(AssertionError, match="all()"):
        cut(EXAMPLE * 1000)


class Maybe(nn.Module):
    """Asks for None of what it returns itself, some levels down."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.inner = Maybe(depth - 1) if depth else nn.Linear(4, 4)
        self.deep = bool(depth)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        if self.deep:
            x, nothing = self.inner(x)
            return (x if nothing is None else nothing) + 1, None
        return self.inner(x) * 2, None


def test_a_question_for_what_a_child_returns_leaves_no_trace() -> None:
    """Following the child meanwhile must not be taken for a part of the parent: it switches gradients, too."""
    cut = truncate(Maybe(3), "inner.inner")
    assert "grad" not in source_of(cut) + source_of(cut.inner)
    assert equal(cut(EXAMPLE), capture(cut, ["inner.inner"], EXAMPLE)["inner.inner"][-1])


class Fills(nn.Module):
    """Needs an example, and puts what it computes into a list that it is given."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.what = what

    def forward(self, x: Tensor, found: list[Any]) -> Tensor:
        y = self.a(x) if x.shape[0] < 1000 else x
        if self.what == "replaces":
            found[0] = y * 3
        else:
            found.append({"tensor": y * 2, "number": x.shape[0], "returned": y}[self.what])
        return y


class HasItFilled(Layers):
    def __init__(self, what: str, reads: bool) -> None:
        super().__init__()
        self.fills, self.reads = Fills(what), reads

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        y = self.fills(x, found)
        return self.b(y + found[-1 if self.reads else 0] if x.shape[0] < 1000 else y)


@pytest.mark.parametrize(
    ("what", "reads"), [("tensor", False), ("returned", False), ("returned", True)], ids=["put", "both", "read"]
)
@pytest.mark.parametrize("place", ["b", "fills", "fills.a"])
def test_a_child_may_fill_a_list_while_it_is_recorded(what: str, reads: bool, place: str) -> None:
    model = HasItFilled(what, reads).eval()
    cut = truncate(model, place, args=(EXAMPLE,))
    for x in (EXAMPLE, EXAMPLE[:1]):
        assert equal(cut(x), capture(model, [place], x)[place][-1])


@pytest.mark.parametrize(
    ("what", "reads"), [("tensor", True), ("replaces", False), ("number", True), ("number", False)]
)
def test_what_a_child_has_put_into_a_list_is_read_from_there(what: str, reads: bool) -> None:
    model = HasItFilled(what, reads).eval()
    cut = truncate(model, "b", args=(EXAMPLE,))
    for x in (EXAMPLE, EXAMPLE * 2, EXAMPLE[:1]):
        assert equal(cut(x), capture(model, ["b"], x)["b"][-1])


# -- ``is None``, which no proxy hears ----------------------------------------------------------------------------


class Returns(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        return {"none": None, "pair": (y, None), "dict": {"hidden": y, "extra": None}, "tensor": y}[self.kind]


def plus_one(value: Tensor | None, other: Tensor) -> Tensor:
    return other if value is None else value + 1


HELPER = {"plus": plus_one}  # not found by its name


def by_slice(self: Any, x: Tensor) -> Tensor:
    first, second = self.child(x)[:2]
    return first if second is None else second + 1


def by_item(self: Any, x: Tensor) -> Tensor:
    found = self.child(x)
    second = found[1]
    return x if second is None else second + 1


def by_key(self: Any, x: Tensor) -> Tensor:
    extra = self.child(x).get("extra")
    return x if extra is None else extra + 1


def by_call(self: Any, x: Tensor) -> Tensor:
    return x + 1 if self.child(x) is None else x


def by_helper(self: Any, x: Tensor) -> Tensor:
    return HELPER["plus"](self.child(x), x)


def by_other_name(self: Any, x: Tensor) -> Tensor:
    found = (self.child(x), x)
    one, other = found
    return other + 1 if one is None else one


def by_loop(self: Any, x: Tensor) -> Tensor:
    for value in [self.child(x)]:
        if value is None:
            x = x + 1
    return x


def by_generator(self: Any, x: Tensor) -> Tensor:
    return x + 1 if any(value is None for value in (self.child(x),)) else x


def by_attribute(self: Any, x: Tensor) -> Tensor:
    self.kept = self.child(x)
    return x + 1 if self.kept is None else x


def by_inner_function(self: Any, x: Tensor) -> Tensor:
    found = self.child(x)

    def chosen() -> Tensor:
        return x + 1 if found is None else x

    return chosen()


class Asks(nn.Module):
    def __init__(self, kind: str, ask: Any) -> None:
        super().__init__()
        self.child, self.out, self.ask = Returns(kind), nn.Linear(4, 4), ask

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.ask(self, x))


NONES = [("pair", by_slice), ("pair", by_item), ("dict", by_key)]
NONES += [
    ("none", ask) for ask in (by_call, by_helper, by_other_name, by_loop, by_generator, by_attribute, by_inner_function)
]


@pytest.mark.parametrize("args", [None, (EXAMPLE,)], ids=["", "on-an-example"])
@pytest.mark.parametrize(("kind", "ask"), [*NONES, *(("tensor", ask) for kind, ask in NONES if kind == "none")])
def test_whether_a_value_is_none_is_asked_in_any_way(kind: str, ask: Any, args: Any) -> None:
    model = Asks(kind, ask).eval()
    assert equal(truncate(model, "out", args=args)(EXAMPLE), model(EXAMPLE))


class Unknown(nn.Module):
    """Returns None for what proxies cannot tell."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor | None:
        return self.a(x) if x.sum() > 0 else None


@pytest.mark.parametrize(("kind", "ask"), [case for case in NONES if case[0] == "none"])
def test_whether_a_value_is_none_may_be_unknown(kind: str, ask: Any) -> None:
    model = Asks(kind, ask).eval()
    model.child = Unknown()
    with pytest.raises(CannotFollowError, match="asks whether a value that another module returns is None"):
        truncate(model, "out")


def test_a_part_of_an_argument_may_be_none() -> None:
    model = model_of(lambda self, batch: self.b(plus_one(batch["mask"], batch["x"])))
    with pytest.raises(CannotFollowError, match="asks whether a value that is a part of an argument is None"):
        truncate(model, "b")
