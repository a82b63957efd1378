"""The graph of a forward, and what is known about the operations and values in it.

Here are the data types that the other packages share: `Node`, `Graph`, `Call`. A graph goes in, an answer about it
comes out: which arguments an operation mutates, which values may be aliases, what structure a value has before it
exists. Nothing is traced or run here.
"""

from truncate._graph.call import Call, call_of_example, call_of_node, call_of_signature, declared_types, default_containers
from truncate._graph.graph import Graph, Kind, Node, Observed, Shape, containers_in, descend, is_container, is_dataclass_value, items_of, join, map_nested, nodes_in, observed_in, pairs, tensors_in
from truncate._graph.memory import memory_of
from truncate._graph.operations import BINARY, COMPARISONS, DUNDER, INPLACE, UNARY, aliases_of, is_mode, is_repeatable, is_tensor, mutated, name_of, name_operations, negated, returns_list, returns_tensor
from truncate._graph.structure import Known, Structures, fill, is_known, structure_of

__all__ = [
    "BINARY",
    "COMPARISONS",
    "Call",
    "DUNDER",
    "Graph",
    "INPLACE",
    "Kind",
    "Known",
    "Node",
    "Observed",
    "Shape",
    "Structures",
    "UNARY",
    "aliases_of",
    "call_of_example",
    "call_of_node",
    "call_of_signature",
    "containers_in",
    "declared_types",
    "default_containers",
    "descend",
    "fill",
    "is_container",
    "is_dataclass_value",
    "is_known",
    "is_mode",
    "is_repeatable",
    "is_tensor",
    "items_of",
    "join",
    "map_nested",
    "memory_of",
    "mutated",
    "name_of",
    "name_operations",
    "negated",
    "nodes_in",
    "observed_in",
    "pairs",
    "returns_list",
    "returns_tensor",
    "structure_of",
    "tensors_in",
]
