"""An example runs on copies: parameters, and what was compiled or scripted, stay as they were."""

from __future__ import annotations

import contextlib
import copy
import warnings

import pytest
import torch
from oracle import capture
from rebuilt import truncate
from three import Three
from torch import Tensor, nn

from truncate import TruncateError, layers
from truncate import _api as _api

pytestmark = pytest.mark.filterwarnings("ignore::truncate._errors.ContentWarning")


class Momentum(nn.Module):
    """Moves its own parameters in each pass, in all the ways there are."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = nn.Linear(4, 4)
        self.fast = nn.Linear(4, 4)
        self.embed = nn.Embedding(8, 4, max_norm=0.1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            torch._foreach_mul_([self.slow.weight], 0.9)
            self.slow.bias.data.add_(self.fast.bias)
            self.fast.weight.data = self.fast.weight * 0.5
        return self.slow(self.fast(x)) + self.embed(torch.arange(len(x)) % 8)


class HoldsMomentum(Three):
    def add(self) -> None:
        self.momentum = Momentum()

    def forward(self, x: Tensor) -> Tensor:
        x = self.momentum(self.a(x))
        if len(x) > 90:
            raise ValueError("too long")
        return self.b(x)


@pytest.mark.parametrize("rows", [2, 91], ids=["runs", "fails"])
def test_an_example_leaves_parameters_as_they_were(rows: int) -> None:
    model = HoldsMomentum()
    before, memory = copy.deepcopy(model.state_dict()), [p.data_ptr() for p in model.parameters()]
    with contextlib.nullcontext() if rows == 2 else pytest.raises(TruncateError, match="too long"):
        cut = truncate(model, "b", (torch.randn(rows, 4),))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [p.data_ptr() for p in model.parameters()] == memory
    if rows == 2:
        x, whole = torch.randn(3, 4), copy.deepcopy(model)
        assert torch.equal(cut(x), capture(whole, ["b"], x)["b"][-1])
        assert not torch.equal(model.momentum.slow.weight, before["momentum.slow.weight"])  # a pass of the cut does it


class HoldsWhatWasCompiled(Three):
    def add(self) -> None:
        self.compiled = torch.compile(nn.Linear(4, 4), backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        x = self.compiled(self.a(x))
        return x if len(x) > 90 else self.b(x)


def test_a_compiled_child_beside_the_way() -> None:
    model, x = HoldsWhatWasCompiled(), torch.randn(3, 4)
    with torch.no_grad():
        assert torch.equal(truncate(model, "b", (torch.randn(2, 4),))(x), capture(model, ["b"], x)["b"][-1])


class HoldsWhatWasScripted(Three):
    def add(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.scripted = torch.jit.script(nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.scripted(self.a(x))
        if self.training and len(x) < 90:
            x = x * 2
        return self.b(x)


@pytest.mark.parametrize("training", [False, True])
def test_an_example_leaves_a_scripted_child_as_it_was(training: bool) -> None:
    """Its modes and statistics are not in Python, and both modes were run."""
    model = HoldsWhatWasScripted().train(training)
    before = copy.deepcopy(model.state_dict())
    cut = truncate(model, "b", (torch.randn(2, 4),))
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for mode in (training, not training):
        x, whole = torch.randn(3, 4), copy.deepcopy(model).train(mode)
        torch.manual_seed(0)
        expected = capture(whole, ["b"], x)["b"][-1]
        torch.manual_seed(0)
        assert torch.equal(copy.deepcopy(cut).train(mode)(x), expected)


def test_cut_in_inference_mode() -> None:
    """What comes out may be trained."""
    model = HoldsMomentum()
    with torch.inference_mode():
        x = torch.randn(2, 4)
        cut, places = truncate(model, "a", (x,)), layers(model, (x,))
        assert torch.equal(cut(x), model.a(x))
    assert next(place for place in places if place.path == "a").shape == (2, 4) and not any(
        p.is_inference() for p in cut.parameters()
    )
    cut(torch.randn(2, 4)).sum().backward()
    assert model.a.weight.grad is not None
