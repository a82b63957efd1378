"""A copy of a model on which an example can run without a trace: it shares the parameters and owns all else."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from truncate._graph import map_nested
from truncate._hollow import Hollowing


def ghost_of(model: nn.Module, hollow: Hollowing | None = None) -> nn.Module:
    """The same modules with the same parameters, and copies of the buffers and of every Python attribute.

    With `hollow`, what that makes of parameters, buffers and other tensors: no kernel is to run on them.
    """
    originals = list(model.modules())
    memo: dict[int, Any] = {}
    for module in originals:
        memo[id(module)] = object.__new__(type(module))
    for module in originals:
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in memo:
                memo[id(parameter)] = hollow(parameter) if hollow else parameter
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in memo:
                memo[id(buffer)] = hollow(buffer) if hollow else buffer.detach().clone()
    for module in originals:
        memo[id(module)].__dict__.update({name: _copied(value, memo, hollow) for name, value in vars(module).items()})
    return memo[id(model)]


def _copied(value: Any, memo: dict[int, Any], hollow: Hollowing | None) -> Any:
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, torch.Tensor):
        memo[id(value)] = hollow(value) if hollow else value.detach().clone()
        return memo[id(value)]
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _copied(item, memo, hollow)) for key, item in value.items())
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # a lock, a process group, a tensor inside a graph: no copy can be had, and none was asked for
        return value


def fresh(value: Any) -> Any:
    """A copy of nested arguments, so that what the forward does to them stays with it."""
    return map_nested(
        value,
        lambda item: (
            item.detach().clone().requires_grad_(item.requires_grad)
            if isinstance(item, torch.Tensor)
            else copy.deepcopy(item)
        ),
    )
