"""From what a cut leaves of a forward to Python source, as a person would write it."""

from __future__ import annotations

import builtins
import collections
import dataclasses
import functools
import inspect
import operator
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F

from truncate._build.names import Names, base_name, clone, numbered, takes_apart
from truncate._graph import (
    INPLACE,
    Kind,
    Node,
    called,
    is_dataclass_value,
    is_made_for_child,
    is_tensor,
    items_of,
    name_of,
    nodes_in,
)
from truncate._python import while_there

_BINARY_SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
    "and_": "&", "or_": "|", "xor": "^", "lshift": "<<", "rshift": ">>",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "is_": "is", "is_not": "is not",
}  # fmt: skip
_UNARY_SIGNS = {"neg": "-", "pos": "+", "invert": "~", "not_": "not "}


class Tap:
    """A value that is no node's: a copy, a capture inside the child that a node calls, or what such a child needs."""


@dataclasses.dataclass(frozen=True, eq=False)
class Copy:
    """A value (nested nodes and taps) as it is once all nodes before the index `moment` have run.

    It is a copy; or, if there is a `replaced`, that node is a copy from there on, and the value stays what it was.
    """

    value: Any
    moment: int
    kept: Tap
    replaced: Node | None = None


class Writer:
    """Writes one branch of a forward. `spell` gives the expression for what the module holds at a path."""

    def __init__(
        self,
        names: Names,
        spell: Callable[[str], str],
        inputs: dict[str, str],
        reads: dict[Node, list[Any]] | None = None,
        given: dict[Node | Tap, str] | None = None,
        in_no_grad: bool = False,
    ) -> None:
        self.names = names
        self.lines: list[str] = []
        self._spell = spell
        self._inputs = inputs  # name of an input -> the expression for it
        self._reads = reads or {}  # call of a rebuilt child -> the arguments that it still takes, by position
        self._used = {*names.globals, *(given or {}).values()}
        self._expressions: dict[Node | Tap, str] = {**(given or {})}  # values that came as arguments have one already
        self._holders = {name: value for value, name in self._expressions.items()}  # whose value a variable holds now
        self._indent = ""
        self._context = ""
        self._with_gradients = "enable_grad()" if in_no_grad else ""  # the block for copies, which have those of values

    # -- values ----------------------------------------------------------------------------------------------------

    def value(self, value: Any) -> str:
        """An expression for nested nodes and constants."""
        kind = type(value)
        if kind in (Node, Tap):
            return self._expressions[value]
        if kind in (tuple, torch.Size):
            return f"({', '.join(map(self.value, value))}{',' if len(value) == 1 else ''})"
        if kind is list:
            return f"[{', '.join(map(self.value, value))}]"
        if kind is dict:
            return f"{{{', '.join(f'{self.value(key)}: {self.value(item)}' for key, item in value.items())}}}"
        if kind is slice:
            parts = map(self.value, (value.start, value.stop, value.step))
            return f"{self.names.builtin(slice)}({', '.join(parts)})"
        if is_dataclass_value(value):
            fields = {f: getattr(value, f) for f in value.__dataclass_fields__ if value.__dataclass_fields__[f].init}
            return f"{self.names.of(kind)}({self._arguments((), fields)})"
        if issubclass(kind, (dict, tuple, list)) and next(nodes_in(value), None) is not None:
            if hasattr(kind, "_fields"):
                return f"{self.names.of(kind)}({', '.join(map(self.value, value))})"
            plain = dict(value) if issubclass(kind, dict) else list(value)
            return f"{self.names.of(kind)}({self.value(plain)})"
        return self.names.constant(value)

    def _operand(self, value: Any) -> str:
        text = self.value(value)
        return f"({text})" if text.startswith("-") else text

    def _holder(self, value: Any) -> str:
        """What stands before the dot of an attribute."""
        return f"({self.value(value)})" if type(value) in (int, float) else self.value(value)

    def _index(self, value: Any) -> str:
        """What stands between the brackets of an index."""
        if type(value) is tuple and value:
            return ", ".join(map(self._index_item, value)) + ("," if len(value) == 1 else "")
        return self._index_item(value)

    def _index_item(self, value: Any) -> str:
        if type(value) is not slice:
            return self.value(value)
        start, stop, step = ("" if part is None else self.value(part) for part in (value.start, value.stop, value.step))
        return f"{start}:{stop}" + (f":{step}" if step else "")

    def _arguments(self, args: Iterable[Any], kwargs: dict[str, Any]) -> str:
        named = (self.names.argument(name, self.value(value)) for name, value in kwargs.items())
        return ", ".join([*map(self.value, args), *named])

    def operation(self, node: Node) -> str:
        """The expression that computes a node."""
        if node.kind is Kind.CHILD:
            given = self._reads.get(node)
            arguments = self._arguments(node.args, node.kwargs) if given is None else ", ".join(map(self.value, given))
            return f"{self._spell(node.target)}({arguments})"
        if node.kind is Kind.METHOD:
            method = self.names.attribute(self._holder(node.args[0]), node.target)
            return f"{method}({self._arguments(node.args[1:], node.kwargs)})"
        if node.kind is Kind.ATTRIBUTE:
            return self._spell(node.target)
        name = name_of(node)
        if getattr(operator, name, None) is node.target:
            if name in _BINARY_SIGNS:
                return f"{self._operand(node.args[0])} {_BINARY_SIGNS[name]} {self._operand(node.args[1])}"
            if name in _UNARY_SIGNS:
                return f"{_UNARY_SIGNS[name]}{self._operand(node.args[0])}"
            if name == "getitem":
                return f"{self.value(node.args[0])}[{self._index(node.args[1])}]"
            if name == "abs":
                return f"{self.names.builtin(abs)}({self.value(node.args[0])})"
        if node.target is getattr:
            return self.names.attribute(self._holder(node.args[0]), node.args[1])
        if is_made_for_child(node):
            return self.value(node.args[0])
        return f"{self._function(node.target)}({self._arguments(node.args, _without_defaults(node))})"

    def _function(self, function: Any) -> str:
        name = called(function)
        if isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
            path = str(function).replace("::", ".").split(".")
            return functools.reduce(self.names.attribute, path, f"{self.names.torch}.ops")
        for module, prefix in ((F, self.names.functional), (torch, self.names.torch)):
            if getattr(module, name, None) is function:
                return self.names.attribute(prefix, name)
        return self.names.builtin(function) if getattr(builtins, name, None) is function else self.names.of(function)

    # -- statements ------------------------------------------------------------------------------------------------

    def write(self, nodes: list[Node], bundles: dict[Node, list[Node | Tap]], copies: list[Copy], result: Any) -> None:
        """Writes all statements, and returns nested nodes and taps.

        `bundles` says for each call of a rebuilt child what it returns, in order: the node for the child's own
        output, a tap for a capture.
        """
        last_use: dict[Node | Tap, int] = {}
        for node in nodes:
            last_use.update(dict.fromkeys(_values_in(self._reads.get(node, (node.args, node.kwargs))), node.index))
        for copy in copies:
            for value in _values_in(copy.value):
                last_use[value] = max(last_use.get(value, -1), copy.moment - 1)
        last_use |= dict.fromkeys(_values_in(result), nodes[-1].index + 1 if nodes else 0)
        dying: dict[int, list[Node | Tap]] = {}
        for value, index in last_use.items():
            dying.setdefault(index, []).append(value)
        assigned = {node.target for node in nodes if node.kind is Kind.ASSIGN}
        copies = sorted(copies, key=lambda copy: copy.moment)
        folded = _folded(nodes, {value for copy in copies for value in _values_in(copy.value)} | {*_values_in(result)})
        dead: list[Node | Tap] = []
        for node in nodes:
            while copies and copies[0].moment <= node.index:
                self._copy(copies.pop(0))
            if node in self._expressions:
                pass  # given, or taken apart with the first item of its value
            elif node.kind is Kind.INPUT:
                self._expressions[node] = self._inputs[node.target]
                if self._inputs[node.target].isidentifier():
                    self._holders[self._inputs[node.target]] = node
            elif node.kind is Kind.ATTRIBUTE and node.target not in assigned and not node.args:
                self._expressions[node] = self._spell(node.target)
            elif node in folded:
                self._expressions[node] = self.operation(node)
                dead += [value for value in dying.get(node.index, ()) if self._variable_of(value)]
            else:
                self._block(node.context)
                dead += [value for value in dying.get(node.index, ()) if self._variable_of(value)]
                if node.unpacked:
                    self._unpack(node, nodes)
                elif node in bundles:
                    self._call_bundle(node, [value if value in last_use else None for value in bundles[node]])
                else:
                    self._statement(node, dead, node in last_use)
                gone = [name for value in dead if (name := self._variable_of(value))]
                if gone and node is not nodes[-1] and not all(type(v) is Node and _about_sizes(v) for v in dead):
                    self._line(f"del {', '.join(gone)}")
                dead = []
        for copy in copies:
            self._copy(copy)
        self._block("")
        self._return(self.value(result))

    def _line(self, text: str) -> None:
        self.lines.append(self._indent + text)

    def _block(self, context: str) -> None:
        """Opens or closes the ``with`` block in which the forward ran what follows."""
        if context != self._context:
            self._indent = ""
            if context:
                blocks = (f"torch.{block}".replace("torch.", f"{self.names.torch}.") for block in context.split(" | "))
                self._line(f"with {', '.join(blocks)}:")
                self._indent = "    "
            self._context = context

    def _variable_of(self, value: Node | Tap) -> str | None:
        """The variable that holds a value, unless another value has taken it over."""
        name = self._expressions.get(value, "")
        return name if self._holders.get(name) is value else None

    def _new_variable(self, base: str, value: Node | Tap) -> str:
        taken = {*self._inputs.values(), *self._used}
        name = next(n for n in numbered(base) if n not in taken and not self.names.taken(n))
        self._used.add(name)
        self.names.variables.add(name)
        self._hold(name, value)
        return name

    def _hold(self, name: str, value: Node | Tap) -> None:
        self._holders[name] = value
        self._expressions[value] = name

    def _statement(self, node: Node, dead: list[Node | Tap], read: bool) -> None:
        if node.target is operator.setitem:
            target, index, value = node.args
            self._line(f"{self.value(target)}[{self._index(index)}] = {self.value(value)}")
        elif node.kind is Kind.ASSIGN:
            path, _, name = node.target.rpartition(".")
            self._line(self.names.assigned(self._spell(path), name, self.value(node.args[0])))
        elif node.target in INPLACE.values():
            # A number is not changed by `+=`, so the old value keeps its variable if it is still read.
            target, value = map(self.value, node.args)
            name = self._name(node, dead)
            if name != target:
                self._line(f"{name} = {target}")
            self._line(f"{name} {_INPLACE_SIGNS[node.target]} {value}")
        else:
            expression = self.operation(node)
            self._line(f"{self._name(node, dead)} = {expression}" if read else expression)

    def _name(self, node: Node, dead: list[Node | Tap]) -> str:
        """The variable for a result: that of the first argument where the value flows on, as in ``x = self.fc(x)``."""
        first = node.args[0] if node.args else None
        own_name = takes_apart(node) or _about_sizes(node) or type(first) is not Node or _about_sizes(first)
        if not own_name and first in dead:
            name = self._expressions[first]
            self._hold(name, node)
            return name
        return self._new_variable(base_name(node), node)

    def _unpack(self, first: Node, nodes: list[Node]) -> None:
        """``a, _, c = value``: Python checks the number of items, as it did in the forward."""
        start = first.index - first.args[1]
        items = {
            n.args[1]: n for n in nodes if n.unpacked and n.args[0] is first.args[0] and n.index - n.args[1] == start
        }
        names = [
            self._new_variable(base_name(items[i]), items[i]) if i in items else "_" for i in range(first.unpacked)
        ]
        self._line(f"{', '.join(names)}{',' * (len(names) == 1)} = {self.value(first.args[0])}")

    def _call_bundle(self, node: Node, outputs: list[Node | Tap | None]) -> None:
        call = self.operation(node)
        names = ["_" if value is None else self._new_variable(base_name(node), value) for value in outputs]
        self._line(f"{', '.join(names)} = {call}" if names else call)

    def _copy(self, copy: Copy) -> None:
        context = copy.value.context if type(copy.value) is Node else self._context
        self._block(self._with_gradients if self._with_gradients or "no_grad()" in context else context)
        replaced = copy.replaced
        copied: Any = copy.value if replaced is None else replaced
        name, expression = self.value(copied), self._copied(copied)
        if replaced is not None:  # the value keeps its variable
            self._hold(self.value(copy.value), copy.kept)
        if copied is copy.value:
            new = f"{name}_copy" if name.isidentifier() else "copy"
            name = self._new_variable(new, copy.kept if replaced is None else replaced)
        self._line(f"{name} = {expression}")

    def _copied(self, value: Any) -> str:
        certain = type(value) is Node and is_tensor(value)
        return f"{self.value(value)}.clone()" if certain else f"{self.names.of(clone)}({self.value(value)})"

    def renew(self, value: Node | Tap) -> None:
        """Writes a statement that replaces a value that came as an argument by a copy."""
        self._block(self._with_gradients)
        self._line(f"{self.value(value)} = {self._copied(value)}")

    def _return(self, value: str) -> None:
        """``return``, of the last expression itself where it would only be named to be returned."""
        head, equals, expression = self.lines[-1].partition(" = ") if self.lines else ("", "", "")
        if equals and head == value:
            self.lines[-1] = f"return {expression}"
        else:
            self.lines.append(f"return {value}")


