"""What operations do besides returning a value: which change a tensor in place that others read.

Only asked where the answer matters: of operations whose value nobody reads, and of those that follow a tap.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from truncate._errors import TruncateError
from truncate._graph import (
    Body,
    Call,
    Kind,
    Node,
    descend,
    is_mode,
    join,
    memory_of,
    nodes_in,
    shares_memory_with,
    written,
)
from truncate._record import Forwards


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a call of a module does to its inputs, by their names."""

    written: frozenset[str]  # changed in place
    returned: frozenset[str]  # the result may share their memory
    state: bool = True  # it changes tensors of its own, which its next call reads


class Effects:
    """The effects of the forwards of one model."""

    def __init__(self, forwards: Forwards) -> None:
        self.forwards = forwards
        self._of: dict[Body, BodyEffects] = {}
        self._summaries: dict[tuple[int, str], Summary] = {}

    def of(self, module: nn.Module, path: str, body: Body) -> BodyEffects:
        if body not in self._of:
            self._of[body] = BodyEffects(self, module, path, body)
        return self._of[body]

    def summary(self, module: nn.Module, path: str, call: Call) -> Summary:
        """What a call does to its inputs; the worst for each of them if the forward cannot be followed."""
        key = (id(module), call.key)
        if key not in self._summaries:
            names = frozenset(node.target for node in call.inputs)
            self._summaries[key] = Summary(names, names)  # meanwhile, should it call itself
            self._summaries[key] = self._summarize(module, path, call, names)
        return self._summaries[key]

    def _summarize(self, module: nn.Module, path: str, call: Call, names: frozenset[str]) -> Summary:
        if any(map(_is_foreign, (*module._forward_pre_hooks.values(), *module._forward_hooks.values()))):
            return Summary(names, names)  # they may do anything to what they are given
        try:
            bodies = self.forwards.bodies(module, path, call)
        except TruncateError:
            bodies = []
        if not bodies or any(body.failure or body.open_end for body in bodies):
            observed = self.forwards.observed(module)
            if observed is None:
                return Summary(names, names)
            return Summary(names if observed.writes else frozenset(), names if observed.shares else frozenset())
        changed: set[str] = set()
        returned: set[str] = set()
        for body in bodies:
            effects = self.of(module, path, body)
            changed |= effects.inputs_among(target for node in body.nodes for target in effects.written(node))
            returned |= effects.inputs_among(nodes_in(body.result))
        state = any(effects.changes_state for effects in (self.of(module, path, body) for body in bodies))
        return Summary(frozenset(changed), frozenset(returned), state)


def _is_foreign(hook: Any) -> bool:
    """Whether a hook is not one of torch's own, such as those of weight norm, which leave alone what they are given."""
    return not getattr(hook, "__module__", "").startswith("torch.")


