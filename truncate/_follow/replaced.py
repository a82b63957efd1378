"""Replacements for Python's builtins in followed code: Python's own would not ask the proxy or traced number."""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable
from typing import Any

import torch

from truncate._follow.constants import Constant
from truncate._follow.numbers import Traced, fixed
from truncate._follow.proxy import Held, Proxy, active
from truncate._graph import Kind, Shape, map_nested

ASKING = frozenset(("id", "isinstance", "hasattr", "getattr", "type", "len", "int", "float", "range"))
ORIGINAL_CLASS = "_truncate_original_class"  # on the class of a proxy module: its original
INSTEAD_OF = "_truncate_instead_of"  # on a forward that stands on a module for the time of a pass: its own, or None
POSITION = "_truncate_position"  # in the __dict__ of a proxy module: its `ProxyModules` and its dotted path


def computed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function written in C so that its result stays traced: by itself it would read a wrong number."""
    first = next((arg for arg in args if issubclass(type(arg), Traced)), None)
    return function(*args, **kwargs) if first is None or kwargs else first.computed(function, args)


def fixing(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function with plain numbers, which are fixed."""
    args, kwargs = map_nested((args, kwargs), fixed)
    return function(*args, **kwargs)


def _isinstance(value: Any, classes: Any) -> bool:
    if issubclass(type(value), Proxy):
        return value._tracer.is_instance(value, classes)
    answer = isinstance(value, classes)
    if active.tracer is not None:
        active.tracer.asked_for_class(value, classes, answer)
    return answer


def _hasattr(value: Any, name: str) -> bool:
    if not issubclass(type(value), Proxy) or type(value) is Held:
        return hasattr(value, name)
    if value._tracer.is_instance(value, torch.Tensor):
        return hasattr(torch.Tensor, name)
    raise value._tracer.fail(f"asks whether a value has {name!r}")


def _getattr(value: Any, name: str, *default: Any) -> Any:
    if default and issubclass(type(value), Proxy) and not _hasattr(value, name):
        return default[0]
    return getattr(value, name, *default)


def _id(value: Any) -> int:
    if active.tracer is not None and (issubclass(type(value), Proxy) or isinstance(value, torch.Tensor)):
        raise active.tracer.fail("asks for the id of a value")
    return id(value)


def _len(value: Any) -> Any:
    if issubclass(type(value), Proxy):
        return value._tracer.add(Kind.FUNCTION, len, (value,))
    return value.shape[0] if isinstance(value, torch.Tensor) else len(value)


class _Replaced(type):
    """The replacement of a builtin class: calling it does something else, otherwise it behaves like the real one."""

    real: type
    make: Callable[..., Any]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.make(*args, **kwargs)

    def __instancecheck__(cls, value: Any) -> bool:
        return _isinstance(value, cls.real)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, cls.real)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.real

    def __hash__(cls) -> int:
        return hash(cls.real)


def _type(*args: Any, **kwargs: Any) -> Any:
    if len(args) == 1 and issubclass(type(args[0]), Proxy):
        if args[0]._tracer.is_instance(args[0], torch.Tensor):
            return torch.Tensor
        raise args[0]._tracer.fail("asks for the type of a value")
    if len(args) != 1 or kwargs:
        return type(*args, **kwargs)
    kind = type(args[0].real_value) if issubclass(type(args[0]), Traced) else type(real_of(args[0]))
    if kind is Shape:
        return torch.Size
    if hasattr(kind, ORIGINAL_CLASS):
        return getattr(args[0].__class__, ORIGINAL_CLASS) if args[0].__dict__.get(POSITION, (None, ""))[1] else kind
    return next((own for own in _OWN_TYPES if own.real is kind), kind)


def _number(kind: type) -> Callable[..., Any]:
    def convert(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], torch.Tensor):
            args = (args[0].item(),)
        return (
            args[0].converted(kind) if len(args) == 1 and issubclass(type(args[0]), Traced) else kind(*args, **kwargs)
        )

    return convert


def _range(*bounds: Any) -> range:
    return range(*map(fixed, bounds))


def _replaced(real: type, make: Callable[..., Any]) -> type:
    return _Replaced(real.__name__, (), {"real": real, "make": staticmethod(make)})


OWN = {
    **vars(builtins),
    "isinstance": _isinstance,
    "hasattr": _hasattr,
    "getattr": _getattr,
    "id": _id,
    "len": _len,
    "type": _replaced(type, _type),
    "int": _replaced(int, _number(int)),
    "float": _replaced(float, _number(float)),
    "range": _replaced(range, _range),
    **{function.__name__: functools.partial(computed, function) for function in (bin, hex, oct, chr)},
    "_answers_isinstance": True,
}
_OWN_TYPES = [OWN[name] for name in ("int", "float", "range", "type")]


def real_of(value: Any) -> Any:
    """The real class or number for one of these replacements; anything else as it is."""
    kind = type(value)
    return value.real if kind is _Replaced else float(value) if kind is Constant else value
