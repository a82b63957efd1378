"""Gradients of a cut and of the model: of the parameters, of the inputs, and at the targets themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fuzz.oracle import Seen, tensors_in

Gradients = list[Tensor | None]


@dataclass
class Flow:
    """The gradients of all targets together; and at each target, by its position, those of the other targets."""

    names: list[str]
    gradients: Gradients
    taps: dict[int, Tensor | None]


def close(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two gradients agree: their sums may be taken in another order. Nothing is the same as zeros."""
    if one is None or other is None:
        left = other if one is None else one
        return left is None or not left.any()
    least = 1e-5 + 1e-4 * float(one.abs().max())  # before a batch norm the gradient of a bias is zero but for rounding
    return one.shape == other.shape and torch.allclose(one, other, 1e-3, least, equal_nan=True)


def of_model(model: nn.Module, seen: Seen, targets: list[str]) -> Flow | None:
    """None if they cannot be had, since something was overwritten that the model's own backward needs."""
    named = dict(model.named_parameters())
    values = [seen.value(target) for target in targets]
    events = [seen.watch.event_of(target) for target in targets]
    sources = [*seen.inputs, *named.values()]
    taps: dict[int, Tensor | None] = {}
    try:
        found = _gradients(values, sources)
        for position, target in enumerate(targets):
            # Of one value that is asked for twice, the gradient of one at the other says nothing.
            if len(targets) > 1 and events.count(events[position]) == 1:
                arrived = seen.tap(target).gradients
                arrived.clear()
                _gradients(values[:position] + values[position + 1 :], sources)
                if arrived:
                    taps[position] = torch.stack(arrived).sum(0)
    except RuntimeError:
        return None
    return Flow([*_numbered(seen.inputs), *named], found, taps)


def of_cut(values: list[Any], inputs: list[Tensor], parameters: dict[str, Tensor], positions: Iterable[int]) -> Flow:
    """The taps are what is handed out."""
    found = _gradients(values, [*inputs, *parameters.values()])
    taps = {
        position: _gradients(values[:position] + values[position + 1 :], tensors_in(values[position])[:1])[0]
        for position in positions
    }
    return Flow([*_numbered(inputs), *parameters], found, taps)


def held_by(pieces: list[nn.Module], model: nn.Module) -> dict[str, Tensor]:
    """The parameters that the pieces hold, by the first name that the model has for each."""
    pool = {name: p for piece in pieces for name, p in piece.named_parameters(remove_duplicate=False)}
    held = {}
    names = {parameter: name for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in pool:
            held.setdefault(names[parameter], pool[name])
    return held


def _numbered(inputs: list[Tensor]) -> list[str]:
    return [f"input {number}" for number in range(len(inputs))]


def _gradients(values: Iterable[Any], wanted: list[Tensor]) -> Gradients:
    """Of a number that depends on each element of all tensors that have a gradient."""
    parts = [
        (tensor * torch.linspace(0.5, 1.5, tensor.numel()).view(tensor.shape)).sum()
        for value in values
        for tensor in tensors_in(value)
        if tensor.is_floating_point() and tensor.requires_grad
    ]
    wanted_here = [tensor for tensor in wanted if tensor.requires_grad]
    if not parts or not wanted_here:
        return [None] * len(wanted)
    loss = sum(parts[1:], parts[0])
    found = iter(torch.autograd.grad(loss, wanted_here, retain_graph=True, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in wanted]


@contextlib.contextmanager
def buffers_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A checkpoint computes again in the backward and counts its batch again: each graph does so at its own times."""
    kept = [(m._buffers, dict(m._buffers)) for module in modules for m in module.modules()]
    values = {buffer: buffer.detach().clone() for _, own in kept for buffer in own.values() if buffer is not None}
    try:
        yield
    finally:
        for place, own in kept:
            place.update(own)
        for buffer, value in values.items():
            buffer.data.copy_(value)
