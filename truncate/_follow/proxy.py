"""Proxies: objects that take the place of values which are only known when the module runs.

Whatever is done to one is written into the graph of its `Tracer`. What only a real value could answer (a branch, a
length, a Python number) raises `Unfollowable`, and so does what would silently get a wrong answer (``isinstance``).
"""

from __future__ import annotations

import contextlib
import operator
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, Protocol

import torch
from torch import nn

from truncate._graph import BINARY, COMPARISONS, INPLACE, UNARY, Kind, Node, is_mode, items_of, negated
from truncate._python import OWN, TORCH, demanded, only_shows_text, unpacked_items


class Unfollowable(Exception):
    """Raised inside a forward when it needs a real value. The text says what it does with it."""

    where: tuple[str, int, str] | None = None  # file, line and function, if the traceback does not tell


class Tracer(Protocol):
    """Where proxies write the operations on them."""

    compares_bools: bool  # whether the forward may compare bools by `is`, which needs real ones
    is_on_real_values: bool  # the module is a sandbox copy, so the forward may change its lists and dicts

    def node(self, kind: Kind, target: Any, args: tuple[Any, ...] = ()) -> Node: ...

    def add(self, kind: Kind, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any: ...

    def held(self, path: str, tensor: torch.Tensor) -> Any: ...

    def child(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

    def function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

    def was_called(self, path: str) -> bool: ...

    def left_behind(self, path: str, value: Any) -> Any: ...

    def global_state(self, func: Any, *args: Any) -> Any: ...

    def decide(self, flag: str) -> bool: ...

    def is_instance(self, proxy: Proxy, classes: Any) -> bool: ...

    def asked_for_class(self, value: Any, classes: Any, answer: bool) -> None: ...

    def is_surely_tensor(self, value: Any) -> bool: ...

    def is_of_model(self, module: nn.Module) -> bool: ...

    def fail(self, why: str) -> Unfollowable: ...


class _Active(threading.local):
    """The tracer at work in this thread, if any."""

    tracer: Tracer | None = None


active = _Active()


@contextlib.contextmanager
def tracing_with(tracer: Tracer | None) -> Iterator[None]:
    """Makes a tracer the active one of this thread."""
    before, active.tracer = active.tracer, tracer
    try:
        yield
    finally:
        active.tracer = before


class Proxy:
    """A value that is only known when the module runs."""

    __slots__ = ("_lazy", "_tracer")

    def __init__(self, tracer: Tracer, lazy: Node | Callable[[], Node]) -> None:
        self._tracer = tracer
        self._lazy = lazy

    @property
    def _node(self) -> Node:
        # The node is made at first use: reading an attribute and not using it adds nothing to the graph.
        if not isinstance(self._lazy, Node):
            self._lazy = self._lazy()
        return self._lazy

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Asked by `isinstance` outside the code that is followed, which would silently get the answer "no"."""
        caller = sys._getframe(1)
        if "isinstance" in caller.f_code.co_names and not _answers_isinstance(caller.f_code, caller.f_globals):
            raise self._tracer.fail("asks for the type of a value with isinstance")
        if "__class__" in caller.f_code.co_names and not caller.f_code.co_filename.startswith((OWN, TORCH)):
            if self._tracer.is_instance(self, torch.Tensor):
                return torch.Tensor
        return type(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not hasattr(torch.Tensor, name) and self._tracer.is_surely_tensor(self):
            raise AttributeError(f"'Tensor' object has no attribute {name!r}")
        return Member(self, name)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return next(proxies_in((args, kwargs)))._tracer.function(func, args, kwargs or {})

    def __setitem__(self, index: Any, value: Any) -> None:
        self._tracer.add(Kind.FUNCTION, operator.setitem, (self, index, value))

    def __iter__(self) -> Iterator[Proxy]:
        count = unpacked_items(sys._getframe(1))
        if count is None:
            raise self._tracer.fail("iterates over a value of unknown length")
        items = [self._tracer.add(Kind.FUNCTION, operator.getitem, (self, i)) for i in range(count)]
        for item in items:
            item._node.unpacked = count
        return iter(items)

    def __bool__(self) -> bool:
        if is_mode(self._node):
            return self._tracer.decide(self._node.target)
        wanted = demanded(sys._getframe(1))
        if wanted is None:
            raise self._tracer.fail("branches on a value")
        value, condition = wanted
        if condition is not None:
            held = self._node if value else self._tracer.node(Kind.FUNCTION, *negated(self._node))
            self._tracer.node(Kind.FUNCTION, torch._assert, (held, condition))
        return value

    def __len__(self) -> int:
        raise self._tracer.fail("asks for the length of a value")

    def __contains__(self, item: Any) -> bool:
        raise self._tracer.fail("searches a value with `in`")

    def _to_number(self, *_: Any) -> Any:
        raise self._tracer.fail("turns a value into a Python number")

    __int__ = __float__ = __complex__ = __index__ = __round__ = __floor__ = __ceil__ = __trunc__ = _to_number

    def __format__(self, spec: str) -> str:
        return self._text()

    def __str__(self) -> str:
        return self._text()

    def _text(self) -> str:
        """The text for an error message; a text that is compared or stored cannot be followed."""
        if not only_shows_text(sys._getframe(2)):
            raise self._tracer.fail("computes with the text of a value")
        return "?"

    def __deepcopy__(self, memo: Any) -> Any:
        raise self._tracer.fail("copies a value with copy.deepcopy")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise self._tracer.fail("copies or pickles a value")

    def __repr__(self) -> str:
        return "<a value that is only known when the module runs>"

    def __hash__(self) -> int:
        if not self._tracer.is_surely_tensor(self):
            raise self._tracer.fail("looks a value up in a dict or set")
        return id(self)


class Member(Proxy):
    """``value.name``: an attribute if it is used, a method if it is called."""

    __slots__ = ("_name", "_owner")

    def __init__(self, owner: Proxy, name: str) -> None:
        self._owner = owner
        self._name = name
        super().__init__(owner._tracer, lambda: owner._tracer.node(Kind.FUNCTION, getattr, (owner._node, name)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._tracer.add(Kind.METHOD, self._name, (self._owner, *args), kwargs)


class Held(Proxy):
    """A parameter, buffer or other tensor that the module holds. Its shape is known and fixed."""

    __slots__ = ("_tensor",)

    def __init__(self, tracer: Tracer, path: str, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        super().__init__(tracer, lambda: tracer.node(Kind.ATTRIBUTE, path))

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "ndim", "size", "dim", "numel", "is_floating_point", "is_complex"):
            return getattr(self._tensor, name)
        if not hasattr(self._tensor, name):
            raise AttributeError(f"{type(self._tensor).__name__!r} object has no attribute {name!r}")
        own = vars(self._tensor).get(name)  # an attribute that copies of the parameter lack
        return own if type(own) in (bool, int, float, str) else Member(self, name)

    def __len__(self) -> int:
        return len(self._tensor)

    def is_instance(self, classes: Any) -> bool:
        return isinstance(self._tensor, classes)


class Unread(Proxy):
    """A tensor that a cut would not find where the forward finds it: using it is an error."""

    __slots__ = ()

    def __init__(self, tracer: Tracer, reading: str) -> None:
        def read() -> Node:
            raise tracer.fail(reading)

        super().__init__(tracer, read)


def _operation(function: Callable[..., Any], reflected: bool = False) -> Callable[..., Any]:
    takes_none = function in (operator.getitem, operator.eq, operator.ne)

    def method(self: Proxy, *others: Any) -> Any:
        if len(others) > 1 or (any(other is None for other in others) and not takes_none):
            return NotImplemented  # as a tensor does
        return self._tracer.add(Kind.FUNCTION, function, (*others, self) if reflected else (self, *others))

    return method


for _name, _function in {**UNARY, **BINARY, **INPLACE}.items():
    setattr(Proxy, f"__{_name}__", _operation(_function))
for _name, _function in BINARY.items():
    if _name != "getitem" and _name not in COMPARISONS:
        setattr(Proxy, f"__r{_name}__", _operation(_function, reflected=True))


def proxies_in(value: Any) -> Iterator[Proxy]:
    """Every proxy inside nested containers."""
    if issubclass(type(value), Proxy):  # not isinstance: it would ask the proxy for its class
        yield value
    else:
        for item in items_of(value):
            yield from proxies_in(item)


def _answers_isinstance(code: CodeType, names: dict[str, Any]) -> bool:
    """Whether code may ask for the class of a proxy: this package, followed code, and the dispatch of torch."""
    own = names.get("__builtins__")  # in `__main__` a module
    if (isinstance(own, dict) and "_answers_isinstance" in own) or code.co_filename.startswith(OWN):
        return True
    return code.co_filename.startswith(TORCH) and code is not torch.is_tensor.__code__
