"""The known structure of a value before it exists: that it is a tensor, or a tuple of two, or None, or unknown."""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable
from typing import Any

import torch

from truncate._graph.graph import Kind, Node, is_dataclass_value, items_of, map_nested
from truncate._graph.operations import OPERATORS, is_tensor, name_of, returns_tensors


class Known(enum.Enum):
    """A leaf of a known structure; the rest of it is containers and constants."""

    TENSOR = "a tensor"
    GIVEN = "something, not None"
    NOTHING = "nothing is known"


Structures = dict[str, Callable[[], Any]]  # by input name: gives the known structure of that input in one call


def structure_of(
    node: Node, of_child: Callable[[Node], Any], of_other: Callable[[Node], Any], given: Structures | None = None
) -> Any:
    """The known structure of the value of a node; `of_child` gives that of a child's result, `of_other` of other nodes.

    Several calls may share one graph: `given` says what this call passes, if it is not the one that was followed.
    """
    if is_tensor(node):
        return Known.TENSOR
    if node.kind is Kind.INPUT:
        known = node.known if given is None else given.get(node.target)
        return known() if known is not None else Known.GIVEN
    if node.kind is Kind.CHILD:
        return of_child(node)
    if node.kind is Kind.ATTRIBUTE:  # a mode, or what a child's own forward sets
        return Known.NOTHING if node.args else Known.GIVEN
    if node.target in OPERATORS and node.target is not operator.getitem:
        sources = [of_other(source) for source in node.inputs()]
        return Known.TENSOR if Known.TENSOR in sources else Known.GIVEN
    if node.target in (operator.getitem, getattr) and type(node.args[0]) is Node and _is_of_tensors(node, of_other):
        whole = node.args[0]
        return Known.TENSOR if node.target is operator.getitem and returns_tensors(whole) else Known.GIVEN
    if node.target is operator.getitem and type(node.args[0]) is Node:
        whole = of_other(node.args[0])
        if whole is Known.TENSOR:
            return whole
        try:
            return whole[node.args[1]]
        except (TypeError, LookupError):
            return Known.NOTHING
    if node.target is getattr and type(node.args[0]) is Node:
        whole = of_other(node.args[0])
        return getattr(whole, node.args[1], Known.NOTHING) if items_of(whole) else Known.NOTHING
    # Operations on values give values: only a method of an object that is no tensor may return None.
    by_torch = node.kind is Kind.FUNCTION and not _is_custom(node)
    certain = by_torch or (node.kind is Kind.METHOD and hasattr(torch.Tensor, node.target))
    return Known.GIVEN if certain else Known.NOTHING


def _is_of_tensors(node: Node, structure: Callable[[Node], Any]) -> bool:
    """Whether a value is a tensor, a part of one, or a result of torch: none of these holds a None."""
    if node.kind in (Kind.INPUT, Kind.CHILD, Kind.ATTRIBUTE, Kind.ASSIGN):
        return is_tensor(node) or structure(node) is Known.TENSOR
    first = node.args[0] if node.args and type(node.args[0]) is Node else None
    if node.target is getattr:
        return first is not None and _is_of_tensors(first, structure) and node.args[1] not in _PERHAPS_NONE
    if node.target is operator.getitem or node.kind is Kind.METHOD:
        return first is not None and _is_of_tensors(first, structure)
    return name_of(node) != "multi_head_attention_forward" and not _is_custom(node)


def _is_custom(node: Node) -> bool:
    """Whether a node applies an ``autograd.Function`` of the user, which may return anything."""
    owner = getattr(node.target, "__self__", None)
    return isinstance(owner, type) and issubclass(owner, torch.autograd.Function)


_PERHAPS_NONE = frozenset(("grad", "grad_fn", "_base", "names"))


def is_known(structure: Any) -> bool:
    return structure is not Known.NOTHING and all(map(is_known, items_of(structure)))


def fill(structure: Any, whole: Any) -> Any:
    """A known structure with the matching parts of `whole`, a proxy, in place of its leaves."""
    if type(structure) is Known:
        return whole
    if is_dataclass_value(structure):
        fields = {f: fill(getattr(structure, f), getattr(whole, f)) for f in structure.__dataclass_fields__}
        return type(structure)(**fields)
    if issubclass(type(structure), dict):
        return type(structure)({key: fill(item, whole[key]) for key, item in structure.items()})
    if issubclass(type(structure), (tuple, list)):
        parts = [fill(item, whole[i]) for i, item in enumerate(structure)]
        return type(structure)(*parts) if hasattr(structure, "_fields") else type(structure)(parts)
    return map_nested(structure, lambda item: item)
