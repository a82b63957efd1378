"""What crosses the place where a model is divided, in words."""

from __future__ import annotations

import operator

from truncate._graph import Kind, Node, descend, join
from truncate._plan import Plan, Slot, Way


def refuse(plan: Plan, way: Way) -> str:
    """Why a forward cannot be entered with the output of its target alone."""
    lines = [f"    {line}" for line in values_crossing(plan, way)]
    if not lines:
        return "nothing that follows reads what comes before"
    return "more than the output of the target would cross:\n" + "\n".join(lines)


def values_crossing(plan: Plan, way: Way) -> list[str]:
    """One line for each value with which a way goes on: what made it, and what needs it first."""
    lines = []
    assert way.entry is not None
    for value in way.entry.given:
        if isinstance(value, Slot):
            child = plan.children[id(descend(plan.module, way.entry.site.target))]
            inside = next((w for w in child.ways if w.entry is not None and value.index < len(w.entry.given)), None)
            if inside is not None and value.index == 0:
                lines += values_crossing(child, inside)
            continue
        users = [node for node in way.live if value in node.inputs()]
        use = f", needed by {_place(plan.path, users[0])}" if users else ", handed out"
        lines.append(f"{_place(plan.path, value)}{use}")
    return lines


def _place(path: str, node: Node) -> str:
    """Where a value comes from, or is read: as one would write the target, if it is one."""
    if node.kind is Kind.INPUT:
        return f"the argument {node.target!r}" + (f" of {path!r}" if path else "")
    if node.kind is Kind.CHILD or node.name:
        return repr(join(path, node.name or node.target))
    if node.kind is Kind.ATTRIBUTE:
        return repr(join(path, node.target))
    sources = node.inputs()
    if node.target in (getattr, operator.getitem) and sources:
        what = "the shape" if node.args[1] == "shape" else "a part"
        return f"{what} of {_place(path, sources[0])}"
    name = getattr(node.target, "__name__", str(node.target))
    return f"{name} of {_place(path, sources[0])}" if sources else name
