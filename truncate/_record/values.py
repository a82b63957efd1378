"""The values of a recording and their nodes: each tensor, number and object that it computes or is given."""

from __future__ import annotations

import abc
import contextlib
import copy
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from truncate._follow import (
    NOT_OPENED,
    PLAIN,
    GraphBuilder,
    Lent,
    Proxy,
    ProxyModules,
    Traced,
    hides,
    is_changeable,
    is_opaque,
    is_proxy_module,
    objects_in,
    plain,
    plain_inside,
    real_of,
    revive,
    shares_with_copies,
    traced,
)
from truncate._graph import Kind, Node, Shape, is_container, is_dataclass_value, items_of, map_nested, pairs
from truncate._python import users_frame
from truncate._record.guards import Guards

Lazy = Node | Callable[[], Node]


class Values(GraphBuilder, Guards):
    """The part of a recording that knows where each value comes from."""

    is_paused: bool
    proxies: ProxyModules

    def __init__(self, module: nn.Module, found_before: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self.module = module
        self.constants: dict[str, torch.Tensor] = {}
        self.is_given_objects = False
        self._found_before = found_before  # the tensors that existed before the pass, by id
        self._values: dict[int, tuple[Lazy, Any]] = {}  # id of a value -> its node, and the value, to keep it alive
        self._states: dict[int, tuple[Any, dict[str, Any]]] = {}  # of objects passed to children, their attributes then
        self._own = {id(value) for m in module.modules() for value in vars(m).values()}

    @abc.abstractmethod
    def modes_value(self, flag: str) -> bool:
        """Whether a module is in training."""

    def _enter_like(self, given: Any, value: Any) -> Any:
        """Enters arguments: where `given` has a node, the value is an input; the rest are constants, equal in both."""
        if type(given) is Node:
            self.is_given_objects |= next(objects_in(plain(value)), None) is not None
            return self._enter(value, self.node(Kind.INPUT, given.target))
        if is_dataclass_value(given):
            fields = {f: self._enter_like(getattr(given, f), getattr(value, f)) for f in given.__dataclass_fields__}
            return type(given)(**fields)
        if issubclass(type(given), dict):
            return type(given)({key: self._enter_like(item, value[key]) for key, item in given.items()})
        if issubclass(type(given), (tuple, list)):
            items = [self._enter_like(*pair) for pair in zip(given, value)]
            return type(given)(*items) if hasattr(given, "_fields") else type(given)(items)
        return value

    def _enter(self, value: Any, lazy: Lazy) -> Any:
        """Enters a value from outside: its tensors and numbers get nodes that read them from it."""
        value = plain(value)  # it may be traced by the recording of another forward
        if isinstance(value, torch.Tensor):
            if id(value) in self._values:  # the same object again: tell the two apart
                with torch._C.DisableTorchFunction():
                    value = value.view_as(value)
            self._values[id(value)] = lazy, value
            return value
        if type(value) in (int, float, bool):
            return traced(value, self, lazy)
        if type(value) in PLAIN:
            return value
        kind = type(value)
        if kind is tuple or kind is torch.Size:
            items = [self._enter(item, self._part(lazy, operator.getitem, i)) for i, item in enumerate(value)]
            return tuple(items) if kind is tuple else Shape(items)
        if kind is list:  # in place, like all that follows: others may hold the same object
            value[:] = [self._enter(item, self._part(lazy, operator.getitem, i)) for i, item in enumerate(value)]
        elif issubclass(kind, dict):
            for key, item in list(value.items()):
                dict.__setitem__(value, key, self._enter(item, self._part(lazy, operator.getitem, key)))
        elif issubclass(kind, (tuple, list)):
            for i, item in enumerate(value):
                self._enter(item, self._part(lazy, operator.getitem, i))
        if id(value) not in self._values and is_opaque(value) and id(value) not in self._own:
            self._values[id(value)] = lazy, value
            for name, item in list(getattr(value, "__dict__", {}).items()):
                value.__dict__[name] = self._enter(item, self._part(lazy, getattr, name))
            self._states[id(value)] = value, dict(vars(value))
        return value

    @contextlib.contextmanager
    def objects_lent(self, path: str, given: Any) -> Iterator[Lent]:
        """A child runs, and may change objects among its arguments: numbers that it sets there become traced."""
        with plain_inside(given):
            lent = Lent(given)
            yield lent

        def unknown() -> Node:
            raise self.fail(f"reads what {path!r} has put into an object")

        for value, state in lent.before:
            known = self._values.get(id(value))
            if known is None and self.fixes_numbers:
                continue  # they would all be read at once
            for name, item in list(vars(value).items()):
                if type(item) in (int, float) and state.get(name, unknown) is not item:
                    lazy = unknown if known is None else self.node(Kind.FUNCTION, getattr, (force(known[0]), name))
                    vars(value)[name] = traced(item, self, lazy)
            self._states[id(value)] = value, dict(vars(value))

    @contextlib.contextmanager
    def known_values_told_apart(self, path: str) -> Iterator[None]:
        """A child runs, and a hook on it may put a value into a list or dict of a module that the forward has, too.

        What is put there by the next call may be another value: a Dropout returns what it is given in one mode alone.
        """
        containers = self.proxies.containers.copy()
        before = [set(map(id, items_of(value))) for value in containers]
        yield
        for value, known in zip(containers, before):
            if any(id(item) in self._values and id(item) not in known for item in items_of(value)):
                raise self.fail(f"reads what {path!r} has put into a list or dict")

    def _refuse_changed(self, value: Any) -> None:
        """Refuses an object that the forward changed after passing it on: a cut would pass its earlier state again."""
        if id(value) in self._states:
            state, (_, known) = vars(value), self._states[id(value)]
            if state.keys() != known.keys() or any(item is not known[name] for name, item in state.items()):
                raise self.fail(f"changes a {type(value).__name__} that it has passed on before")

    def _part(self, whole: Lazy, function: Callable[..., Any], key: Any) -> Callable[[], Node]:
        """The node of an item or attribute of a value, made when it is needed."""
        return once(lambda: self.node(Kind.FUNCTION, function, (force(whole), key)))

    def lower(self, value: Any) -> Any:
        """Replaces values by their nodes, inside nested containers too."""
        value = real_of(value)
        kind = type(value)
        if kind in PLAIN and kind is not torch.device:
            return value
        if issubclass(kind, Traced):
            return value._node if value._tracer is self else value.real_value
        if issubclass(kind, Proxy):
            return value._node
        if id(value) in self._values:
            lazy, _ = self._values[id(value)]
            self._refuse_changed(value)
            node = force(lazy)
            self._values[id(value)] = node, value
            return node
        if isinstance(value, torch.Tensor):
            return self._constant(value)
        if is_proxy_module(value):
            raise self.fail("passes a module as an argument")
        if kind is torch.Generator:
            raise self.fail("draws random numbers of its own, from a torch.Generator")
        if kind is torch.Size or kind is Shape:
            return tuple(map(self.lower, value))
        if is_container(value):
            return map_nested(value, self.lower)
        return self._opaque(value)

    def lower_given(self, value: Any, made: dict[int, tuple[Any, Node]]) -> Any:
        """The nodes of an argument. A list or dict which the child may fill is made before, so that it can be read."""
        if type(value) not in (list, dict, tuple):
            return self.lower(value)
        if id(value) in made:
            return made[id(value)][1]
        lower = functools.partial(self.lower_given, made=made)
        items = list(map(lower, value.values() if type(value) is dict else value))
        lowered: Any = dict(zip(value, items)) if type(value) is dict else type(value)(items)
        if type(value) is not tuple:
            lowered = self.node(Kind.FUNCTION, type(value), (lowered,))
            made[id(value)] = value, lowered
        return lowered

    def refill(self, own: Any, before: Any, held: Any, node: Node, decides: bool) -> None:
        """Puts into a list or dict what a child left there: whatever that is in another pass, it is read from there.

        `before`, `held`: what the child was given in its place, as it was then and as it is now.
        """
        given, known = dict(pairs(before)), dict(pairs(own))
        self.guard_items(node, held, decides=decides or not given)
        own.clear()
        for key, item in pairs(held):
            is_new = key not in given or given[key] is not item
            if is_new and not isinstance(item, (torch.Tensor, int, float)):
                raise self.fail("passes a list or dict to a child that puts something else than tensors into it")
            read = is_new or isinstance(item, torch.Tensor)
            kept = self._enter(item, self._part(node, operator.getitem, key)) if read else known[key]
            own.append(kept) if type(own) is list else own.update({key: kept})

    def _constant(self, tensor: torch.Tensor) -> Node:
        """The node of a tensor that is in no attribute of the module, but in a list or a global."""
        if id(tensor) not in self._found_before and not any(
            tensor is other for other in users_frame().f_globals.values()
        ):
            raise self.fail("computes with a tensor that was made out of sight, by numpy or a hook, say")
        name = f"constant_{len(self.constants)}"
        self.constants[name] = tensor
        self.assume("a tensor made out of sight is kept, of shape", tuple(tensor.shape))
        made = self.node(Kind.ATTRIBUTE, name)
        self._values[id(tensor)] = made, tensor
        return made

    def _opaque(self, value: Any) -> Any:
        """The node of an object, such as a cache: each call of the cut gets a new one, in the state first seen."""
        if type(value).__module__ == "numpy" and type(value).__name__ == "ndarray" and id(value) not in self._own:
            raise self.fail("computes with numpy, which cannot be seen")
        if id(value) in self._own:
            return value
        if not is_opaque(value):
            if hides(value, lambda item: id(item) in self._values or issubclass(type(item), Traced)):
                raise self.fail(f"hides a value in a {type(value).__name__}")
            if not is_changeable(value):
                return value
            node = self._copy_of(value)
            self._values[id(value)] = node, value
            return node
        state = vars(value)
        if self._holds_values(state):
            node = self.node(
                Kind.FUNCTION, revive, (type(value), {name: self.lower(item) for name, item in state.items()})
            )
        else:
            node = self._copy_of(value)
        self._values[id(value)] = node, value
        self._states[id(value)] = value, dict(state)
        return node

    def _copy_of(self, value: Any) -> Node:
        """Makes a copy of an object as it is now, for each call of the cut."""
        if shares_with_copies(value):
            raise self.fail(f"passes on a {type(value).__name__} with a function whose closure may change")
        return self.node(Kind.FUNCTION, copy.deepcopy, (copy.deepcopy(value),))

    def _holds_values(self, value: Any, depth: int = 4) -> bool:
        """Whether something inside an object was computed by this forward."""
        if id(value) in self._values or issubclass(type(value), Traced):
            return True
        if type(value) in PLAIN or isinstance(value, (torch.Tensor, *NOT_OPENED)) or not depth:
            return False
        inside = items_of(value) or tuple(getattr(value, "__dict__", {}).values())
        return any(self._holds_values(item, depth - 1) for item in inside)

    def real(self, value: Any) -> Any:
        """Nested values with plain numbers in place of traced ones."""
        value = real_of(value)
        kind = type(value)
        if kind in PLAIN or isinstance(value, torch.Tensor):
            return value
        if issubclass(kind, Traced):
            return value.real_value
        if issubclass(kind, Proxy):  # while recording, only the mode of a module is a proxy
            return self.modes_value(value._node.target)
        if kind is torch.Size or kind is Shape:
            return torch.Size([plain(item) for item in value])
        if kind in (tuple, list, dict, slice):
            return map_nested(value, self.real)
        return value


def once(make: Callable[[], Node]) -> Callable[[], Node]:
    return functools.lru_cache(maxsize=None)(make)


def force(lazy: Lazy) -> Node:
    return lazy if isinstance(lazy, Node) else lazy()
