"""A live forward is left where the target has run, and nothing of the model's Python can tell, or hand out another."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from against_hooks import Listed, Three, assert_as_hooked, calls, inputs, made, run
from oracle import equal
from torch import Tensor, nn

from truncate import CannotFollowError, NotReachedError, TruncateError, truncate

CASES: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {}


def case(*paths: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    def note(kind: type[nn.Module]) -> type[nn.Module]:
        CASES[kind.__name__] = (kind, paths)
        return kind

    return note


@case("a", "b")
class CatchesAll(Three):
    def forward(self, x: Tensor) -> Tensor:
        try:
            x = self.b(self.a(x))
        except:  # noqa: E722
            x = x * 0
        return self.c(x)


@case("a", "b")
class ReturnsInTheEnd(Three):
    def forward(self, x: Tensor) -> Tensor:
        try:
            return self.c(self.b(self.a(x)))
        finally:
            return x * 2  # noqa: B012, SIM107


@case("a", "b")
class Suppresses(Three):
    def forward(self, x: Tensor) -> Tensor:
        y = x
        with contextlib.suppress(BaseException):
            y = self.b(self.a(x))
        return self.b(self.c(y))


@case("b")
class TriesAgain(Three):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            with contextlib.suppress(BaseException):
                return self.b(x)
        raise RuntimeError


@case("b")
class RaisesAnother(Three):
    def forward(self, x: Tensor) -> Tensor:
        try:
            return self.c(self.b(x))
        except BaseException as error:
            raise ValueError("it failed") from error


@case("a", "b")
class ChangesInPlace(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)).mul_(3).relu_()).add_(1)


@case("b")
class AsksForTheClass(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(x if type(self.b) is nn.Linear else -x))


@case("a", "b")
class CallOfItsOwn(Three):
    def __call__(self, x: Tensor) -> Any:
        return super().__call__(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


@case("layers.layers.0", "layers.layers.1", "layers.layers.1.norm1")
class FastPaths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x[None])


@case("b")
class Nested(nn.Module):
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            return self.inner(x), {"given": [x, x.view(-1)], "nothing": None}, "words"

    def __init__(self) -> None:
        super().__init__()
        self.b = self.Many()

    def forward(self, x: Tensor) -> Tensor:
        value, others, _ = self.b(x)
        others["given"].append(value)
        return value.add_(1)


@case("b")
class Random(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(x, 0.5, self.training)
        return nn.functional.dropout(self.b(x) + torch.randn(4), 0.5, self.training)


@case("b")
class Parametrized(Three):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.spectral_norm(self.a)
        nn.utils.parametrizations.weight_norm(self.b)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


@case("b")
class LowPrecision(Three):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.c(self.b(self.a(x)))


@case("b")
class Checkpointed(Three):
    def forward(self, x: Tensor) -> Tensor:
        run_again = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
        return run_again(lambda y: self.c(self.b(self.a(y)).relu()), x)


@case("b")
class CheckpointedAnew(Three):
    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(lambda y: self.c(self.b(self.a(y)).relu()), x, use_reentrant=True)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("name", "path"), [(name, path) for name, (_, paths) in CASES.items() for path in paths])
@pytest.mark.filterwarnings("ignore")
def test_what_a_hook_captures(name: str, path: str, training: bool) -> None:
    assert_as_hooked(CASES[name][0], path, training)


class Doubled(Three):
    def __call__(self, x: Tensor) -> Any:
        return super().__call__(x) * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


def test_what_a_call_does_after_the_forward_is_not_done_to_a_target() -> None:
    cut = truncate(made(Doubled), "b", live=True)
    *_, expected, _ = calls(made(Doubled), "b", inputs(3))
    assert torch.equal(run(cut, inputs(3)), expected)


def test_the_model_checks_hooks_and_so_takes_the_slow_path() -> None:
    model = made(FastPaths)
    cut = truncate(model, "layers.layers.0.self_attn", live=True)
    with torch.no_grad():
        *_, expected, _ = calls(made(FastPaths), "layers.layers.0.self_attn", inputs(3))
        assert equal(run(cut, inputs(3)), expected)


class ChangedInTheEnd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        try:
            return self.b(x) + 1
        finally:
            x.zero_()


def test_a_value_that_a_forward_changes_as_it_is_left_is_refused() -> None:
    with pytest.raises(TruncateError, match="changes its value in place"):
        truncate(made(ChangedInTheEnd), "b", live=True)(inputs(2))


class OfItsClass(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(x if type(self) is OfItsClass else -x)


class AboveItsClass(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        return super(type(self), self).forward(x)


@pytest.mark.parametrize("kind", [OfItsClass, AboveItsClass])
def test_a_model_that_asks_for_its_own_class_is_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(CannotFollowError, match="asks for its own class"):
        truncate(made(kind), "b", live=True)


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 4)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


@pytest.mark.filterwarnings("ignore")
def test_torchscript_runs_beside_the_path_and_is_refused_as_a_target() -> None:
    model = made(Scripted)
    assert equal(truncate(model, "c", live=True)(inputs(2)), model(inputs(2)))
    with pytest.raises(CannotFollowError, match="TorchScript"):
        truncate(model, "b", live=True)


class SumsParameters(Listed):
    def forward(self, x: Tensor) -> Tensor:
        x = x * sum(parameter.sum() for parameter in self.parameters())
        for layer in self.layers:
            x = layer(x)
        return x


class SumsAbove(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * nn.utils.parameters_to_vector(self.parameters()).sum())


@pytest.mark.parametrize(("kind", "path"), [(SumsParameters, "layers.0"), (SumsAbove, "inner.0")])
def test_nothing_is_dropped_where_all_parameters_are_asked_for(kind: type[nn.Module], path: str) -> None:
    assert_as_hooked(kind, path, False)


class Runs(Listed):
    def forward(self, x: Tensor, back: bool = False) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_what_runs_later_is_dropped_and_says_so() -> None:
    cut = truncate(made(Runs), "layers.0", live=True)
    assert {name.rpartition(".")[0] for name, _ in cut.named_parameters()} == {"layers.0"}
    with pytest.raises(NotReachedError, match=r"'layers.2' was dropped.*upto="):
        cut.layers[2](inputs(2))


class Explained(Listed):
    def forward(self, x: Tensor) -> Tensor:
        """Runs one layer after the other.

        This text is longer than a line, and indented as the method is:
            so is that of many models.
        """
        for layer in self.layers:
            x = layer(x)
        return x


def test_an_explained_forward_is_read_too() -> None:
    cut = truncate(made(Explained), "layers.0", live=True)
    assert {name.rpartition(".")[0] for name, _ in cut.named_parameters()} == {"layers.0"}
    assert_as_hooked(Explained, "layers.0", False)


class OneByOneOnDemand(nn.Module):
    """As models do that save memory: a helper is given the layers, which otherwise run as one."""

    def __init__(self, one_by_one: bool) -> None:
        super().__init__()
        self.layers, self.one_by_one = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), one_by_one

    def forward(self, x: Tensor) -> Tensor:
        if self.one_by_one:
            return functools.reduce(lambda value, layer: layer(value), self.layers, x)
        return self.layers(x)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_layers_that_a_helper_runs_on_demand(one_by_one: bool) -> None:
    kind = functools.partial(OneByOneOnDemand, one_by_one)
    assert_as_hooked(kind, "layers.0", False)
    held = {name.rpartition(".")[0] for name, _ in truncate(made(kind), "layers.0", live=True).named_parameters()}
    assert held == ({"layers.0", "layers.1", "layers.2"} if one_by_one else {"layers.0"})


class OnLarge(Three):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(x) if x.sum() > 1e6 else self.a(x)


@pytest.mark.parametrize("asked", ["b", ["a", "b"]], ids=["one", "among others"])
@pytest.mark.parametrize("live", [None, True])
def test_a_target_that_the_example_does_not_run(asked: Any, live: bool | None) -> None:
    """It is said, and not that the result is wrong: a hook would see nothing either."""
    with pytest.raises(NotReachedError, match="'b' (is never run|was not run in this call)"):
        truncate(made(OnLarge), asked, args=(torch.ones(2, 4),), live=live)


class InTurn(Three):
    """Branches on a value, and runs a list of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) if x.sum() > 0 else self.b(x)
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_list_of_layers_is_said_to_be_one() -> None:
    says = r"^'layers' is never run: it is a ModuleList, which only holds layers\. Stop at .*, such as 'layers\.1'$"
    with pytest.raises(NotReachedError, match=says):
        truncate(made(InTurn), "layers")(torch.ones(2, 4))


def test_a_close_module_is_named_where_an_operation_would_need_an_example() -> None:
    with pytest.raises(CannotFollowError, match=r"Or did you mean the module 'layers'\?$"):
        truncate(made(InTurn), "layer")
    with pytest.raises(CannotFollowError) as caught:
        truncate(made(InTurn), "sum")
    assert "did you mean" not in str(caught.value)


def test_what_is_printed_says_before_and_up_to() -> None:
    for stop, says in (
        ({"upto": ["a", "b"]}, "live: its own Python, up to 'a', 'b'\n"),
        ({"before": "layers.1"}, "live: its own Python, before 'layers.1'\n"),
    ):
        assert says in str(truncate(made(InTurn), **stop))


def test_targets_in_each_other_before_and_after_at_once() -> None:
    model, x = made(FastPaths), inputs(3)
    asked = ["layers", "layers.layers.0.norm1", "layers.layers.0", "layers.layers.0.norm1"]
    found = run(truncate(model, asked, live=True), x)
    assert isinstance(found, list)
    for path, value in zip(asked, found):
        assert torch.equal(value, calls(model, path, x)[-2])
