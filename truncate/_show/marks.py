"""What a cut does with each layer of a drawing, and what a module that was cut returns."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from typing import Any

from torch import nn

from truncate._build import Truncated, how_rebuilt
from truncate._errors import TruncateError
from truncate._graph import Call, Kind, Node, descend, join
from truncate._live import Dropped
from truncate._plan import LivePlan, Plan
from truncate._record import Traces
from truncate._show.tree import Mark, TreeNode, grown
from truncate._target import Target, TargetPaths


def mark_cut(root: TreeNode, plan: Plan, targets: dict[str, Target], cut: nn.Module) -> None:
    """Marks what a plan keeps, and what it returns; `targets`: by where each stands in the result."""
    paths = [target.path for target in targets.values()]
    kept = set(_kept(plan, "", cut, paths))
    _mark_returned(root, {tag: join(target.path, target.operation or "") for tag, target in targets.items()})
    given = {target.path for target in targets.values() if target.before and target.is_module}

    def mark(item: TreeNode, whole: bool) -> Mark:
        whole = whole or item.path in kept
        inside = {mark(inner, whole) for inner in item.inside} or {Mark.KEPT if whole else Mark.DROPPED}
        if inside <= {Mark.KEPT, Mark.RETURNED}:
            found = Mark.KEPT
        else:
            found = Mark.DROPPED if inside == {Mark.DROPPED} else Mark.PARTLY
        is_returned = item.returned_as and item.path not in given
        item.mark = Mark.RETURNED if is_returned else found
        return item.mark

    mark(root, False)
    found = {item.path: item for item in root.walk()}
    for rebuilt in plan.rebuilt():  # followed is the rule, and not said
        how = how_rebuilt(rebuilt)
        if how != "followed" and rebuilt.path in found:
            item = found[rebuilt.path]
            item.notes = f"{item.notes}, {how}" if item.notes else how


def mark_whole(root: TreeNode, tags: list[str]) -> None:
    """Marks a model of which nothing is dropped."""
    for item in root.walk():
        item.mark = Mark.KEPT
    _mark_returned(root, dict.fromkeys(tags, ""))
    root.mark = Mark.RETURNED


def _kept(plan: Plan, path: str, cut: nn.Module, targets: list[str]) -> Iterator[str]:
    """The paths of what a plan keeps whole; `cut`: its module, in which a live part holds what is left of it."""
    if isinstance(plan, LivePlan):
        for below, module in descend(cut, path).named_modules(remove_duplicate=False):
            reached = join(path, below)
            is_left = any(target.startswith(f"{reached}.") or not reached for target in targets)  # before its end
            if not is_left and not any(isinstance(inner, Dropped) for inner in module.modules()):
                yield reached
    for branch in plan.branches:
        for node in branch.live if not branch.missing else ():
            if node.kind is Kind.CHILD:
                below = plan.child_of(node)
                reached = join(path, node.target)
                yield from (reached,) if below is None else _kept(below, reached, cut, targets)
            elif node.name:
                yield join(path, node.name)


def _mark_returned(root: TreeNode, paths: dict[str, str]) -> None:
    """Writes at some targets where they stand in the result; `paths`: by where that is."""
    found = {item.path: item for item in root.walk()}
    for tag, path in paths.items():
        if path not in found:  # an operation of a forward that only the example could follow
            name = path.rpartition(".")[2]
            found[path] = TreeNode(name, path, name)
            grown(root, [found[path]])
        item = found[path]
        item.returned_as = f"{item.returned_as}, {tag}" if item.returned_as else tag


# -- of a module that was cut ----------------------------------------------------------------------------------------


def mark_result(root: TreeNode, module: Truncated) -> None:
    """Marks what a module that was cut returns, if its forward can be followed."""
    traces = Traces(module, TargetPaths([]))
    with contextlib.suppress(TruncateError):
        found = dict(_Result(traces).targets(module, "", traces.entry))
        _mark_returned(root, found)
        for item in root.walk():
            item.mark = Mark.RETURNED if item.returned_as else None


class _Result:
    """The targets whose values a forward returns, with where each stands in the result."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    def targets(self, module: nn.Module, path: str, call: Call) -> Iterator[tuple[str, str]]:
        result = self._traces.graphs(module, path, call)[0].result
        for tag, value in _tagged(result):
            yield from ((tag, target) for target in self._made_at(module, path, value))

    def _made_at(self, module: nn.Module, path: str, value: Any) -> Iterator[str]:
        """The target at which a value of a forward was made: one at most."""
        made = value
        item: tuple[int, ...] = ()
        while type(value) is Node and value.kind in (Kind.FUNCTION, Kind.METHOD) and value.args:
            if value.target is operator.getitem and type(value.args[1]) is int:
                item = (value.args[1], *item)  # of what a child returns
            elif value.target != "clone":
                break
            value = value.args[0]
        if type(value) is not Node:
            return
        if value.kind is not Kind.CHILD:
            if value.name:
                yield join(path, value.name)
            return
        child, reached = descend(module, value.target), join(path, value.target)
        if not any(isinstance(inner, Truncated) for inner in child.modules()):
            yield join(path, made.name) if item and made.name else reached
            return
        result = self._traces.graphs(child, reached, self._traces.call(module, path, value))[0].result
        for index in item:
            result = result[index] if isinstance(result, (tuple, list)) else result
        yield from self._made_at(child, reached, result)


def tag_of(steps: tuple[Any, ...]) -> str:
    """How an item of a result is written: ``output``, ``output[0]``, ``output['c3']``."""
    return "output" + "".join(f"[{step!r}]" for step in steps)


def items_with_steps(value: Any, steps: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Everything in nested lists, tuples and dicts, with the steps that lead to it."""
    if isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from items_with_steps(item, (*steps, position))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from items_with_steps(item, (*steps, key))
    else:
        yield steps, value


def _tagged(result: Any) -> Iterator[tuple[str, Any]]:
    return ((tag_of(steps), value) for steps, value in items_with_steps(result))