def _folded(nodes: list[Node], needed: set[Node | Tap]) -> set[Node]:
    """Operations that are written inside the guard of their value: ``torch._assert(x.dim() == 4, ...)``."""
    if all(node.target is not torch._assert for node in nodes):
        return set()
    uses = collections.Counter(value for node in nodes for value in _values_in((node.args, node.kwargs)))
    folded: set[Node] = set()
    for node, user in zip(nodes[-2::-1], nodes[:0:-1]):
        asked = user in folded or user.target is torch._assert
        if asked and uses[node] == 1 and node in user.args and node not in needed and node.context == user.context:
            is_part = node.target in (_PARTS_BY_METHOD if node.kind is Kind.METHOD else _PARTS)
            if is_part or (node.target in _COMPARING and user.target is torch._assert):
                folded.add(node)
    return folded


_PARTS = (len, list, getattr, operator.getitem, isinstance)
_PARTS_BY_METHOD = ("dim", "size", "numel")
_COMPARING = (
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.is_, operator.is_not
)  # fmt: skip
_INPLACE_SIGNS = {
    function: (_BINARY_SIGNS.get(name[1:]) or _BINARY_SIGNS[f"{name[1:]}_"]) + "=" for name, function in INPLACE.items()
}


def _values_in(value: Any) -> Iterable[Node | Tap]:
    if type(value) in (Node, Tap):
        yield value
    else:
        for item in items_of(value):
            yield from _values_in(item)


def _about_sizes(node: Node) -> bool:
    """Whether a node reads or computes plain numbers: those are no targets, and have no name."""
    return node.kind in (Kind.FUNCTION, Kind.METHOD) and not node.name


@while_there
def _defaults(function: Any) -> dict[str, Any]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {name: p.default for name, p in parameters.items() if type(p.default) in _PLAIN}


_PLAIN = (type(None), bool, int, float, str)


def _without_defaults(node: Node) -> dict[str, Any]:
    """The keyword arguments that say something: torch passes on all of them, those left out too."""
    known = type(node.target) in (types.FunctionType, types.BuiltinFunctionType) and node.kwargs
    defaults = _defaults(node.target) if known else {}
    return {
        name: value
        for name, value in node.kwargs.items()
        if not (name in defaults and type(defaults[name]) is type(value) and defaults[name] == value)
    }
