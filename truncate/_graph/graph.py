"""The graph of a forward: the operations that it ran, in order, and the values that flow between them."""

from __future__ import annotations

import dataclasses
import functools
import keyword
import operator
import types
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any

import torch
from torch import nn


class Kind(Enum):
    """What an operation does."""

    INPUT = "input"  # an argument of the forward; target: its name
    ATTRIBUTE = "attribute"  # a tensor or flag of the module; target: its dotted path
    CHILD = "child"  # a call of a module inside this one; target: its dotted path
    FUNCTION = "function"  # a call of a function; target: the function
    METHOD = "method"  # a call of a method of the first argument; target: its name
    ASSIGN = "assign"  # an assignment to a buffer of the module; target: its dotted path


@dataclasses.dataclass(frozen=True)
class Observed:
    """What a call of a child did to its arguments on the example."""

    mutates: bool  # it changed one of them in place
    aliases: bool  # it returned one of them, or a view of one
    changed: tuple[Node, ...] = ()  # those that are, or hold, Python objects whose attributes it changed


@dataclasses.dataclass(eq=False, slots=True)
class Node:
    """One operation. Its arguments are nested tuples, lists and dicts of other nodes and of constants."""

    kind: Kind
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    index: int = 0  # position in its graph
    context: str = ""  # the torch contexts that it ran in: "no_grad()", "enable_grad() | autocast(...)"
    decides: bool = False  # a guard that inputs take the recorded branch: it stays in every cut
    unpacked: int = 0  # for an item of a value that was unpacked, as in ``a, b = value``: into how many
    observed: Observed | None = None  # for a CHILD that ran for real
    known: Callable[[], Any] | None = None  # for an INPUT: gives the known structure of what the caller passes
    name: str = ""  # the name of an operation as a target; empty if it cannot be one

    def inputs(self) -> list[Node]:
        """The nodes whose values this one reads."""
        return [*nodes_in(self.args), *nodes_in(self.kwargs)]

    def given(self) -> list[Node]:
        """For a CHILD: what it is given, with the items of lists and dicts that were made for it in their place."""
        found = [node.given() if is_made_for_child(node) else [node] for node in self.inputs()]
        return [node for nodes in found for node in nodes]


@dataclasses.dataclass(eq=False)
class Graph:
    """What ran of one forward in one branch: while the flags in `modes` had these values."""

    nodes: list[Node]
    result: Any  # nested nodes and constants
    modes: dict[str, bool]  # path of a ``training`` flag that control flow read -> its value
    failure: str | None = None  # why this branch could not be followed, if it could not
    open_end: str | None = None  # why the rest of the forward was not recorded; no target is there
    filled: list[Any] | None = dataclasses.field(default_factory=list)  # how it changes each list and dict among its
    # arguments (a `Change` of `_follow`); None: not known
    constants: dict[str, Any] = dataclasses.field(default_factory=dict)  # ATTRIBUTEs that the module does not hold
    assumptions: list[Any] = dataclasses.field(default_factory=list)  # what a recording fixed, and at which index
    asked: dict[str, Any] = dataclasses.field(default_factory=dict)  # structures of inputs that this graph relies on
    recorded: bool = False  # on an example; otherwise it was followed on proxies
    loses_changes: bool = False  # its own Python may change an object that it is given, which its nodes do not do
    reads: set[str] = dataclasses.field(default_factory=set)  # attributes that it reads, not having set them
    sets: set[str] = dataclasses.field(default_factory=set)  # attributes that it sets

    @property
    def inputs(self) -> list[Node]:
        return [node for node in self.nodes if node.kind is Kind.INPUT]

    @property
    def may_change_containers(self) -> bool:
        """Whether it changes a list or dict that it is given, or may."""
        return self.filled is None or any(change is not None for change in self.filled)


