"""What crosses the place where a model is divided, in words."""

from __future__ import annotations

import operator

from truncate._graph import Kind, Node, join
from truncate._plan.plan import Plan, Slot, Way


def is_clean(plan: Plan) -> bool:
    """Whether nothing crosses but the output of the place where the model is divided, in no mode."""
    for way in plan.ways:
        if way.entry is not None and not way.missing and not _is_clean(way):
            return False
    return all(map(is_clean, plan.children.values()))


def _is_clean(way: Way) -> bool:
    return way.entry is not None and way.entry.given in ([way.entry.site], [Slot(0)])


def unclean(plan: Plan, way: Way) -> str | None:
    """Why a forward cannot be entered with the output of its place alone, if it cannot."""
    if way.entry is None or _is_clean(way):
        return None
    lines = "".join(f"\n    {line}" for line in values_crossing(plan, way))
    mode = "".join(f" while {join(plan.path, flag)} is {value}" for flag, value in way.body.modes.items())
    return f"more than the output of the place where the model is divided would cross{mode}:{lines}"


def values_crossing(plan: Plan, way: Way) -> list[str]:
    """One line for each value with which a way goes on: what made it, and what needs it first."""
    lines: list[str] = []
    entry = way.entry
    if entry is None:
        return lines
    if entry.given and isinstance(entry.given[0], Slot):
        child = _entered(plan, way)
        lines += values_crossing(child, next(way for way in child.ways if way.entry and not way.missing))
    for value in entry.given:
        if not isinstance(value, Slot):
            lines.append(f"{_place(plan.path, value)}, {_use(plan, way, value)}")
    return lines


def _entered(plan: Plan, way: Way) -> Plan:
    """The plan of the child inside which a way is entered."""
    assert way.entry is not None
    return plan.children[plan.child_id(way.entry.site)]


def _use(plan: Plan, way: Way, value: Node) -> str:
    """What needs a value first."""
    for node in way.live:
        if value not in node.inputs():
            continue
        if way.entry is not None and node is way.entry.site and way.entry.inner is not None:
            child = _entered(plan, way)
            inputs = way.given[node].call.inputs
            names = [name.target for name, source in zip(inputs, node.inputs()) if source is value]
            for below in child.ways:
                taken = [inside for inside in below.live if inside.kind is Kind.INPUT and inside.target in names]
                if taken:
                    return _use(child, below, taken[0])
            continue
        return f"needed by {_place(plan.path, node)}"
    return "returned as it is" if plan.own else "handed on"


def _place(path: str, node: Node) -> str:
    """Where a value comes from, or is read: as one would write the target, if it is one."""
    if node.kind is Kind.INPUT:
        return f"the argument {node.target!r}" + (f" of {path!r}" if path else "")
    if node.kind is Kind.CHILD or node.name:
        return repr(join(path, node.name or node.target))
    if node.kind is Kind.ATTRIBUTE:
        return repr(join(path, node.target))
    sources = node.inputs()
    where = _place(path, sources[0]) if sources else "the forward of " + (repr(path) if path else "the model")
    if node.target is getattr:
        return f"the {node.args[1]} of {where}"
    if node.target is operator.getitem:
        return f"a part of {where}"
    name = getattr(node.target, "__name__", str(node.target))
    return f"{name}(...) of {where}"
