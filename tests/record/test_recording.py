"""Forwards that need an example input: what is recorded, what stays free, what is fixed, and what is refused.

Each forward here is that of a model with two layers, `a` and `b`. On any input at all, a cut at `b` either returns what
a hook on `b` captures, or raises.
"""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import capture, equal
from rebuilt import truncate
from recorded import (
    EXAMPLE,
    FREE,
    WIDE,
    Forward,
    asks_for_a_size,
    both_modes,
    branches_on_content,
    content_may_decide,
    drawn,
    grew,
    model_of,
    outcome,
    takes_half_of_the_batch,
    triples,
)
from torch import Tensor, nn

from truncate import TruncateError, WrongResultError
from truncate._record.recording import Recording


def test_nothing_is_assumed_where_nothing_is_recorded() -> None:
    model = model_of(needs_no_example)
    assert truncate(model, "b").assumptions == truncate(model, "b", args=(EXAMPLE,)).assumptions == ()


@pytest.fixture
def sabotaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records every 3 as a 4."""
    real = Recording.lower
    wrong: Any = lambda self, value: 4 if type(value) is int and value == 3 else real(self, value)  # noqa: E731
    monkeypatch.setattr(Recording, "lower", wrong)


@pytest.mark.usefixtures("sabotaged")
def test_a_wrong_recording_is_noticed() -> None:
    with pytest.raises(WrongResultError, match="'b': the result differs from the model on the example") as caught:
        truncate(model_of(triples), "b", args=(EXAMPLE,))
    assert "check=False" in str(caught.value) and "TruncatedModel" in str(caught.value)


@pytest.mark.usefixtures("sabotaged")
def test_the_check_can_be_left_out() -> None:
    cut = truncate(model_of(triples), "b", args=(EXAMPLE,), check=False)
    assert not equal(cut(EXAMPLE), model_of(triples)(EXAMPLE))


def needs_no_example(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x))


@pytest.mark.parametrize("forward", [triples, needs_no_example])
@pytest.mark.parametrize(
    ("args", "kwargs", "match"),
    [
        (EXAMPLE, None, "args=\\(x,\\), not Tensor"),
        (None, [EXAMPLE], "as a dict, not list"),
        ((), None, "does not fit forward"),
        ((EXAMPLE, EXAMPLE), None, "too many positional arguments"),
        (None, {"y": EXAMPLE}, "does not fit forward"),
        ((drawn(2, 7),), None, "run on (it|the example)"),
        ((None,), None, "holds no tensor"),
    ],
)
def test_an_example_that_does_not_fit(forward: Forward, args: Any, kwargs: Any, match: str) -> None:
    with pytest.raises(TruncateError, match=match):
        truncate(model_of(forward), "b", args=args, kwargs=kwargs)


# -- the model, and the modules that come out ------------------------------------------------------------------------


def changes_everything(self: Any, x: Tensor) -> Tensor:
    self.count += 1
    self.count = self.count * 2
    self.last = self.norm(self.a(x))
    self.rows.data.mul_(1.0)
    x.mul_(2)
    return self.last if grew(x) else self.b(self.drop(self.last) + self.count)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("check", [False, True], ids=["", "checked"])
def test_the_model_is_untouched(training: bool, check: bool) -> None:
    """Values, gradients, hooks, attributes, random states, modes; and the example."""
    model, x = model_of(changes_everything).train(training), EXAMPLE.clone()
    calls: list[Any] = []
    model.a.register_forward_hook(lambda *given: calls.append(given))
    model.b.weight.grad = torch.ones(4, 4)
    tensors = {id(t): (t, t.clone(), t._version) for t in (*model.parameters(), *model.buffers())}
    attributes = [{key: id(value) for key, value in vars(module).items()} for module in model.modules()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    truncate(model, "b", args=(x,), check=check)
    for tensor, before, version in tensors.values():
        assert torch.equal(tensor, before)
        assert tensor._version == version or tensor is model.rows
    assert attributes == [{key: id(value) for key, value in vars(module).items()} for module in model.modules()]
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert torch.equal(model.b.weight.grad, torch.ones(4, 4)) and model.a.weight.grad is None
    assert torch.equal(x, EXAMPLE) and x._version == 0 and all(m.training is training for m in model.modules())


def test_gradients_are_those_of_the_model() -> None:
    grads = []
    for use in (lambda model: model, lambda model: truncate(model, "b", args=(EXAMPLE,))):
        model, x = model_of(takes_half_of_the_batch), WIDE.clone()
        use(model)(x).square().sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert equal(*grads) and set(grads[0]) == {"a.weight", "a.bias", "b.weight", "b.bias"}


@content_may_decide
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda cut: pickle.loads(pickle.dumps(cut))], ids=["copy", "pickle"])
@pytest.mark.parametrize("forward", [*FREE, branches_on_content, both_modes])
def test_copies_are_the_same(forward: Forward, twin: Callable[[nn.Module], nn.Module]) -> None:
    cut = truncate(model_of(forward), "b", args=(EXAMPLE,))
    twin_cut = twin(cut)
    assert twin_cut.assumptions == cut.assumptions
    assert equal(outcome(lambda: twin_cut(EXAMPLE.clone())), outcome(lambda: cut(EXAMPLE.clone())))


def test_exports_with_a_free_batch() -> None:
    model = model_of(asks_for_a_size)
    cut = truncate(model, "b", args=(EXAMPLE,))
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(cut, (EXAMPLE,), dynamic_shapes=(batch,)).module()
    assert equal(program(WIDE), model(WIDE))


def test_an_example_changes_nothing_where_none_is_needed() -> None:
    model = model_of(lambda self, x: self.b(self.a(x) * x.shape[0]))
    sources = [type(cut)._truncated_source for cut in (truncate(model, "b"), truncate(model, "b", args=(EXAMPLE,)))]
    assert sources[0] == sources[1]


class Gate(nn.Module):
    """Returns a number, and captures inside of it share memory with what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        if grew(x):
            return x
        return self.inner(x).sum()


class Overwrites(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.act = nn.LeakyReLU(0.2, inplace=True)
        self.last = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + 1 if not grew(x) else x
        self.gate(x)
        return self.last(self.act(x))


@pytest.mark.parametrize("training", [False, True])
def test_a_value_inside_a_child_that_is_an_argument_of_it_is_not_overwritten(training: bool) -> None:
    model = Overwrites().train(training)
    cut = truncate(model, ["last", "gate.inner"], (EXAMPLE,)).eval()
    seen = capture(model.eval(), ["last", "gate.inner"], WIDE)
    assert equal(cut(WIDE), [seen["last"][-1], seen["gate.inner"][-1]])