def descend(module: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path inside another: ``get_submodule`` without its validation."""
    for name in path.split(".") if path else ():
        module = module._modules[name]  # type: ignore[assignment]
    return module


def has_forward(module: nn.Module) -> bool:
    """Whether a module can be called: a list of layers cannot."""
    return type(module).forward is not nn.Module.forward or "forward" in vars(module)


def whole_of(node: Node) -> Node:
    """The value that a value was taken out of, through any number of items and attributes."""
    while node.target in (getattr, operator.getitem) and type(node.args[0]) is Node:
        node = node.args[0]
    return node


def join(path: str, name: str) -> str:
    """The dotted path of `name` inside `path`."""
    if path:
        return ".".join((path, name)) if name else path
    return name if type(name) is str else "".join((name,))  # what it says; an Enum says otherwise when it is printed


def is_plain_name(name: Any) -> bool:
    """Whether generated source may hold a name as it is: Python reads it there as this very name, and as nothing else.

    Not so a keyword, a name that the parser takes for another one (``ſ`` for ``s``), or one that a class would mangle.
    """
    if type(name) is not str or not name.isidentifier() or keyword.iskeyword(name) or name == "__debug__":
        return False
    if name.startswith("__") and not name.endswith("__"):
        return False
    return name.isascii() or unicodedata.is_normalized("NFKC", name)


def is_dataclass_value(value: Any) -> bool:
    return _is_dataclass(type(value))


def _is_dataclass(kind: Any) -> bool:
    if not hasattr(kind, "__dataclass_fields__") or kind is Node:
        return False
    # A class with its own `__getattribute__` may refuse to give its fields: it counts as an ordinary object.
    return not isinstance(kind.__getattribute__, types.FunctionType)


def map_nested(value: Any, function: Callable[[Any], Any]) -> Any:
    """Rebuilds nested containers with `function` applied to everything that is not a container.

    Containers are tuples and named tuples, lists, dicts and their subclasses, slices and dataclasses.
    """
    kind = type(value)  # not isinstance, which would ask a proxy for its class
    if kind is tuple:
        return tuple([map_nested(item, function) for item in value])
    if kind is torch.Size or kind is Shape:  # which hold only numbers
        items = [function(item) for item in value]
        if all(type(item) is int for item in items):
            return torch.Size(items)
        return Shape(items) if all(isinstance(item, int) for item in items) else tuple(items)
    if kind is list:
        return [map_nested(item, function) for item in value]
    if kind is dict:
        return {key: map_nested(item, function) for key, item in value.items()}
    if kind is slice:
        return slice(*[map_nested(part, function) for part in (value.start, value.stop, value.step)])
    if is_dataclass_value(value):
        fields = {f.name: map_nested(getattr(value, f.name), function) for f in dataclasses.fields(value) if f.init}
        return kind(**fields)
    if issubclass(kind, dict):
        return kind({key: map_nested(item, function) for key, item in value.items()})
    if issubclass(kind, (tuple, list)):
        items = [map_nested(item, function) for item in value]
        if hasattr(kind, "_fields"):
            new: Any = tuple.__new__  # not that of the class, which may validate its items
            return new(kind, items)
        return kind(items)
    return function(value)


class Shape(tuple):  # type: ignore[type-arg]
    """A shape whose sizes are traced numbers; `torch.Size` would turn them into plain ones, in C."""

    __class__ = property(lambda self: torch.Size)  # for `isinstance`, wherever it is asked

    def numel(self) -> int:
        return functools.reduce(operator.mul, self, 1)

    def __getitem__(self, index: Any) -> Any:
        item = tuple.__getitem__(self, index)
        return Shape(item) if type(item) is tuple else item

    def __add__(self, other: Any) -> Any:
        return Shape(tuple.__add__(self, other))

    def __radd__(self, other: Any) -> Any:
        return Shape(tuple.__add__(other, self))

    def __repr__(self) -> str:
        return f"torch.Size([{', '.join(map(repr, self))}])"


def is_container(value: Any) -> bool:
    kind: Any = type(value)
    return _taking_items_of(kind) is not None


def items_of(value: Any) -> tuple[Any, ...]:
    """The direct items of a container; an empty tuple for anything else."""
    kind: Any = type(value)
    take = _taking_items_of(kind)
    return () if take is None else take(value)


def pairs(container: Any) -> Iterable[tuple[Any, Any]]:
    """The items of a list, tuple, dict or dataclass, with their keys, positions or names."""
    if is_dataclass_value(container) and not isinstance(container, (dict, list, tuple)):
        return zip((field.name for field in dataclasses.fields(container)), items_of(container))
    return container.items() if isinstance(container, dict) else enumerate(container)


# Not cached: a cache would keep the class alive, and what its methods lead to.
def _taking_items_of(kind: type) -> Callable[[Any], tuple[Any, ...]] | None:
    """A function that takes the items out of a container of this class; None: it is no container."""
    if kind in (tuple, list):
        return tuple
    if issubclass(kind, (tuple, list)):  # a subclass may define length and iteration differently, or refuse them
        base = tuple if issubclass(kind, tuple) else list
        return lambda value: tuple(base.__iter__(value))
    if kind is slice:
        return lambda value: (value.start, value.stop, value.step)
    if _is_dataclass(kind):
        # While one is being made, by its own Python, not all fields are there.
        return lambda value: tuple(getattr(value, field.name, None) for field in dataclasses.fields(value))
    return (lambda value: tuple(value.values())) if issubclass(kind, dict) else None


def containers_in(value: Any) -> Iterator[Any]:
    """Every list, dict and dataclass inside nested containers that can be changed."""
    for item in items_of(value):
        if issubclass(type(item), (list, dict)) or (is_dataclass_value(item) and not _is_frozen(item)):
            yield item
        yield from containers_in(item)


def _is_frozen(value: Any) -> bool:
    frozen: bool = type(value).__dataclass_params__.frozen
    return frozen


def observed_in(before: list[tuple[torch.Tensor, int]], result: Any, changed: Any = ()) -> Observed:
    """What a call that returned `result` did to its tensors, which are given with their versions before the call.

    `changed`: the nodes of the objects whose attributes it changed.
    """
    memory = {tensor.untyped_storage()._cdata for tensor, _ in before}
    return Observed(
        mutates=any(tensor._version != version for tensor, version in before),
        aliases=any(tensor.untyped_storage()._cdata in memory for tensor in tensors_in(result)),
        changed=tuple(nodes_in(changed)),
    )


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor inside nested containers."""
    if isinstance(value, torch.Tensor):
        yield value
    else:
        for item in items_of(value):
            yield from tensors_in(item)


def is_made_for_child(node: Node) -> bool:
    """Whether a node is a list or dict that is made of other values for a child, which may change it."""
    return node.kind is Kind.FUNCTION and node.target in (list, dict) and type(node.args[0]) is node.target


def opened(arguments: Any) -> Any:
    """Arguments of a child, with the items of lists and dicts that were made for it in their place."""

    def open_one(item: Any) -> Any:
        return opened(item.args[0]) if type(item) is Node and is_made_for_child(item) else item

    return map_nested(arguments, open_one)


def nodes_in(value: Any) -> Iterator[Node]:
    """Every node inside nested containers."""
    if type(value) is Node:
        yield value
    else:
        for item in items_of(value):
            yield from nodes_in(item)
