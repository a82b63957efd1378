"""Comparing a result with the model on the example that it was cut on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from truncate._errors import NotReachedError, WrongResultError
from truncate._graph import tensors_in
from truncate._record import Traces
from truncate._sandbox import (
    Example,
    call_model,
    can_be_watched,
    fresh,
    is_meta,
    isolated,
    outputs_of,
    same_states,
    sandbox_copy,
    states_of_torch,
)
from truncate._target import Target, TargetPaths, item_of, keys_of


def compare(
    model: nn.Module, pieces: list[nn.Module], arrangement: Any, example: Example, paths: TargetPaths, traces: Traces
) -> None:
    """Raises `WrongResultError` if pieces, run in turn, give anything else on the example than hooks on the model."""
    calls = traces.passed.calls if traces.passed is not None else None
    expected = outputs_of(model, example, paths.targets, calls=calls)
    differing = _differing(model, pieces, arrangement, example, paths, expected)
    if differing is not None and any(module.training for module in model.modules()) and _draws(model, example):
        # Random numbers that the cut no longer draws shift those that follow, so evaluation decides.
        expected = outputs_of(model, example, paths.targets, training=False)
        differing = _differing(model, pieces, arrangement, example, paths, expected, training=False)
    if differing is not None:
        where = repr(differing) if differing else "the output of the model"
        raise WrongResultError(
            f"{where}: the result differs from the model on the example. Please report this, with the "
            f"model; check=False returns the result anyway.\n{pieces[-1]}"
        )


def _draws(model: nn.Module, example: Example) -> bool:
    """Whether a pass of the model draws random numbers."""
    sandbox = sandbox_copy(model, example.meta.tensor)
    states: list[list[torch.Tensor]] = []
    sandbox.register_forward_pre_hook(lambda *_: states.append(states_of_torch()))
    sandbox.register_forward_hook(lambda *_: states.append(states_of_torch()))
    call_model(sandbox, example)
    return not same_states(states[0], states[-1])


def _differing(
    model: nn.Module,
    pieces: list[nn.Module],
    arrangement: Any,
    example: Example,
    paths: TargetPaths,
    expected: list[list[Any]],
    training: bool = True,
) -> str | None:
    """The first target of which the last piece gives another value than expected; in evaluation unless `training`."""
    sandboxes = [sandbox_copy(piece, example.meta.tensor) for piece in pieces]
    first, *rest = sandboxes if training else [sandbox.eval() for sandbox in sandboxes]
    try:
        with isolated(model, example):
            given = first(*fresh(example.args), **fresh(example.kwargs))
            for piece in rest:
                given = piece(given)
    except Exception as error:
        if isinstance(error, NotReachedError) and not all(map(_runs, paths.targets, expected)):
            raise  # the model does not run it either
        raise WrongResultError(
            f"the result does not run on the example: {type(error).__name__}: {error}. Perhaps the model "
            f"does something that cannot be recorded, such as catching an error; check=False returns the result anyway"
        ) from error
    for t, value in _leaves(arrangement, given):
        target = paths.targets[t]
        if can_be_watched(target) and not same(value, item_of(expected[t][target.call], keys_of(t))):
            return target.text
    return None


def _runs(target: Target, calls: list[Any]) -> bool:
    return not can_be_watched(target) or -len(calls) <= target.call < len(calls)


def _leaves(arrangement: Any, given: Any) -> list[tuple[int, Any]]:
    if isinstance(arrangement, int):
        return [(arrangement, given)]
    keys = arrangement if isinstance(arrangement, dict) else range(len(arrangement))
    return [leaf for key in keys for leaf in _leaves(arrangement[key], given[key])]


def same(one: Any, other: Any) -> bool:
    """Whether two nested values hold the same tensors, bit for bit; NaN equals NaN."""
    ones, others = list(tensors_in(one)), list(tensors_in(other))
    return len(ones) == len(others) and all(map(_same_tensor, ones, others))


def _same_tensor(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype or is_meta(one) or is_meta(other):
        return one.shape == other.shape and one.dtype == other.dtype
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())