class BodyEffects:
    """Which values of one body may share memory, and which operations write on them."""

    def __init__(self, effects: Effects, module: nn.Module, path: str, body: Body) -> None:
        self._effects = effects
        self._module = module
        self._path = path
        self._body = body

    def written(self, node: Node) -> list[Node]:
        """The nodes whose values a node changes in place."""
        if node.kind is Kind.ASSIGN:
            return [node]
        if node.kind is Kind.CHILD:
            return self._arguments(node, lambda summary: summary.written)
        return written(node)

    def _arguments(self, node: Node, which: Callable[[Summary], frozenset[str]]) -> list[Node]:
        if node.observed is not None:
            every = frozenset(map(str, range(len(node.inputs()))))
            none: frozenset[str] = frozenset()
            seen = Summary(every if node.observed.writes else none, every if node.observed.shares else none)
            return node.inputs() if which(seen) else []
        call = self._effects.forwards.call(self._module, self._path, node)
        names = which(self.child_summary(node))
        return [source for source, given in zip(node.inputs(), call.inputs) if given.target in names]

    @functools.cached_property
    def _groups(self) -> dict[Node, Node]:
        """Values that may share memory form a group, which is known by one of its members."""
        groups: dict[Node, Node] = {}
        held: dict[str, Node] = {}

        def find(node: Node) -> Node:
            while groups[node] is not node:
                node = groups[node]
            return node

        for node in self._body.nodes:
            groups[node] = node
            shared: list[Node] = []
            if node.kind in (Kind.ATTRIBUTE, Kind.ASSIGN) and not is_mode(node):
                shared += [held.setdefault(memory, node) for memory in (node.target, self._memory_of(node))]
            if node.kind is Kind.CHILD:
                shared += self._arguments(node, lambda summary: summary.returned)
            else:
                shared += shares_memory_with(node)
            for source in shared:
                if not is_mode(source):
                    groups[find(node)] = find(source)
        return {node: find(node) for node in groups}

    def _memory_of(self, node: Node) -> Any:
        """What tensors of the module have in common that share memory, whatever their names."""
        holder, _, name = node.target.rpartition(".")
        value = self._body.constants.get(node.target)
        if value is None and not node.args:
            module = descend(self._module, holder)
            value = {**module._buffers, **module._parameters}.get(name, vars(module).get(name))
        return memory_of(value) if isinstance(value, torch.Tensor) else node.target

    @property
    def changes_state(self) -> bool:
        """Whether the forward changes a tensor that its module holds."""
        for node in self._body.nodes:
            if node.kind is Kind.CHILD and self.child_summary(node).state:
                return True
            if any(target.kind in _HELD for target in self.written(node)):
                return True
        return False

    def child_summary(self, node: Node) -> Summary:
        call = self._effects.forwards.call(self._module, self._path, node)
        return self._effects.summary(descend(self._module, node.target), join(self._path, node.target), call)

    def inputs_among(self, nodes: Iterable[Node]) -> set[str]:
        """The names of the inputs that may share memory with one of the nodes."""
        groups = {self._groups[node] for node in nodes}
        return {node.target for node in self._body.inputs if self._groups[node] in groups}

    def exposes(self, value: Node) -> bool:
        """Whether the caller of this forward holds memory of a value by another way: an argument, or the result."""
        others = {self._groups[node] for node in [*self._body.inputs, *nodes_in(self._body.result)]}
        return self._groups[value] in others

    def needed_writes(
        self,
        live: set[Node],
        reads: dict[Node, int],
        own: bool,
        writes: bool,
        nodes: list[Node],
        elsewhere: Iterable[Node] = (),
    ) -> list[Node]:
        """Those among some nodes, outside `live`, that change something in place which is read afterwards.

        By a live node, or as one of `reads`: what of these values nodes before an index write is read.
        `own`: the result of the forward is read too; `writes`: its caller reads what it changes in its arguments.
        `elsewhere`: tensors of the module that another piece of it reads, now or in the next call.
        """
        dead = [node for node in nodes if node not in live and node.kind not in _SOURCES]
        return [*self.read_writers(dead, live, reads, own, writes, elsewhere), *_leaving(dead, live)]

    def read_writers(
        self,
        nodes: Iterable[Node],
        live: set[Node],
        reads: dict[Node, int],
        own: bool,
        writes: bool,
        elsewhere: Iterable[Node] = (),
    ) -> list[Node]:
        """Those among some nodes that change something in place which is read afterwards, as for `needed_writes`."""
        called = {id(descend(self._module, node.target)) for node in live if node.kind is Kind.CHILD}
        read = {self._memory_of(node) for node in live if node.kind is Kind.ATTRIBUTE and not is_mode(node)}
        again = [
            n
            for n in nodes
            if n.kind is Kind.CHILD and (id(descend(self._module, n.target)) in called or self._holds(n, read))
        ]
        stateful = [node for node in again if node not in live and self.child_summary(node).state]
        writers = [(node, targets) for node in nodes if (targets := self.written(node))]
        if not writers:
            return stateful
        groups = self._groups
        last_read: dict[Node, int] = {}
        for node, index in reads.items():
            last_read[groups[node]] = max(last_read.get(groups[node], -1), index)
        # Tensors of the module: what is written there is read in the next call.
        held = {groups[node] for node in elsewhere}
        for node in live:
            for source in node.inputs():
                last_read[groups[source]] = max(last_read.get(groups[source], -1), node.index)
            if node.kind is Kind.ATTRIBUTE and not is_mode(node):
                held.add(groups[node])
            elif node.kind is Kind.CHILD:
                below = f"{node.target}."
                held.update(groups[n] for n in self._body.nodes if n.kind in _HELD and n.target.startswith(below))
        end = len(self._body.nodes)
        if own:
            last_read.update((groups[node], end) for node in nodes_in(self._body.result))
        if writes:
            last_read.update((groups[node], end) for node in self._body.inputs)
        return stateful + [
            node
            for node, targets in writers
            if any(last_read.get(groups[t], -1) > node.index or groups[t] in held for t in targets)
        ]

    def _holds(self, call: Node, memory: set[Any]) -> bool:
        """Whether a child holds a tensor whose memory is among these."""
        child = descend(self._module, call.target)
        return bool(memory) and not memory.isdisjoint(map(memory_of, (*child.parameters(), *child.buffers())))

    def overwritten_later(self, value: Node, moment: int, live: Iterable[Node]) -> bool:
        """Whether a live node from the index `moment` on may change a value in place."""
        later = [node for node in live if node.index >= moment and node.kind not in _SOURCES]
        return any(self._groups[target] is self._groups[value] for node in later for target in self.written(node))

    def changed_by(self, nodes: Iterable[Node]) -> set[Node]:
        """The groups of values that share memory of which some nodes change one in place."""
        targets = [target for node in nodes if node.kind not in _SOURCES for target in self.written(node)]
        return {self._groups[target] for target in targets}

    def group(self, node: Node) -> Node:
        """One node that stands for all whose values may share memory with that of this one."""
        return self._groups[node]


def _leaving(nodes: Iterable[Node], live: set[Node]) -> list[Node]:
    """The calls among some nodes that change an object which a live node gets later."""
    changing = [(node, node.observed.changed) for node in nodes if node.observed is not None and node.observed.changed]
    if not changing:
        return []
    last_given: dict[Node, int] = {}
    for node in live:
        for source in node.inputs():
            last_given[source] = max(last_given.get(source, -1), node.index)
    return [node for node, changed in changing if any(last_given.get(one, -1) > node.index for one in changed)]


_HELD = frozenset((Kind.ATTRIBUTE, Kind.ASSIGN))
_SOURCES = frozenset((Kind.INPUT, Kind.ATTRIBUTE))
