"""Following a forward: it is traced on proxies, once for each branch that it takes in training and in evaluation."""

from __future__ import annotations

from torch import nn

from truncate._follow.classes import is_chain
from truncate._follow.failures import explain
from truncate._follow.tracer import Children, Tracer
from truncate._graph import Call, Graph, Kind, Node, containers_in


def follow(module: nn.Module, call: Call, where: str, children: Children) -> list[Graph]:
    """The graphs of the forward of `module`, with its children as leaves, one per branch; the current mode's is first.

    The graph of a branch that cannot be followed says why; if it is the first, `CannotFollowError` is raised.
    """
    if is_chain(module) and len(call.args) == 1 and next(containers_in(call.args), None) is None:
        return [_chain(module, call)]
    graphs: list[Graph] = []
    pending: list[dict[str, bool]] = [{}]
    while pending:
        decisions = pending.pop()
        tracer = Tracer(module, decisions, children)
        try:
            graphs.append(tracer.graph(call))
        except Exception as error:
            explained = explain(error, module, where)
            if not graphs:
                raise explained from error
            graphs.append(Graph([], None, tracer.decisions, str(explained)))
        finally:
            # Each flag that the forward read and that was not decided before gives one more branch.
            asked = [flag for flag in tracer.decisions if flag not in decisions]
            for position, flag in enumerate(asked):
                taken = {name: tracer.decisions[name] for name in [*decisions, *asked[:position]]}
                pending.append({**taken, flag: not tracer.decisions[flag]})
    return graphs


def _chain(module: nn.Module, call: Call) -> Graph:
    """The graph of a plain Sequential, for which nothing has to run."""
    value = call.args[0]
    nodes: list[Node] = []
    if type(value) is Node:
        value = Node(Kind.INPUT, value.target, known=value.known)
        nodes.append(value)
    for name in module._modules:
        value = Node(Kind.CHILD, name, (value,), index=len(nodes))
        nodes.append(value)
    return Graph(nodes, value, {})
