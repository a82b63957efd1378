"""Shadows: modules that take the place of a model's own while one forward is followed.

A shadow is an instance of a throw-away subclass of the module's class, with the same Python attributes, whose
parameters, buffers and children are stand-ins. So the forward of the class itself runs, with its helper methods and
properties, nothing global is patched, and what it assigns to ``self`` never reaches the model.
"""

from __future__ import annotations

import builtins
import functools
import types
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from truncate._graph import Kind, map_nested
from truncate._standin import Recording, StandIn

PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, type(...)))
_MODULE_STATE = frozenset(vars(nn.Module()))
_PLACE = "_truncate_place"  # in a shadow's __dict__: its shadows and its dotted path


class Shadows:
    """The shadows of one module and of everything below it, each made when it is asked for."""

    def __init__(self, root: nn.Module, recording: Recording) -> None:
        self.root = root
        self.recording = recording
        self._made: dict[str, Any] = {}
        self._paths: dict[int, str] | None = None

    def at(self, path: str, module: nn.Module) -> Any:
        """The shadow of the module at `path` below the root."""
        if path not in self._made:
            self._made[path] = self._make(path, module)
        return self._made[path]

    def _make(self, path: str, module: nn.Module) -> Any:
        if isinstance(module, torch.jit.ScriptModule):
            return _Compiled(self.recording, path)
        shadow = object.__new__(_shadow_class(type(module)))
        self._made[path] = shadow  # before its attributes are looked at: they may lead back to it
        prefix = f"{path}." if path else ""
        state = shadow.__dict__
        state.update(module.__dict__)
        del state["training"]  # answered by the property of Shadow
        state[_PLACE] = (self, path)
        for tensors in ("_parameters", "_buffers"):
            state[tensors] = _Lazy(state[tensors], lambda name, value: self.recording.held(prefix + name, value))
        state["_modules"] = _Lazy(module._modules, lambda name, value: self.at(prefix + name, value))
        for name, value in module.__dict__.items():
            if type(value) not in PLAIN and name not in _MODULE_STATE:
                state[name] = self._translate(value, prefix + name)
        return shadow

    def _translate(self, value: Any, path: str) -> Any:
        """What the forward finds in a Python attribute: modules and tensors that it reaches there are stand-ins too."""
        if isinstance(value, torch.Tensor):
            return self.recording.held(path, value)
        if isinstance(value, nn.Module):
            place = self.path_of(value)
            return value if place is None else self.at(place, value)
        if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
            owner = self._translate(value.__self__, path)
            return types.MethodType(with_own_builtins(value.__func__), owner)
        if isinstance(value, functools.partial):
            function = self._translate(value.func, path)
            return value if function is value.func else functools.partial(function, *value.args, **value.keywords)
        if type(value) in (list, tuple, dict) and _holds_module(value):
            return map_nested(value, lambda item: self._translate(item, path) if isinstance(item, nn.Module) else item)
        return value

    def path_of(self, module: nn.Module) -> str | None:
        """Where a module sits below the root, by any of its names."""
        if self._paths is None:
            named = list(self.root.named_modules(remove_duplicate=False))
            self._paths = {id(found): path for path, found in reversed(named)}
        return self._paths.get(id(module))


def _holds_module(value: Any) -> bool:
    if isinstance(value, dict):
        value = value.values()
    return any(isinstance(item, nn.Module) or (type(item) in (list, tuple, dict) and _holds_module(item)) for item in value)


class _Lazy(dict):  # type: ignore[type-arg]
    """Parameters, buffers or children by name, each replaced by its stand-in when it is asked for."""

    def __init__(self, real: dict[str, Any], make: Callable[[str, Any], Any]) -> None:
        super().__init__(real)
        self._make = make
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            value = super().__getitem__(name)
            self._made[name] = None if value is None else self._make(name, value)
        return self._made[name]

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self._made[name] = value

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]

    def copy(self) -> Any:
        return dict(self.items())


class _Compiled:
    """The shadow of a TorchScript module: it can be called, and nothing else is known of it."""

    def __init__(self, recording: Recording, path: str) -> None:
        self._recording = recording
        self._path = path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._recording.child(self._path, args, kwargs)


class _Whole(Protocol):
    __dict__: dict[str, Any]

    def forward(self, *args: Any, **kwargs: Any) -> Any: ...


