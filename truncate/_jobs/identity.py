"""What makes the values that a module returns, as hashes that are the same in each run: its tensors, and its code.

Of code written by users all that a forward reaches by name counts; of what is installed, the forwards themselves, and
the version of the package stands for the rest. Compared is the compiled code, so that comments do not matter.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import inspect
import pickle
import sys
import types
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, fx, nn

from truncate._python import OWN, closed_over, is_library, is_theirs, names_in


def weights_hash(module: nn.Module) -> str:
    """Stands for all tensors that a module holds: its state, and the buffers that are not saved with it."""
    digest = hashlib.sha256()
    for name, value in {**module.state_dict(), **dict(module.named_buffers(remove_duplicate=False))}.items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            digest.update(_bytes(value))
        else:  # extra state, which may be anything that can be saved
            digest.update(f"{name} ".encode() + pickle.dumps(value))
    return digest.hexdigest()


def code_hash(module: nn.Module, *others: Any) -> str:
    """Stands for the forwards of a module and of all inside it, with their attributes; and for other objects."""
    return _Hashes(module).everything(module, others).hex()


def versions(module: nn.Module, *packages: str) -> dict[str, str]:
    """Of Python, of these packages, and of those that the classes of a module come from."""
    known = {type(part).__module__.partition(".")[0] for part in module.modules()}
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in sorted({*known, *packages} - {"truncate"}):
        with contextlib.suppress(metadata.PackageNotFoundError, ValueError):  # as for a file of the user's
            found[name] = metadata.version(name)
    return found


_PLAIN = (type(None), bool, int, float, complex, str, bytes, types.EllipsisType, torch.dtype, torch.device, torch.Size)
# What hooks and torch itself keep in a module, beside what its forward reads.
_NOISE = {*vars(nn.Module()), "_mode_asked", "_truncate_roles", "_truncated_how", "assumptions"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_DUNDERS = ("__call__", "__getattr__", "__getitem__", "__iter__", "__len__")


class _Hashes:
    """The hash of each object, from the hashes of what it holds: so it does not matter which of them are the same."""

    def __init__(self, root: nn.Module) -> None:
        self._known: dict[int, bytes] = {}
        self._alive: list[Any] = []  # so that no id is given twice
        self._begun: list[int] = []
        self._paths = {id(part): path for path, part in root.named_modules()}

    def everything(self, root: nn.Module, others: Iterable[Any]) -> bytes:
        parts = [part for path, module in root.named_modules() for part in (path, *self._parts(module))]
        return self._joined(*parts, *self._all(others))

    def of(self, value: Any) -> bytes:
        if type(value) in _PLAIN:
            return self._joined(type(value).__name__, repr(value))
        if id(value) in self._known:
            return self._known[id(value)]
        if id(value) in self._paths:  # a module that is met by itself
            return self._joined("module", self._paths[id(value)])
        if id(value) in self._begun:  # it holds itself
            return self._joined("above", str(len(self._begun) - self._begun.index(id(value))))
        self._begun.append(id(value))
        found = self._joined(*self._parts(value))
        self._begun.pop()
        self._known[id(value)] = found
        self._alive.append(value)
        return found

    def _joined(self, *parts: str | bytes) -> bytes:
        digest = hashlib.sha256()
        for part in parts:
            content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            digest.update(b"%d " % len(content) + content)
        return digest.digest()

    def _all(self, values: Iterable[Any]) -> Iterator[bytes]:
        yield from map(self.of, values)

    def _parts(self, value: Any) -> Iterator[str | bytes]:
        """What an object is, and what it holds."""
        yield _name_of(type(value))
        if isinstance(value, Tensor):
            yield f"{value.dtype} {tuple(value.shape)}"
            yield b"" if value.is_meta else bytes(_bytes(value))
        elif isinstance(value, (set, frozenset)):
            yield from sorted(self._all(value))
        elif isinstance(value, (list, tuple)):
            yield from self._all(value)
        elif isinstance(value, dict):
            yield from self._all(part for item in value.items() for part in item)
        elif isinstance(value, types.CodeType):
            yield from self._code(value)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.MethodType):
            yield from self._all([value.__func__, value.__self__])
        elif isinstance(value, functools.partial):
            yield from self._all([value.func, value.args, value.keywords])
        elif isinstance(value, (staticmethod, classmethod)):
            yield self.of(value.__func__)
        elif isinstance(value, (property, functools.cached_property)):
            yield self.of(getattr(value, "fget", None) or getattr(value, "func", None))
        elif isinstance(value, type):
            yield _name_of(value)
            if _is_the_users(value):
                yield from self._all(item for item in sorted(vars(value).items()) if not _is_dunder(item[0]))
        elif isinstance(value, enum.Enum):
            yield value.name
        elif isinstance(value, fx.Graph):
            yield str(value)
        elif isinstance(value, (types.ModuleType, types.BuiltinFunctionType)):
            yield value.__name__
        elif isinstance(value, nn.Module):
            yield from self._module(value)
        elif not _is_of_torch(type(value)):
            yield from self._all([type(value), getattr(value, "__dict__", {})])

    def _module(self, module: nn.Module) -> Iterator[str | bytes]:
        own = {name: value for name, value in vars(module).items() if name not in _NOISE}
        hooks = [list(vars(module)[name].values()) for name in _HOOKS]
        yield from self._all([own, hooks, module.training, list(self._reached(type(module)))])
        yield from self._all(getattr(module, name, None) for name in ("_truncated_source", "_truncated_names", "graph"))
        if id(module) not in self._paths:  # whose tensors are in no state
            yield from self._all([module._parameters, module._buffers, module._modules])

    def _reached(self, kind: type) -> Iterator[tuple[str, Any]]:
        """What a class and those above it say of its forward, and of all that this names."""
        names, pending = set[str](), ["forward", *_DUNDERS]
        while pending:
            name = pending.pop(0)
            owners = [owner for owner in kind.__mro__ if name in vars(owner)]
            if name in names or not owners or (_is_of_torch(owners[0]) and name != "forward"):
                continue
            names.add(name)
            for owner in owners if name != "forward" else owners[:1] + [o for o in owners[1:] if not _is_of_torch(o)]:
                value = vars(owner)[name]
                yield name, value
                for function in _functions_in(value):
                    pending += sorted(names_in(inspect.unwrap(function).__code__))

    def _function(self, function: types.FunctionType) -> Iterator[str | bytes]:
        if function.__code__.co_filename.startswith(OWN):
            yield function.__qualname__
            return
        yield from self._all([function.__code__, function.__defaults__, function.__kwdefaults__])
        if is_library(function.__code__.co_filename):
            return
        yield from self._all(closed_over(function))
        if "site-packages" not in function.__code__.co_filename:
            yield from self._all(_globals_of(function))

    def _code(self, code: types.CodeType) -> Iterator[str | bytes]:
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags)
        yield from self._all([code.co_code, *names, code.co_argcount, code.co_kwonlyargcount, code.co_exceptiontable])
        constants = code.co_consts
        if constants and isinstance(constants[0], str):  # perhaps what the function says of itself
            constants = constants[1:]
        yield from self._all(constants)


def _globals_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a function names, and what it may name in modules of the user's; in one order in each run."""
    names = sorted(names_in(function.__code__))
    for name in names:
        value = function.__globals__.get(name)
        yield name, value
        if isinstance(value, types.ModuleType) and is_theirs(value) and "site-packages" not in str(value.__file__):
            yield from ((name, vars(value)[name]) for name in names if name in vars(value))


def _functions_in(value: Any) -> Iterator[types.FunctionType]:
    value = getattr(value, "__func__", None) or getattr(value, "fget", None) or getattr(value, "func", None) or value
    if isinstance(value, types.FunctionType):
        yield value


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name not in _DUNDERS


def _is_of_torch(kind: type) -> bool:
    """Whether a class is torch's, Python's own, or of this package: its version says what it is."""
    top = kind.__module__.partition(".")[0]
    return top in ("torch", "truncate", "numpy") or top in sys.stdlib_module_names


def _is_the_users(kind: type) -> bool:
    if _is_of_torch(kind):
        return False
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return file is None or "site-packages" not in file
