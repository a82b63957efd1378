"""Traced numbers: Python numbers, such as sizes, that know the node that computes them, while a forward is recorded.

Each has the value that it has on the example, so the forward runs unchanged. What is computed from one is written into
the graph, so that other sizes work too; where control flow depends on one, it is fixed and becomes an `Assumption`.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable
from typing import Any, Protocol

from truncate._graph import BINARY, COMPARISONS, UNARY, Kind, Node
from truncate._python import callers_frame, demanded, has_one_outcome, is_only_asked, only_shows_text


class Tracer(Protocol):
    """Where traced numbers write the operations on them."""

    fixes_numbers: bool  # whether every number is fixed at once
    compares_bools: bool  # whether the forward may compare bools by `is`, which needs real ones

    def node(self, kind: Kind, target: Any, args: tuple[Any, ...] = ()) -> Node: ...

    def lower(self, value: Any) -> Any: ...

    def assert_holds(self, condition: Any, holds: bool, text: str) -> None: ...

    def fix(self, value: Traced) -> None: ...

    @property
    def is_paused(self) -> bool: ...


class Traced:
    """What all traced numbers have in common: the value on the example, and the node that computes it."""

    real_value: Any  # on the example
    _tracer: Tracer
    _lazy: Node | Callable[[], Node]

    @property
    def _node(self) -> Node:
        if not isinstance(self._lazy, Node):
            self._lazy = self._lazy()
        return self._lazy

    def fixed(self) -> Any:
        """The plain number, for a use that does not work for other values: from here on it is fixed."""
        if not self._tracer.is_paused:
            self._tracer.fix(self)
        return self.real_value

    def converted(self, kind: type) -> Any:
        """``int(value)`` or ``float(value)``, which stays traced."""
        return self._derived(kind(self.real_value), kind, (self,))

    def computed(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """The result of a function with this among its arguments; if it is no number, its arguments are fixed."""
        value = function(*map(plain, args))
        if type(value) not in _KINDS:
            for arg in args:
                fixed(arg)
        return self._derived(value, function, args)

    def _derived(self, value: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        tracer = self._tracer
        if tracer.is_paused:
            return value
        return traced(value, tracer, lambda: tracer.node(Kind.FUNCTION, function, tuple(map(tracer.lower, args))))

    def __bool__(self) -> bool:
        frame = sys._getframe(1)
        if self.real_value is True and has_one_outcome(frame):
            return True
        asked = self if type(self) is TracedBool else self._derived(self.real_value != 0, operator.ne, (self, 0))
        if not issubclass(type(asked), Traced):
            return bool(asked)
        value, condition = demanded(frame) or (True, None)
        if condition is None or bool(asked.real_value) is not value or self._tracer.is_paused:
            return bool(asked.fixed())
        self._tracer.assert_holds(asked, value, condition)
        return value

    def __int__(self) -> int:
        return int(self.fixed())

    def __float__(self) -> float:
        return float(self.fixed())

    def __round__(self, *digits: int) -> Any:
        return self._derived(round(self.real_value, *digits), round, (self, *digits))

    def __floor__(self) -> Any:
        return self._derived(math.floor(self.real_value), math.floor, (self,))

    def __ceil__(self) -> Any:
        return self._derived(math.ceil(self.real_value), math.ceil, (self,))

    def __trunc__(self) -> Any:
        return self._derived(math.trunc(self.real_value), math.trunc, (self,))

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __hash__(self) -> int:
        return hash(self.fixed())

    def __format__(self, spec: str) -> str:
        return format(self._as_shown(), spec)

    def __str__(self) -> str:
        return str(self._as_shown())

    def __repr__(self) -> str:
        return repr(self._as_shown())

    def _as_shown(self) -> Any:
        """The plain number for a text, which fixes it unless the text is only shown."""
        return self.real_value if only_shows_text(callers_frame()) else self.fixed()

    def __deepcopy__(self, memo: Any) -> Any:
        return self.fixed()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self.real_value), (self.fixed(),)


class TracedInt(Traced, int):  # type: ignore[misc]
    def __index__(self) -> int:
        return self.fixed()


class TracedFloat(Traced, float):  # type: ignore[misc]
    """A traced float."""


class TracedBool(Traced, int):  # type: ignore[misc]
    """The result of a comparison; it is fixed when control flow depends on it."""


# The value that C code finds, which reads a number without calling its methods: one that makes it fail, so that nothing
# wrong is computed unnoticed. No loop reaches an int so far below zero, and no list has such an index, but a shape that
# is printed can hold it. It is odd and irregular, so that its products, cut to 64 bits in C, are no valid sizes either.
_TO_C: dict[type, Any] = {TracedInt: -0x2B7E_1516_28AE_D2A7, TracedFloat: math.nan}
_KINDS: dict[type, type] = {int: TracedInt, float: TracedFloat, bool: TracedBool}


def traced(value: Any, tracer: Tracer, lazy: Node | Callable[[], Node]) -> Any:
    """The traced number for a plain one; anything else as it is."""
    kind = _KINDS.get(type(value))
    if kind is None:
        return value
    made = kind(_TO_C.get(kind, value))
    made.real_value, made._tracer, made._lazy = value, tracer, lazy
    compares = kind is TracedBool and tracer.compares_bools and not is_only_asked(callers_frame(), at_once=True)
    return made.fixed() if tracer.fixes_numbers or compares else made


def fixed(value: Any) -> Any:
    """The plain number of a traced one, which is fixed; anything else as it is."""
    return value.fixed() if issubclass(type(value), Traced) else value


def plain(value: Any) -> Any:
    """The plain number of a traced one, which is not fixed by this; anything else as it is."""
    return value.real_value if issubclass(type(value), Traced) else value


def _operation(function: Callable[..., Any], reflected: bool) -> Callable[..., Any]:
    def method(self: Traced, *others: Any) -> Any:
        if others and not isinstance(others[0], (int, float)):
            if reflected and isinstance(others[0], (list, tuple, str, bytes)):
                return function(others[0], self.fixed())  # `[0] * n`: the number of items is fixed
            return NotImplemented
        args = (*others, self) if reflected else (self, *others)
        made = self._derived(function(*map(plain, args)), function, args)
        if type(made) is TracedBool and not is_only_asked(sys._getframe(1), at_once=False):
            return made.fixed()  # it may be passed to a function that accepts only a real bool
        return made

    return method


def _method(name: str) -> Callable[..., Any]:
    """A method of a number that is no operator, such as ``bit_length``: it fixes the number."""
    return lambda self, *args, **kwargs: getattr(self.fixed(), name)(*args, **kwargs)


for _kind in (TracedInt, TracedFloat, TracedBool):
    for _name in ("real", "numerator"):
        setattr(_kind, _name, property(lambda self: self))
    for _name in ("as_integer_ratio", "bit_count", "bit_length", "conjugate", "hex", "is_integer", "to_bytes"):
        setattr(_kind, _name, _method(_name))
    for _name, _function in {**UNARY, **BINARY}.items():
        if hasattr(int, f"__{_name}__") and not (_kind is TracedFloat and not hasattr(float, f"__{_name}__")):
            setattr(_kind, f"__{_name}__", _operation(_function, reflected=False))
            if _name in BINARY and _name not in COMPARISONS:
                setattr(_kind, f"__r{_name}__", _operation(_function, reflected=True))
