"""What crosses where a model is divided, in words."""

from __future__ import annotations

import operator

from truncate._graph import Kind, Node, join
from truncate._plan.plan import Branch, Plan, Slot


def is_clean(plan: Plan) -> bool:
    """Whether nothing crosses, in any mode, but the output of the layer after which the model is divided."""
    for branch in plan.branches:
        if branch.entry is not None and not branch.missing and not _is_clean(branch):
            return False
    return all(map(is_clean, plan.children.values()))


def _is_clean(branch: Branch) -> bool:
    return branch.entry is not None and branch.entry.given in ([branch.entry.site], [Slot(0)])


def unclean(plan: Plan, branch: Branch) -> str | None:
    """Why a forward cannot be entered with the output of one layer alone, if it cannot."""
    if branch.entry is None or _is_clean(branch):
        return None
    lines = "".join(f"\n    {line}" for line in values_crossing(plan, branch))
    mode = "".join(f" while {join(plan.path, flag)} is {value}" for flag, value in branch.graph.modes.items())
    return f"more than the output of the layer after which the model is divided would cross{mode}:{lines}"


def values_crossing(plan: Plan, branch: Branch) -> list[str]:
    """One line for each value with which a branch is entered: what made it, and what needs it first."""
    lines: list[str] = []
    entry = branch.entry
    if entry is None:
        return lines
    if entry.given and isinstance(entry.given[0], Slot):
        child = _entered(plan, branch)
        lines += values_crossing(
            child, next(branch for branch in child.branches if branch.entry and not branch.missing)
        )
    for value in entry.given:
        if not isinstance(value, Slot):
            lines.append(f"{_described(plan.path, value)}, {_use(plan, branch, value)}")
    return lines


def _entered(plan: Plan, branch: Branch) -> Plan:
    """The plan of the child inside which a branch is entered."""
    assert branch.entry is not None
    return plan.children[plan.child_id(branch.entry.site)]


def _use(plan: Plan, branch: Branch, value: Node) -> str:
    """What needs a value first."""
    for node in branch.live:
        if value not in node.inputs():
            continue
        if branch.entry is not None and node is branch.entry.site and branch.entry.inner is not None:
            child = _entered(plan, branch)
            inputs = branch.given[node].call.inputs
            names = [name.target for name, source in zip(inputs, node.given()) if source is value]
            for below in child.branches:
                taken = [inside for inside in below.live if inside.kind is Kind.INPUT and inside.target in names]
                if taken:
                    return _use(child, below, taken[0])
            continue
        return f"needed by {_described(plan.path, node)}"
    return "returned as it is" if plan.own else "handed on"


def _described(path: str, node: Node) -> str:
    """Where a value comes from or is read, written as a target where it is one."""
    if node.kind is Kind.INPUT:
        return f"the argument {node.target!r}" + (f" of {path!r}" if path else "")
    if node.kind is Kind.CHILD or node.name:
        return repr(join(path, node.name or node.target))
    if node.kind is Kind.ATTRIBUTE:
        return repr(join(path, node.target))
    sources = node.inputs()
    where = _described(path, sources[0]) if sources else "the forward of " + (repr(path) if path else "the model")
    if node.target is getattr:
        return f"the {node.args[1]} of {where}"
    if node.target is operator.getitem:
        return f"a part of {where}"
    name = getattr(node.target, "__name__", str(node.target))
    return f"{name}(...) of {where}"
