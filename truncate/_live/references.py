"""What an expression in a forward stands for, if that is a module, holds one or leads to one."""

from __future__ import annotations

import ast
import dis
import operator
import types
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from truncate._errors import CannotFollowError
from truncate._live.held import leads_to
from truncate._live.source import Source, codes_in
from truncate._python import is_filled


class Each(NamedTuple):
    """One of the items of a container, another one in each turn of a loop."""

    container: Any
    loop: Any
    in_order: bool = True


class AnyOf(NamedTuple):
    """Some item of a container."""

    container: Any


class Index(NamedTuple):
    """A number that is another one in each turn of a loop."""

    loop: Any


class Wrapped(NamedTuple):
    """The function inside a decorator."""

    function: Any


class Here(NamedTuple):
    """The function that is being read."""

    function: types.FunctionType
    base: type | None  # in which class it is written
    source: Source
    own_name: str  # by which a decorator knows the module


MANY = 2  # twice or more, or nobody knows


class References:
    """Knows the modules that the forward of `owner` speaks of: `goal` is one of its children, or in one of these."""

    def __init__(self, owner: nn.Module, goal: nn.Module, below: set[int], on_path: set[int]) -> None:
        self.owner = owner
        self.goal = goal
        self._below = below  # ids of the goal and of the containers that it is in, below the owner
        self._on_path = on_path  # ids of all modules on the path, the owner among them
        self.unless: list[tuple[str, ...]] = []
        self._looped: Any = None  # the container of which one item after the other runs, if the goal is among them
        self._sources: set[Source] = set()  # of all functions that were read
        self._decorators: set[Source] = set()  # of those among them that wrap another one
        self._loops: list[Any] = []
        self._under_way: list[Any] = []
        self._here: Any = None
        self._env: dict[str, Any] = {}
        self.counts_calls = False  # whether calls of the owner by its `__call__` are counted, and not those of the goal
        self.reads_all = False  # whether it asks for all parameters, say, which what is dropped has none of

    def _bind(self, target: ast.expr, source: ast.expr, loop: Any, in_order: bool = True) -> int:
        """What a variable of a loop stands for; how often the goal runs while what it goes over is computed."""
        if isinstance(source, ast.Call) and isinstance(source.func, ast.Name) and not source.keywords:
            name, args = source.func.id, source.args
            if name == "enumerate" and len(args) == 1 and isinstance(target, ast.Tuple) and len(target.elts) == 2:
                self._set(target.elts[0], Index(loop))
                return self._bind(target.elts[1], args[0], loop, in_order)
            if name == "zip" and isinstance(target, ast.Tuple) and len(target.elts) == len(args):
                return sum(self._bind(one, each, loop, in_order) for one, each in zip(target.elts, args))
            if name in ("reversed", "list", "tuple", "iter") and len(args) == 1:
                return self._bind(target, args[0], loop, in_order and name != "reversed")
            if name == "range" and (len(args) == 1 or is_natural(args[0])) and len(args) < 3:
                self._set(target, Index(loop))
                return self._inside(args)
        if isinstance(source, ast.Call) and isinstance(source.func, ast.Attribute) and not source.args:
            of, name = self._ref(source.func.value), source.func.attr
            if isinstance(of, (nn.Module, dict)) and name in ("values", "children", "items", "named_children"):
                if isinstance(of, dict) or name in ("children", "named_children") or isinstance(of, nn.ModuleDict):
                    pair = name in ("items", "named_children")
                    if pair and not (isinstance(target, ast.Tuple) and len(target.elts) == 2):
                        return MANY
                    self._set(target.elts[1] if pair else target, Each(of, loop, in_order))  # type: ignore[attr-defined]
                    return 0
        found = self._ref(source)
        if found is not None and not isinstance(found, (Each, AnyOf, Index, Wrapped)):
            self._set(target, Each(found, loop, in_order))
            return 0 if isinstance(target, ast.Name) or not self._may_be_goal(AnyOf(found)) else MANY
        return self._of(source)

    def _set(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self._env[target.id] = value

    def _of(self, node: ast.AST) -> int:
        raise NotImplementedError

    def _inside(self, nodes: Iterable[ast.AST | None]) -> int:
        raise NotImplementedError

    def _ref(self, node: ast.AST) -> Any:
        """What an expression stands for, if it is, holds or leads to a module; None for all else."""
        if isinstance(node, ast.Name):
            return self._env.get(node.id)
        if isinstance(node, ast.Attribute):
            of = self._ref(node.value)
            if isinstance(of, nn.Module):
                return self._attribute(of, node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            if len(node.args) >= 2 and isinstance(node.args[1], ast.Constant) and not node.keywords:
                of = self._ref(node.args[0])
                if isinstance(of, nn.Module) and isinstance(node.args[1].value, str):
                    return self._attribute(of, node.args[1].value)
        if isinstance(node, ast.Subscript):
            of = self._ref(node.value)
            if of is None or isinstance(of, (Each, AnyOf, Index, Wrapped)):
                return None if of is None else AnyOf(getattr(of, "container", ()))
            if isinstance(node.slice, ast.Slice):
                return of
            index = self._constant(node.slice)
            if index is not None:
                return item_at(of, index)
            at = self._ref(node.slice)
            return Each(of, at.loop, False) if isinstance(at, Index) else AnyOf(of)
        return None

    def _global(self, node: ast.expr) -> Any:
        """The function of the user's file that a name stands for."""
        if isinstance(node, ast.Name) and node.id not in self._here.source.assigned:
            return self._here.function.__globals__.get(node.id)
        return None

    def _constant(self, node: ast.expr) -> Any:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            return operator.neg(node.operand.value)  # type: ignore[arg-type]
        return node.value if isinstance(node, ast.Constant) else None

    def _attribute(self, of: nn.Module, name: str) -> Any:
        if name in of._modules:
            return of._modules[name]
        value = vars(of).get(name)
        return value if isinstance(value, (list, tuple, dict)) and self._may_be_goal(AnyOf(value)) else None

    def _may_be_goal(self, found: Any) -> bool:
        if isinstance(found, (Each, AnyOf)):
            return any(item is self.goal or leads_to(item, self._below) for item in items_in(found.container))
        if isinstance(found, Wrapped):
            return True
        return found is self.goal or leads_to(found, self._below)


def refused_outside(where: str, name: str) -> CannotFollowError:
    return CannotFollowError(
        f"{where} uses {name!r}, a variable or a class attribute that holds a module of this model. A cut has modules "
        f"of its own, but would run the original there. Store it in an attribute of the module"
    )


def is_slot(found: Any) -> bool:
    return isinstance(found, types.MemberDescriptorType)


def from_outside(function: types.FunctionType) -> dict[str, Any]:
    """What a function uses that is neither its own nor a module of Python, a class or a function."""
    if function.__module__ == "torch.nn.utils.parametrize":  # which only asks which module it was written for
        return {}
    cells = zip(function.__code__.co_freevars, function.__closure__ or ())
    found = {name: cell.cell_contents for name, cell in cells if is_filled(cell)}
    codes = (function.__code__, *codes_in(function.__code__))
    names = {step.argval for code in codes for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    space = function.__globals__
    found.update((name, space[name]) for name in names if name in space)
    kinds = (types.ModuleType, type, types.BuiltinFunctionType, str, int, float, bool)
    return {
        name: value
        for name, value in found.items()
        if not isinstance(value, kinds) and not (isinstance(value, types.FunctionType) and name in names)
    }


def items_in(container: Any) -> Iterator[Any]:
    if isinstance(container, nn.Module):
        yield from container._modules.values()
    elif isinstance(container, dict):
        yield from container.values()
    elif isinstance(container, (list, tuple)):
        yield from container


def item_at(container: Any, key: Any) -> Any:
    try:
        if isinstance(container, nn.Module):
            names = list(container._modules)
            return container._modules[names[key] if isinstance(key, int) else key]
        return container[key]
    except (LookupError, TypeError):
        return AnyOf(container)


def is_natural(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value >= 0


def always_leaves(statements: list[ast.stmt]) -> bool:
    return bool(statements) and isinstance(statements[-1], (ast.Return, ast.Raise))


def wrapped_by(function: Any) -> tuple[str, Any] | None:
    """The name by which a decorated function calls the one inside of it, and that one."""
    inner = getattr(function, "__wrapped__", None)
    if inner is None:
        return None
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        with_value = [cell.cell_contents] if is_filled(cell) else []
        if with_value and with_value[0] is inner:
            return name, inner
    return None


def runs_in_turn(module: nn.Module) -> bool:
    """Whether a module is a plain `nn.Sequential`."""
    kind = type(module)
    own = "forward" in vars(module) or kind.__call__ is not nn.Module.__call__
    return kind.forward is nn.Sequential.forward and not own


def calls_of_graph(module: Any) -> list[str] | None:
    """The children that a module calls whose forward torch writes from a graph; None for any other module."""
    graph = getattr(module, "graph", None)
    if isinstance(graph, torch.fx.Graph) and type(module).__module__.startswith(("torch.fx.", "torch.export.")):
        return [str(node.target) for node in graph.nodes if node.op == "call_module"]
    return None


def has_own_call(module: nn.Module) -> bool:
    """Whether the class of a module overrides ``__call__``, but for those that torch writes from a graph."""
    return type(module).__call__ is not nn.Module.__call__ and calls_of_graph(module) is None
