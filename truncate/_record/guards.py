"""The assumptions under which a recording holds, and the guards that verify them whenever the result runs."""

from __future__ import annotations

import abc
import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import torch

from truncate._follow import Traced, TracedBool
from truncate._graph import Kind, Node, negated, pairs
from truncate._python import source_line, users_frame


@dataclasses.dataclass(frozen=True)
class Assumption:
    """Something that was fixed when a forward was recorded on an example."""

    module: str  # path of the module whose forward it is
    file: str
    line: int
    code: str  # the line of source
    what: str  # what was fixed
    value: Any
    content: bool = False  # whether it depends on the content of a tensor, and not only on its shape

    def __str__(self) -> str:
        where = f"{self.file}, line {self.line}, in the forward of {self.module or 'the model itself'}"
        return f"{self.what} {self.value!r}: {self.code} ({where})"


class Guards(abc.ABC):
    """The part of a recording that lists assumptions, and writes guards for them into the graph."""

    path: str  # of the module whose forward is recorded
    asks_for_none: bool  # whether the forward may compare with None what children return
    compares_bools: bool  # whether the forward may compare bools by `is`, which needs real ones
    fixes_numbers: bool  # whether every traced number is fixed at once

    @property
    @abc.abstractmethod
    def node_count(self) -> int:
        """How many nodes the graph has so far."""

    def __init__(self) -> None:
        super().__init__()
        self.assumptions: list[tuple[int, Assumption]] = []  # with the index in the graph at which each was made
        self._ranks: set[Node] = set()

    @abc.abstractmethod
    def node(self, kind: Kind, target: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Node:
        """Adds a node to the graph."""

    @abc.abstractmethod
    def lower(self, value: Any) -> Any:
        """Replaces values by their nodes."""

    def assert_holds(self, condition: Any, holds: bool, text: str) -> None:
        """The forward has an assertion of its own, by ``assert`` or ``if: raise``, which is kept."""
        lowered = self.lower(condition)
        said = lowered if holds else self.node(Kind.FUNCTION, *negated(lowered))
        self.node(Kind.FUNCTION, torch._assert, (said, text))

    def fix(self, value: Traced) -> None:
        """Control flow, or code that cannot be seen, depends on a traced number."""
        content = _reads_content(value._node)
        if issubclass(type(value), TracedBool):
            self.guard_value(value._node, value.real_value, "a comparison was", content=content)
        else:
            node = self.node(Kind.FUNCTION, operator.eq, (value._node, value.real_value))
            self.guard_value(node, True, "a number was", value.real_value, content=content)

    def guard_equal(self, lazy: Callable[[], Node], value: Any, what: str) -> None:
        node = self.node(Kind.FUNCTION, operator.eq, (lazy(), value))
        self.guard_value(node, True, what, value, decides=False)

    def guard_rank(self, tensor: Node, rank: int) -> None:
        """Python may unpack a shape unseen, so it must have as many dimensions as on the example."""
        if tensor not in self._ranks:
            self._ranks.add(tensor)
            dims = self.node(Kind.METHOD, "dim", (tensor,))
            self._guard(operator.eq, dims, rank, f"{rank} dimensions here")

    def guard_items(self, container: Node, value: Any, decides: bool = False) -> None:
        """Python may iterate over the items, or ask for the keys of a dict, unseen: they must be as on the example."""
        ask, found, text = (list, list(value), "keys") if isinstance(value, dict) else (len, len(value), "items")
        guard = self._guard(operator.eq, self.node(Kind.FUNCTION, ask, (container,)), found, f"{found} {text} here")
        guard.decides = decides

    def guard_structure(self, node: Node, value: Any, text: str, depth: int = 2) -> None:
        """Python may ask unseen for the structure of a child's result: the number of items, a text, whether it is None.

        `text` describes the value. There is a guard for None only where the forward may ask for it.
        """
        if value is None and self.asks_for_none:
            guard = self._guard(operator.is_, node, None, f"{text} is None")
            guard.decides = node.kind is Kind.CHILD  # nothing else reads the result of the call
        elif isinstance(value, (str, bytes, torch.dtype)):
            self._guard(operator.eq, node, value, f"{text} == {value!r}")
        elif isinstance(value, dict):
            keys = self.node(Kind.FUNCTION, list, (node,))
            self._guard(operator.eq, keys, list(value), f"list({text}) == {list(value)}")
        elif isinstance(value, (tuple, list)):
            kind = tuple if isinstance(value, tuple) else list  # a tensor may have as many rows
            self._guard(isinstance, node, kind, f"a {kind.__name__} in {text}")
            self._guard(operator.eq, self.node(Kind.FUNCTION, len, (node,)), len(value), f"len({text}) == {len(value)}")
        elif isinstance(value, torch.Tensor) and node.kind is not Kind.CHILD and self.asks_for_none:
            self._guard(operator.is_not, node, None, f"{text} is not None")
        for key, item in pairs(value) if depth and isinstance(value, (tuple, list, dict)) else ():
            if not isinstance(item, (int, float)) and (self.asks_for_none or not isinstance(item, torch.Tensor)):
                part = self.node(Kind.FUNCTION, operator.getitem, (node, key))
                self.guard_structure(part, item, f"{text}[{key!r}]", depth - 1)

    def _guard(self, compare: Callable[[Any, Any], Any], node: Node, value: Any, text: str) -> Node:
        condition = self.node(Kind.FUNCTION, compare, (node, value))
        return self.node(
            Kind.FUNCTION,
            torch._assert,
            (condition, f"cut on an example with {text} (with live=True, nothing is fixed)"),
        )

    def guard_value(
        self, node: Node, holds: bool, what: str, value: Any = None, content: bool = False, decides: bool = True
    ) -> None:
        assumption = self.assume(what, holds if value is None else value, content)
        text = f"unlike the example that this was cut on (with live=True, nothing is fixed): {assumption}"
        condition = node if holds else self.node(Kind.FUNCTION, *negated(node))
        self.node(Kind.FUNCTION, torch._assert, (condition, text)).decides = decides

    def assume(self, what: str, value: Any, content: bool = False) -> Assumption:
        frame = users_frame()
        code = source_line(frame.f_code.co_filename, frame.f_lineno)
        made = Assumption(self.path, frame.f_code.co_filename, frame.f_lineno, code, what, value, content)
        self.assumptions.append((self.node_count, made))
        return made


def _reads_content(node: Node) -> bool:
    """Whether a number comes from the content of a tensor, and not from its shape."""
    if node.kind is Kind.METHOD and node.target == "item":
        return True
    return node.kind is Kind.FUNCTION and any(map(_reads_content, node.inputs()))
