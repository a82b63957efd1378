"""A copy of a model to run an example on: it shares the parameters and owns everything else."""

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

    With `meta`, all tensors, parameters too, are replaced by the meta or fake tensors that it makes of them.
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
        attributes = list(vars(module).items())  # listed first: another thread may run the model meanwhile
        own = memo[id(module)].__dict__
        for name, value in attributes:
            kind = type(value)
            if kind in UNCHANGING:
                own[name] = value
            elif kind in _DICTS and not value and name in _MODULE_STATE:  # the usual case, and no other module holds it
                own[name] = kind()
            else:
                own[name] = _copied(value, memo, meta)
        if module._compiled_call_impl is not None:  # by `module.compile()`: the compiled code holds the original
            memo[id(module)]._compiled_call_impl = None
    return memo[id(model)]


def _copied_together(tensors: list[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Copies, by the ids of the originals, of the tensors that share memory: so do the copies."""
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
    if kind is list:
        made = memo[id(value)] = []
        made.extend(_copied(item, memo, meta) for item in value)
        return made
    if kind is tuple:
        items = tuple(_copied(item, memo, meta) for item in value)
        return value if all(map(operator.is_, items, value)) else items
    if kind is set and not value:
        memo[id(value)] = kind()
        return memo[id(value)]
    if kind is functools.partial:
        function, args, keywords = _copied((value.func, value.args, value.keywords), memo, meta)
        return functools.partial(function, *args, **keywords)
    if kind is types.FunctionType:
        return _rebound(value, memo, meta)
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # a lock, a process group, a tensor with a history: it cannot be copied, so it is shared
        return value


def _rebound(function: types.FunctionType, memo: dict[int, Any], meta: ToMeta | None) -> types.FunctionType:
    """A function defined inside another one, such as a hook, with copies in its closure."""
    memo[id(function)] = function
    own = [cell for cell in function.__closure__ or () if _content(cell) is function]  # by which it calls itself
    memo.update((id(cell), types.CellType()) for cell in own)
    cells = tuple(_copied_cell(cell, memo, meta) for cell in function.__closure__ or ())
    defaults, keywords = [_of_model(part, memo, meta) for part in (function.__defaults__, function.__kwdefaults__)]
    of_its_own = set(map(id, own))
    same = all(new is old or id(old) in of_its_own for new, old in zip(cells, function.__closure__ or ()))
    if same and defaults is function.__defaults__ and keywords is function.__kwdefaults__:
        memo.update((id(cell), cell) for cell in own)
        return function
    made = types.FunctionType(function.__code__, function.__globals__, function.__name__, defaults, cells or None)
    made.__kwdefaults__ = keywords
    made.__dict__.update(function.__dict__)
    memo[id(function)] = made
    for cell in own:
        memo[id(cell)].cell_contents = made
    return made


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is still empty
        return None


def _copied_cell(cell: types.CellType, memo: dict[int, Any], meta: ToMeta | None) -> types.CellType:
    try:
        value = cell.cell_contents
    except ValueError:  # it is still empty
        return cell
    if id(cell) not in memo:
        copied = _of_model(value, memo, meta)
        memo[id(cell)] = cell if copied is value else types.CellType(copied)
    return memo[id(cell)]


def _of_model(value: Any, memo: dict[int, Any], meta: ToMeta | None) -> Any:
    """Copies parts of the model, and containers through which modules may pass values; nothing else is copied."""
    return _copied(value, memo, meta) if id(value) in memo or type(value) in _REBOUND else value


# Most attributes of a module are of these types, and `deepcopy` is slow to find out that they need no copy.
UNCHANGING = frozenset((type(None), bool, int, float, complex, str, bytes, type, torch.dtype))
_DICTS = (dict, OrderedDict)
_REBOUND = (*_DICTS, list, tuple, types.FunctionType, types.MethodType, functools.partial)
_MODULE_STATE = frozenset(vars(nn.Module()))


@contextlib.contextmanager
def parameters_kept(model: nn.Module) -> Iterator[None]:
    """Undoes what a pass does to the parameters: a momentum encoder mutates them, or an embedding with `max_norm`."""
    found = [_Held(parameter) for parameter in model.parameters() if not nn.parameter.is_lazy(parameter)]
    copies = _CopiesBeforeMutation({held.memory for held in found})
    _push_mode(copies)  # like `with`, which would also set flags that all threads see
    try:
        yield
    finally:
        _pop_mode()
        for held in found:
            held.take_back()
        for memory, copied in copies.made.values():
            memory.copy_(copied)


class _Held:
    """The storage of a parameter, found without a torch operation, which a mode of the caller might see."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.memory = memory_of(parameter)
        self._parameter = parameter
        if self.memory != id(parameter):  # it has a storage
            self._view = parameter.untyped_storage(), parameter.storage_offset(), parameter.size(), parameter.stride()

    def take_back(self) -> None:
        """Undoes ``parameter.data = other``."""
        own = self._parameter
        if memory_of(own) != self.memory:
            own.data = torch.empty(0, dtype=own.dtype, device=self._view[0].device).set_(*self._view)


class _CopiesBeforeMutation(TorchDispatchMode):
    """Copies a storage before an operation mutates it. Few models mutate any of their parameters."""

    supports_higher_order_operators = True

    def __init__(self, memories: set[int]) -> None:
        super().__init__()
        self._memories = memories
        self.made: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for position, name in _mutated_arguments(func):
            for tensor in tensors_in(args[position] if position < len(args) else kwargs.get(name)):
                memory = memory_of(tensor)
                if memory in self._memories and memory not in self.made:
                    storage = tensor.untyped_storage()
                    self.made[memory] = storage, storage.clone()
        return func(*args, **kwargs)


@functools.cache
def _mutated_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of each argument that an operation mutates."""
    schema = getattr(func, "_schema", None)
    arguments = schema.arguments if schema is not None and schema.is_mutable else ()
    return tuple((i, a.name) for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write)


def fresh(value: Any) -> Any:
    """A copy of nested arguments: what the forward does to them must not reach the caller's."""
    return map_nested(
        value,
        lambda item: (
            item.detach().clone().requires_grad_(item.requires_grad)
            if isinstance(item, torch.Tensor)
            else copy.deepcopy(item)
        ),
    )
