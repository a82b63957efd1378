"""A copy of a model on which an example can run without a trace: it shares the parameters and owns all else."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from truncate._graph import map_nested


def ghost_of(model: nn.Module, meta: bool = False) -> nn.Module:
    """The same modules with the same parameters, and copies of the buffers and of every Python attribute.

    With `meta`, parameters and buffers are on the meta device: no kernel runs on them.
    """
    originals = list(model.modules())
    memo: dict[int, Any] = {}
    for module in originals:
        memo[id(module)] = object.__new__(type(module))
    for module in originals:
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in memo:
                memo[id(parameter)] = _on_meta(parameter) if meta else parameter
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in memo:
                memo[id(buffer)] = _on_meta(buffer) if meta else buffer.detach().clone()
    for module in originals:
        memo[id(module)].__dict__.update({name: _copied(value, memo) for name, value in vars(module).items()})
    return memo[id(model)]


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    made = tensor.detach().to("meta")
    return nn.Parameter(made, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, torch.Tensor):
        memo[id(value)] = value.detach().clone()
        return memo[id(value)]
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _copied(item, memo)) for key, item in value.items())
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
