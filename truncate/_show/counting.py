"""How much a model computes: its multiply-adds, counted without computing anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from truncate._graph import map_nested
from truncate._sandbox import Meta, fresh, random_state_kept, sandbox_copy


def multiply_adds(
    model: nn.Module, paths: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any], run: bool = False
) -> dict[str, int] | None:
    """The multiply-adds of the modules at some paths in one pass, by path; None if they cannot be counted.

    They are half of what torch's formulas give: matrix products, convolutions and attention count, and nothing else.
    The pass is one of a copy on the meta device, where torch uses none of the fused kernels that have no formula. What
    branches on values does not run there; with `run`, it is counted while it computes.
    """
    with contextlib.suppress(Exception):  # of many kinds: it is anybody's model
        return _counted(meta_copy(model), paths, *on_meta((tuple(args), dict(kwargs))))
    if run:
        with contextlib.suppress(Exception), _no_fused_kernels():
            return _counted(sandbox_copy(model), paths, tuple(args), dict(kwargs))
    return None


def _counted(twin: nn.Module, paths: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, int]:
    counted = dict.fromkeys(paths, 0)
    counter = _Counter()
    for path in paths:
        _watch(twin.get_submodule(path), path, counter, counted)
    with torch.no_grad(), random_state_kept(), counter:
        twin(*fresh(args), **fresh(kwargs))
    return counted


@contextlib.contextmanager
def _no_fused_kernels() -> Iterator[None]:
    """Without those of torch's transformers, which have no formula."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of a model on the meta device."""
    return sandbox_copy(model, Meta(torch.empty(0, device="meta")).tensor)


def on_meta(arguments: Any) -> Any:
    """Nested arguments with their tensors on the meta device."""
    return map_nested(arguments, lambda item: item.to("meta") if isinstance(item, torch.Tensor) else item)


def _watch(module: nn.Module, path: str, counter: _Counter, counted: dict[str, int]) -> None:
    """Adds what each call of a module takes to what is counted for its path."""
    begun: list[int] = []

    def enter(module: nn.Module, args: Any) -> None:
        begun.append(counter.count)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        counted[path] += counter.count - begun.pop()

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave)


class _Counter(TorchDispatchMode):
    """Counts what runs in this thread. (torch's own counter also puts hooks on all modules of the process.)"""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(function._overloadpacket)
        if formula is None:
            with self:
                result = function.decompose(*args, **kwargs)
            return function(*args, **kwargs) if result is NotImplemented else result
        result = function(*args, **kwargs)
        self.count += formula(*args, **kwargs, out_val=result) // 2
        return result
