"""Dividing a model after one or several layers, into pieces that run one after the other."""

from __future__ import annotations

import collections
import copy
import functools
from collections.abc import Iterator

from torch import nn

from truncate._errors import CrossingError, TruncateError
from truncate._graph import Kind, descend, join, memory_of
from truncate._plan.crossing import is_clean, values_crossing
from truncate._plan.cutter import Cutter
from truncate._plan.effects import Effects, State
from truncate._plan.locate import Capture
from truncate._plan.plan import Plan
from truncate._record import Traces
from truncate._sandbox import Example
from truncate._target import Target, TargetPaths

_MOST_TRIED = 64  # targets on each side, in search of one where nothing else crosses


class Division:
    """A model, divided at cut points in running order: after each of them. The last piece ends at some targets."""

    def __init__(
        self,
        model: nn.Module,
        cut_points: list[Target],
        targets: list[Target],
        example: Example | None,
        live: bool | None = False,
    ) -> None:
        self.model = model
        self.cut_points = cut_points
        self.targets = targets
        self.example = example
        self.live = live
        self.paths = TargetPaths([*cut_points, *targets])
        self.traces = Traces(model, self.paths, example)
        self._effects = Effects(self.traces)
        for cut_point in cut_points:
            if cut_point.is_module and cut_point.module is model:
                raise TruncateError(f"{cut_point.text!r} is the model itself, and nothing follows it")

    def with_numbers_fixed(self) -> Division:
        """The same division, but what is recorded takes no other sizes than those of the example."""
        example = copy.copy(self.example)
        if example is not None:
            example.fixes_numbers = True
        return Division(self.model, self.cut_points, self.targets, example, self.live)

    def all_live(self) -> Division:
        """The same, where every module on the path keeps its own Python."""
        return Division(self.model, self.cut_points, self.targets, self.example, True)

    def plans(self, everything: bool) -> list[Plan]:
        """The plans of all pieces in running order. More than one tensor may cross between them if `everything`.

        Raises:
            CrossingError: More than the output of a cut point would cross after it.
        """
        plans = self._plans(clean=False)
        if not everything and not all(map(is_clean, plans)):
            # A mode in which nothing else crosses can still be divided.
            plans = self._plans(clean=True, loose=plans)
        return plans

    def _plans(self, clean: bool, loose: list[Plan] | None = None) -> list[Plan]:
        kept = State()
        while True:
            plans = self._plans_with(Cutter(self.model, self.paths, self._effects, clean, self.live, kept), loose)
            found = self._kept_in_several_places(plans)
            if found.called <= kept.called:
                return plans
            kept = State(kept.called | found.called, kept.read | found.read)

    def _kept_in_several_places(self, plans: list[Plan]) -> State:
        """The modules that are held as they are in one place, and in another one have to do what their state needs."""
        shared = self._in_several_places
        kept = {id(m): m for plan in plans for m in plan.kept() if id(m) in shared} if shared else {}
        buffers = [buffer for module in kept.values() for buffer in module.buffers(recurse=False)]
        return State(frozenset(kept), frozenset(map(memory_of, buffers)))

    @functools.cached_property
    def _in_several_places(self) -> set[int]:
        """The ids of modules with state that several modules hold, or one module under several names."""
        places = collections.Counter(id(child) for m in self.model.modules() for child in m._modules.values())
        shared = [module for module in self.model.modules() if places[id(module)] > 1]
        return {id(part) for module in shared for part in module.modules() if next(part.buffers(), None) is not None}

    def _plans_with(self, cutter: Cutter, loose: list[Plan] | None) -> list[Plan]:
        rest = range(len(self.cut_points), len(self.paths.targets))
        captures, own = cutter.captures(rest), cutter.is_own_wanted(rest)
        plans: list[Plan] = []
        for t, cut_point in reversed(list(enumerate(self.cut_points))):
            try:
                plan = cutter.stretch(Capture(t, cut_point.call), captures, own)
            except CrossingError:
                if loose is None:
                    raise
                raise CrossingError(self._text(cut_point, loose[t + 1])) from None
            if not plan.slots:
                raise TruncateError(f"nothing after {cut_point.text!r} uses what is computed up to there")
            plans.append(plan)
            captures, own = tuple(Capture(t, cut_point.call, k) for k in range(plan.slots)), False
        plans.append(cutter.stretch(None, captures, own))
        return plans[::-1]

    def _text(self, cut_point: Target, plan: Plan) -> str:
        branch = next(branch for branch in plan.branches if not branch.missing)
        lines = "\n".join(f"    {line}" for line in values_crossing(plan, branch))
        clean = [self._nearest(paths) for paths in _around(plan)]
        sides = [f"{path!r}, which runs {side}" for path, side in zip(clean, ("earlier", "later")) if path]
        places = ", and after ".join(sides)
        found = f"After {places}, nothing but its own output crosses: divide there. " if sides else ""
        return (
            f"the model cannot be divided after {cut_point.text!r}, since more than its output crosses there:\n"
            f"{lines}\n{found}Or crossing='pass' passes all of it on, as a tuple"
        )

    def _nearest(self, paths: Iterator[str]) -> str | None:
        """The first of some targets after which nothing crosses but its own output."""
        for path, _ in zip(paths, range(_MOST_TRIED)):
            holder, _, name = path.rpartition(".")
            module = descend(self.model, holder)
            child = module._modules.get(name)
            target = Target(path, holder, module, name) if child is None else Target(path, path, child)
            cutter = Cutter(self.model, TargetPaths([target]), self._effects, clean=True)
            try:
                if cutter.stretch(Capture(0, -1), (), True).slots == 1:
                    return path
            except TruncateError:
                continue
        return None


def _around(plan: Plan) -> tuple[Iterator[str], Iterator[str]]:
    """The targets before the entry of a plan, and those after it, both from there outwards."""
    before: list[str] = []
    later: list[list[str]] = []
    current: Plan | None = plan
    while current is not None:
        branch = next(branch for branch in current.branches if not branch.missing)
        entry = branch.entry
        if entry is None:
            break
        targets = [node.target for node in branch.graph.nodes]
        found = [
            (node.index, join(current.path, node.target if node.kind is Kind.CHILD else node.name))
            for node in branch.graph.nodes
            if (node.kind is Kind.CHILD and targets.count(node.target) == 1) or node.name
        ]
        before += [path for index, path in found if index < entry.site.index]
        here = [path for index, path in found if index == entry.site.index and entry.inner is not None]
        later.append(here + [path for index, path in found if index > entry.site.index])
        current = current.child_of(entry.site) if entry.inner is not None else None
    return iter(before[::-1]), (path for paths in later[::-1] for path in paths)
