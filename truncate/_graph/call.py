"""The arguments of a forward: nested constants, and one named INPUT node for each value that is not known."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from truncate._graph.graph import Kind, Node, is_plain_name, items_of, map_nested, nodes_in, opened
from truncate._graph.structure import Known


@dataclasses.dataclass(eq=False)
class Call:
    """The arguments of a forward. Two calls of one module with equal `key`s run the same Python."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    parameters: tuple[inspect.Parameter, ...] | None = None  # the signature to keep; None: one parameter for each input

    @property
    def inputs(self) -> list[Node]:
        return [*nodes_in(self.args), *nodes_in(self.kwargs)]

    @property
    def key(self) -> str:
        told_apart: list[int] = []

        def marked(item: Any) -> Any:
            if type(item) is Node:
                return "·"
            kind: Any = type(item)
            if kind.__hash__ in (None, object.__hash__):  # an object, which may print like another one
                told_apart.append(id(item))
            return item

        return f"{map_nested((self.args, self.kwargs), marked)!r} {told_apart}"


def call_of_signature(module: nn.Module) -> Call:
    """A call with the required arguments only; all others have their defaults."""
    parameters = tuple(inspect.signature(module.forward).parameters.values())
    hints = declared_types(module)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.default is not parameter.empty:
            continue
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            args.append(_given(parameter.name, hints))
        elif parameter.kind is parameter.KEYWORD_ONLY:
            kwargs[parameter.name] = _given(parameter.name, hints)
        elif parameter.kind is parameter.VAR_POSITIONAL and not args:
            args.append(Node(Kind.INPUT, parameter.name))  # a model takes at least one tensor
    return Call(tuple(args), kwargs, parameters)


def call_of_example(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """A call with the arguments of an example: its tensors become inputs, everything else is fixed."""

    def enter(value: Any) -> Any:
        return Node(Kind.INPUT, "") if isinstance(value, torch.Tensor) else value

    call = call_of_node(
        module, Node(Kind.CHILD, "", map_nested(args, enter), map_nested(kwargs, enter)), lambda _: Known.TENSOR
    )
    call.parameters = tuple(inspect.signature(module.forward).parameters.values())
    return call


def _given(name: str, hints: dict[str, Any]) -> Node:
    declared = Known.TENSOR if hints.get(name) is torch.Tensor else Known.GIVEN
    return Node(Kind.INPUT, name, known=lambda: declared)


def default_containers(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Copies of the default lists and dicts of the arguments that a call leaves out: all calls share the originals."""
    signature = inspect.signature(module.forward)
    left_out = signature.parameters.keys() - signature.bind_partial(*args, **kwargs).arguments.keys()
    named = [p for name, p in signature.parameters.items() if name in left_out and p.kind is not p.POSITIONAL_ONLY]
    return {p.name: copy.copy(p.default) for p in named if isinstance(p.default, (list, dict))}


def declared_types(module: nn.Module) -> dict[str, Any]:
    """The declared types of the parameters of a forward, or none if they cannot be evaluated."""
    try:
        return typing.get_type_hints(inspect.unwrap(type(module).forward))
    except Exception:  # a name that only a type checker can resolve
        return {}


def call_of_node(module: nn.Module, node: Node, structure: Callable[[Node], Any]) -> Call:
    """The call of a child that a node of its parent's graph makes; `structure` gives what is known of its arguments."""
    args, kwargs = opened(node.args), opened(node.kwargs)
    names = iter(_input_names(module, args, kwargs))

    def enter(value: Any) -> Any:
        if type(value) is not Node:
            return value
        return Node(Kind.INPUT, next(names), known=functools.partial(structure, value))

    call = Call(map_nested(args, enter), map_nested(kwargs, enter))
    if module._forward_pre_hooks:  # the hooks see all arguments, as they are
        call.parameters = tuple(inspect.signature(module.forward).parameters.values())
    return call


def _input_names(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """A name for each node among the arguments: that of the parameter, with a number if the node is in a container."""
    count = sum(1 for _ in nodes_in((args, kwargs)))
    try:
        bound = inspect.signature(module.forward).bind_partial(*args).arguments
        given = [*bound.items(), *kwargs.items()]
    except (TypeError, ValueError):
        given = [("input", (*args, *kwargs.values()))]
    names: list[str] = []
    for name, value in given:
        if type(value) is Node:
            names.append(name)
        elif items_of(value):
            names += [f"{name}_{i}" for i, _ in enumerate(nodes_in(value))]
    # Generated forwards call their module `self`.
    if len(names) != count or len({*names, "self"}) != count + 1 or not all(map(is_plain_name, names)):
        names = [f"input_{i}" for i in range(count)]
    return names
