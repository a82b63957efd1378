"""Finding a target in the graphs of the forwards that lead to it."""

from __future__ import annotations

import dataclasses

from torch import nn

from truncate._errors import NotReachedError, UnknownTargetError
from truncate._graph import Graph, Kind, Node, descend, join
from truncate._record import Traces
from truncate._target import TargetPaths, only_holds_layers, unknown


@dataclasses.dataclass(frozen=True)
class Capture:
    """A value taken out at a target, in one call of a module: which target, and which of its calls in there."""

    target: int
    call: int
    item: int = 0  # which of the values that cross there, if the model is divided at the target


class Locator:
    """Finds the targets of one model."""

    def __init__(self, model: nn.Module, paths: TargetPaths, traces: Traces) -> None:
        self.model = model
        self.targets = paths.targets
        self.holds = paths.holds
        self.traces = traces
        self.unknown: dict[str, UnknownTargetError] = {}  # by their text
        self._sites: dict[
            tuple[int, int], tuple[Graph, list[tuple[Node, bool]]]
        ] = {}  # by graph, which is kept alive, and target

    def sites(self, module: nn.Module, graph: Graph, t: int) -> list[tuple[Node, bool]]:
        """The nodes where a target appears; True: somewhere inside the child that the node calls."""
        key = id(graph), t
        if key not in self._sites:
            self._sites[key] = graph, self._find(module, graph, t)
        return self._sites[key][1]

    def _find(self, module: nn.Module, graph: Graph, t: int) -> list[tuple[Node, bool]]:
        target = self.targets[t]
        sites = []
        for node in graph.nodes:
            if node.kind is Kind.CHILD:
                child = descend(module, node.target)
                if child is target.module and target.is_module:
                    sites.append((node, False))
                elif (child._modules or not target.is_module) and t in self.holds(child):
                    sites.append((node, True))
            elif node.name and module is target.module and node.name == target.operation:
                sites.append((node, False))
        return sites

    def locate(self, module: nn.Module, path: str, graph: Graph, capture: Capture) -> tuple[Node, int | None] | None:
        """The node where a capture appears; if that is inside the child it calls, which call of the target in there."""
        sites = self.sites(module, graph, capture.target)
        if len(sites) == 1 and sites[0][1]:
            node, first = sites[0][0], capture.call in (0, -1)
            # Another mode of this forward may run it more often, so the call that is asked for may not exist here.
            enough = first or max(self._counts(module, path, node, capture.target)) >= max(
                capture.call + 1, -capture.call
            )
            return (node, capture.call) if enough else None
        # All calls of one child are in the same mode: if that does not reach the target, none of them reaches it.
        alike = len({node.target for node, _ in sites}) == 1
        last = capture.call < 0
        skip = -capture.call - 1 if last else capture.call
        for node, deeper in reversed(sites) if last else sites:
            # Counting the calls inside a child means following it, so it is done only where the number matters.
            counts = self._counts(module, path, node, capture.target) if deeper else {1}
            counts = counts - {0} or counts if alike else counts
            if skip == 0 and 0 not in counts:
                return node, None if not deeper else -1 if last else 0
            count = self._agreed(counts, capture.target, join(path, str(node.target)))
            if skip < count:
                return node, None if not deeper else -skip - 1 if last else skip
            skip -= count
        return None

    def _counts(self, parent: nn.Module, path: str, node: Node, t: int) -> set[int]:
        """How often a target runs while `node` calls a child that holds it, in each mode of the child."""
        child, below = descend(parent, node.target), join(path, node.target)
        counts = set()
        for graph in self.traces.graphs(child, below, self.traces.call(parent, path, node)):
            sites = [] if graph.failure else self.sites(child, graph, t)
            counts.add(sum(self._count(child, below, site, t) if deeper else 1 for site, deeper in sites))
        return counts

    def _count(self, parent: nn.Module, path: str, node: Node, t: int) -> int:
        return self._agreed(self._counts(parent, path, node, t), t, join(path, str(node.target)))

    def _agreed(self, counts: set[int], t: int, path: str) -> int:
        if len(counts) > 1:
            raise NotReachedError(
                f"{self.targets[t].text!r} runs {' or '.join(map(str, sorted(counts)))} times in one call of {path!r}, "
                f"depending on its mode, so its calls cannot be numbered over several calls of {path!r}"
            )
        return next(iter(counts))

    def missing(self, module: nn.Module, path: str, graph: Graph, capture: Capture) -> str:
        """Why a capture cannot be found in a graph."""
        target = self.targets[capture.target]
        holder = f"{path!r} ({type(module).__name__})" if path else f"the model ({type(module).__name__})"
        if graph.failure or graph.open_end:
            return graph.failure or str(graph.open_end)
        if not target.is_module and module is target.module:
            names = tuple(node.name for node in graph.nodes if node.name)
            if target.operation not in names:
                error = unknown(self.model, target.text, target.path, module, str(target.operation), names)
                return self.unknown.setdefault(str(error), error).args[0]
        sites = self.sites(module, graph, capture.target)
        if len(sites) == 1 and sites[0][1]:  # the module inside tells more
            node, _ = sites[0]
            child, below = descend(module, node.target), join(path, node.target)
            for inner in self.traces.graphs(child, below, self.traces.call(module, path, node)):
                if self.locate(child, below, inner, capture) is None:
                    return self.missing(child, below, inner, capture)
        count = sum(self._count(module, path, site, capture.target) if deeper else 1 for site, deeper in sites)
        mode = "".join(f" while {flag} is {value}" for flag, value in graph.modes.items())
        if count:
            calls = (
                f"{count} times{mode}, so its calls are :0 to :{count - 1}" if count > 1 else f"once{mode}, which is :0"
            )
            return f"{target.text!r}: {holder} runs it {calls}"
        return only_holds_layers(target.text, target.path, target.module) or (
            f"{target.text!r} is never run: the forward of {holder} does not call it{mode}. "
            f"Perhaps another mode or option of the model uses it, or only its parts or methods are used; "
            f"layers(model) lists what runs"
        )
