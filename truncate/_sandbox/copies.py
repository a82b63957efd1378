"""A copy of a model on which an example can run without a trace: it shares the parameters and owns all else."""

from __future__ import annotations

import contextlib
import copy
import functools
import operator
import types
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

from truncate._graph import map_nested, memory_of, tensors_in
from truncate._sandbox.meta import ToMeta


def sandbox_copy(model: nn.Module, meta: ToMeta | None = None) -> nn.Module:
    """The same modules with the same parameters, and copies of the buffers and of every Python attribute.

    With `hollow`, what that makes of parameters, buffers and other tensors: no kernel is to run on them.
    """
    originals = list(model.modules())
    memo: dict[int, Any] = {}
    for module in originals:
        if isinstance(module, torch.jit.ScriptModule) and id(module) not in memo:  # its state is not in Python
            memo.update((id(one), copied) for one, copied in zip(module.modules(), copy.deepcopy(module).modules()))
    originals = [module for module in originals if id(module) not in memo]
    for module in originals:
        memo[id(module)] = object.__new__(type(module))
    buffers = [buffer for module in originals for buffer in module._buffers.values() if buffer is not None]
    if not meta:
        memo.update(_copied_together(buffers))
    for module in originals:
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in memo:
                memo[id(parameter)] = meta(parameter) if meta else parameter
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in memo:
                memo[id(buffer)] = meta(buffer) if meta else buffer.detach().clone()
    for module in originals:
        attributes = list(vars(module).items())  # at once: another thread may run the model meanwhile
        own = memo[id(module)].__dict__
        for name, value in attributes:
            kind = type(value)
            if kind in UNCHANGING:
                own[name] = value
            elif kind in _DICTS and not value and name in _MODULE_STATE:  # most of all, and no other module holds it
                own[name] = kind()
            else:
                own[name] = _copied(value, memo, meta)
        if module._compiled_call_impl is not None:  # by `module.compile()`: what was compiled holds the original
            memo[id(module)]._compiled_call_impl = None
    return memo[id(model)]


def _copied_together(tensors: list[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Copies by the ids of the originals, of those that share memory: the copies share it too."""
    sharing: dict[int, dict[int, torch.Tensor]] = {}
    for tensor in tensors:
        sharing.setdefault(memory_of(tensor), {})[id(tensor)] = tensor
    copies = {}
    for together in sharing.values():
        if len(together) > 1:
            first = next(iter(together.values()))
            storage = first.untyped_storage().clone()
            for key, one in together.items():
                empty = torch.empty(0, dtype=one.dtype, device=one.device)
                copies[key] = empty.set_(storage, one.storage_offset(), one.size(), one.stride())
    return copies


def _copied(value: Any, memo: dict[int, Any], meta: ToMeta | None) -> Any:
    kind = type(value)
    if kind in UNCHANGING:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, torch.Tensor):
        memo[id(value)] = meta(value) if meta else value.detach().clone()
        return memo[id(value)]
    if kind in _DICTS:
        made = memo[id(value)] = kind()
        if value:
            made.update((key, _copied(item, memo, meta)) for key, item in value.items())
        return made
    if kind in (set, list) and not value:
        memo[id(value)] = kind()
        return memo[id(value)]
    if kind is types.FunctionType:
        return _rebound(value, memo, meta)
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # a lock, a process group, a tensor inside a graph: no copy can be had, and none was asked for
        return value


def _rebound(function: types.FunctionType, memo: dict[int, Any], meta: ToMeta | None) -> types.FunctionType:
    """A function that was made inside another one, such as a hook, with what it uses from there replaced by copies."""
    memo[id(function)] = function  # should it use itself
    cells = tuple(_copied_cell(cell, memo, meta) for cell in function.__closure__ or ())
    if all(map(operator.is_, cells, function.__closure__ or ())):
        return function
    made = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    memo[id(function)] = made
    return made


def _copied_cell(cell: types.CellType, memo: dict[int, Any], meta: ToMeta | None) -> types.CellType:
    try:
        value = cell.cell_contents
    except ValueError:  # nothing was put there yet
        return cell
    if id(cell) not in memo:
        # Of the model, or where something may be handed from one module to another; the rest is not ours to copy.
        if id(value) in memo or type(value) in (dict, OrderedDict, list, types.FunctionType):
            copied = _copied(value, memo, meta)
            memo[id(cell)] = cell if copied is value else types.CellType(copied)
        else:
            memo[id(cell)] = cell
    return memo[id(cell)]


# Most of what a module holds, and `deepcopy` takes its time to find out that it need not copy it.
UNCHANGING = frozenset((type(None), bool, int, float, complex, str, bytes, type, torch.dtype))
_DICTS = (dict, OrderedDict)
_MODULE_STATE = frozenset(vars(nn.Module()))


@contextlib.contextmanager
def parameters_kept(model: nn.Module) -> Iterator[None]:
    """Undoes what a pass does to the parameters, as a momentum encoder does, or an embedding with a largest norm."""
    found = [_Held(parameter) for parameter in model.parameters() if not nn.parameter.is_lazy(parameter)]
    copies = _CopiesBeforeWrites({held.memory for held in found})
    _push_mode(copies)  # as `with` does, which also sets flags that all threads see
    try:
        yield
    finally:
        _pop_mode()
        for held in found:
            held.take_back()
        for memory, copied in copies.made.values():
            memory.copy_(copied)


class _Held:
    """The memory of a parameter. Nothing is computed to find it: a mode of the caller's might see that."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.memory = memory_of(parameter)
        self._parameter = parameter
        if self.memory != id(parameter):  # it has a memory
            self._place = parameter.untyped_storage(), parameter.storage_offset(), parameter.size(), parameter.stride()

    def take_back(self) -> None:
        """After ``parameter.data = other``."""
        own = self._parameter
        if memory_of(own) != self.memory:
            own.data = torch.empty(0, dtype=own.dtype, device=self._place[0].device).set_(*self._place)


class _CopiesBeforeWrites(TorchDispatchMode):
    """Copies memory before an operation writes on it. All but a few models write on none of their parameters."""

    supports_higher_order_operators = True

    def __init__(self, memories: set[int]) -> None:
        super().__init__()
        self._memories = memories
        self.made: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for position, name in _written_arguments(func):
            for tensor in tensors_in(args[position] if position < len(args) else kwargs.get(name)):
                memory = memory_of(tensor)
                if memory in self._memories and memory not in self.made:
                    storage = tensor.untyped_storage()
                    self.made[memory] = storage, storage.clone()
        return func(*args, **kwargs)


@functools.cache
def _written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of each argument that an operation writes on."""
    schema = getattr(func, "_schema", None)
    arguments = schema.arguments if schema is not None and schema.is_mutable else ()
    return tuple((i, a.name) for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write)


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
