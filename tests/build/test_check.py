"""A result is compared with the model on the example, and is not returned where it differs or does not run."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from rebuilt import truncate
from three import Three
from torch import Tensor, nn

from truncate import TruncateError, WrongResultError, split
from truncate import _api as _api

pytestmark = pytest.mark.filterwarnings("ignore::truncate._errors.ContentWarning")


class GoesOnAfterAnError(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        try:
            x = x @ torch.ones(5, 5)
        except RuntimeError:
            x = self.b(x)
        return self.c(x)


class DifferentiatesInItsForward(Three):
    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().clone()
        x.requires_grad = True
        (slope,) = torch.autograd.grad(self.a(x).sum(), x, create_graph=True)
        return self.c(slope)


@pytest.mark.parametrize("kind", [GoesOnAfterAnError, DifferentiatesInItsForward])
def test_a_result_that_does_not_run_is_not_returned(kind: type[Three]) -> None:
    model, x = kind(), torch.randn(2, 4)
    with pytest.raises(WrongResultError, match="the result does not run on the example: RuntimeError: "):
        truncate(model, "c", (x,))
    assert isinstance(truncate(model, "c", (x,), check=False), nn.Module)


def test_a_check_finds_a_last_piece_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the output of the model itself that this one returns, and that has no name."""
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), torch.randn(2, 4)
    made = _api.module_of

    def wrong(division: Any, plans: Any, number: int, arrangement: Any) -> nn.Module:
        part = made(division, plans, number, arrangement)
        if not plans[number].is_entered_at_its_beginning:
            part.register_forward_hook(lambda module, args, output: output + 1)
        return part

    monkeypatch.setattr(_api, "module_of", wrong)
    with pytest.raises(WrongResultError, match="^the output of the model: the result differs"):
        split(model, "1", (x,))
    assert issubclass(WrongResultError, TruncateError)


@pytest.mark.parametrize("draws", [False, True])
def test_a_difference_in_training_is_excused_only_by_random_numbers(
    draws: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the cut does not draw shift the others, so evaluation has the last word; without any it has not."""
    model, made = (
        nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5) if draws else nn.ReLU(), nn.Linear(4, 4)),
        _api.module_of,
    )

    def wrong_in_training(plan: Any, *args: Any, **options: Any) -> nn.Module:
        part = made(plan, *args, **options)
        part.register_forward_hook(lambda module, args, output: output + module.training)
        return part

    monkeypatch.setattr(_api, "module_of", wrong_in_training)
    with contextlib.nullcontext() if draws else pytest.raises(WrongResultError):
        truncate(model, "2", (torch.randn(2, 4),))