class Shadow:
    """What every shadow does differently from the class whose place it takes."""

    def __init_subclass__(cls) -> None:
        """Ends here: a class that registers its subclasses must not see a throw-away one."""

    def __call__(self: _Whole, *args: Any, **kwargs: Any) -> Any:
        place = self.__dict__.get(_PLACE)
        if place is None:  # made while the forward ran, such as a slice of a ModuleList
            return self.forward(*args, **kwargs)
        shadows, path = place
        return shadows.recording.child(path, args, kwargs)

    @property
    def training(self) -> Any:
        shadows, path = self.__dict__[_PLACE]
        recording = shadows.recording
        return StandIn(recording, lambda: recording.node(Kind.ATTRIBUTE, f"{path}.training" if path else "training"))

    @training.setter
    def training(self, value: bool) -> None:
        if _PLACE in self.__dict__:
            raise self.__dict__[_PLACE][0].recording.fail("changes the mode of a module")

    def __setattr__(self, name: str, value: Any) -> None:
        if _PLACE in self.__dict__ and (name in self.__dict__["_buffers"] or name in self.__dict__["_parameters"]):
            shadows, path = self.__dict__[_PLACE]
            shadows.recording.add(Kind.ASSIGN, f"{path}.{name}" if path else name, (value,))
            held = self.__dict__["_buffers" if name in self.__dict__["_buffers"] else "_parameters"]
            held[name] = value
            return
        object.__setattr__(self, name, value)

    def __deepcopy__(self, memo: Any) -> Any:
        raise self.__dict__[_PLACE][0].recording.fail("copies a module")


def is_shadow(value: Any) -> bool:
    return issubclass(type(value), (Shadow, _Compiled))


_classes: weakref.WeakKeyDictionary[type, type] = weakref.WeakKeyDictionary()


def _shadow_class(cls: type) -> type:
    made = _classes.get(cls)
    if made is None:
        members: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        for base in reversed(cls.__mro__[: cls.__mro__.index(nn.Module)]):
            for name, value in vars(base).items():
                if isinstance(value, staticmethod):
                    value = staticmethod(with_own_builtins(value.__func__))
                elif isinstance(value, types.FunctionType) and not name.startswith("__"):
                    value = with_own_builtins(value)
                else:
                    continue
                members[name] = value
        made = type(cls)(cls.__name__, (Shadow, cls), members)
        _classes[cls] = made
    return made


# -- builtins that know stand-ins ------------------------------------------------------------------------------------


def with_own_builtins(function: Any) -> Any:
    """A copy of a function in which `isinstance`, `hasattr` and `type` do not guess about a stand-in.

    Python's own would ask the stand-in and not the value, and the forward would silently take a wrong branch. The
    helper functions that it calls by name, and the function inside a decorator, are copied likewise.
    """
    return _copy_function(function) if isinstance(function, types.FunctionType) else function


_copies: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_ASKING = frozenset(("isinstance", "hasattr", "type"))


def _copy_function(function: types.FunctionType) -> types.FunctionType:
    if function in _copies:
        return _copies[function]
    _copies[function] = function  # while its helpers are looked at, which may call it
    code, names = function.__code__, function.__globals__
    helpers = {}
    for name in code.co_names:
        helper = names.get(name)
        if isinstance(helper, types.FunctionType) and not _is_torch(helper):
            copied = _copy_function(helper)
            if copied is not helper:
                helpers[name] = copied
    closure = function.__closure__ or ()
    cells = [_copy_cell(cell) for cell in closure]
    if helpers or cells != list(closure) or not _ASKING.isdisjoint(code.co_names):
        own = {**names, **helpers, "__builtins__": _OWN_BUILTINS}
        copy = types.FunctionType(code, own, function.__name__, function.__defaults__, tuple(cells) or None)
        copy.__kwdefaults__ = function.__kwdefaults__
        copy.__dict__.update(function.__dict__)
        copy.__annotations__ = function.__annotations__
        _copies[function] = copy
    return _copies[function]


def _is_torch(function: types.FunctionType) -> bool:
    return (function.__module__ or "").partition(".")[0] == "torch"


def _copy_cell(cell: types.CellType) -> types.CellType:
    try:
        inner = cell.cell_contents
    except ValueError:  # not filled yet
        return cell
    if not isinstance(inner, types.FunctionType) or _is_torch(inner):
        return cell
    copied = _copy_function(inner)
    return cell if copied is inner else types.CellType(copied)


def _isinstance(value: Any, classes: Any) -> bool:
    if issubclass(type(value), StandIn):
        return value._recording.is_instance(value, classes)
    return isinstance(value, classes)


def _hasattr(value: Any, name: str) -> bool:
    if issubclass(type(value), StandIn) and not value._recording.is_instance(value, torch.Tensor):
        raise value._recording.fail(f"asks whether a value has {name!r}")
    return hasattr(torch.Tensor if issubclass(type(value), StandIn) else value, name)


class _TypeOfType(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and issubclass(type(args[0]), StandIn):
            if args[0]._recording.is_instance(args[0], torch.Tensor):
                return torch.Tensor
            raise args[0]._recording.fail("asks for the type of a value")
        return type(*args, **kwargs)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, type)


_OWN_BUILTINS = {
    **vars(builtins),
    "isinstance": _isinstance,
    "hasattr": _hasattr,
    "type": _TypeOfType("type", (), {}),
    "_answers_isinstance": True,
}
