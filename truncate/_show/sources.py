"""Where the values of an operation come from, as far as what stands just above it does not say so."""

from __future__ import annotations

import operator
from collections import Counter

from truncate._graph import Graph, Kind, Node, is_tensor

_MOST = 4  # so many are named


def sources_of(graph: Graph) -> dict[str, tuple[str, ...]]:
    """What each operation of a forward takes, by its name: other operations, children, arguments, tensors it holds.

    The only argument of a forward is called ``input``. Operations that take what was made just above are left out.
    """
    inputs = [node.target for node in graph.inputs]
    calls, met = Counter(node.target for node in graph.nodes if node.kind is Kind.CHILD), Counter[str]()
    names: dict[Node, tuple[str, ...]] = {}
    above: tuple[str, ...] = ("input",) if len(inputs) == 1 else tuple(inputs)
    found: dict[str, tuple[str, ...]] = {}
    for node in graph.nodes:
        given = tuple(dict.fromkeys(name for source in node.inputs() for name in names.get(source, ())))
        if node.kind is Kind.INPUT:
            names[node] = ("input",) if len(inputs) == 1 else (node.target,)
        elif node.kind is Kind.ATTRIBUTE:
            names[node] = (node.target,) if is_tensor(node) and node.target not in graph.constants else ()
        elif node.kind is Kind.CHILD:
            call, met[node.target] = met[node.target], met[node.target] + 1
            is_last = call == calls[node.target] - 1
            names[node] = (node.target if is_last else f"{node.target}:{call}",)
            above = names[node] if is_last else above  # where it is drawn
        elif node.name:
            if given != above:
                found[node.name] = given
            is_item = node.target is operator.getitem and type(node.args[1]) in (int, str) and len(given) == 1
            names[node] = above = (f"{given[0]}[{node.args[1]!r}]" if is_item else node.name,)
        else:  # a number, such as a size, or what is passed on as it is
            names[node] = given if node.target == "clone" else ()
    return found


def sources_text(names: tuple[str, ...]) -> str:
    """Names in words: ``from bn2 and input``."""
    if not names:
        return ""
    shown = names if len(names) <= _MOST else (names[0], f"{len(names) - 1} more")
    return "from " + " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
