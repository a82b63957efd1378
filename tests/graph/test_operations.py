"""What is known of torch's functions, compared to what they do with the samples of torch's own tests.

A function that returns its argument or a view of it, or writes on it, without our knowledge: so wrong tensors are made.
"""

from __future__ import annotations

import collections
import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import resolve_name
from torch.utils import _pytree

from truncate._graph.graph import Kind, Node
from truncate._graph.operations import aliases_of, mutated

# What torch's own tests import, and what the functions themselves warn of.
pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]

SAMPLES = 40  # of one function; more of them differ in sizes only


def operators() -> list[Any]:
    from torch.testing._internal.common_methods_invocations import op_db

    return [op for op in op_db if torch.float32 in op.supported_dtypes("cpu")]


def variants(op: Any) -> Iterator[tuple[Kind, Any, Callable[..., Any]]]:
    """The function, and the methods that do the same."""
    if op.op is not None and resolve_name(op.op) is not None:  # else what it calls is followed, not the function
        yield Kind.FUNCTION, op.op, op.op
    for method in (op.method_variant, op.inplace_variant):
        name = getattr(method, "__name__", "")
        if hasattr(Tensor, name):
            yield Kind.METHOD, name, getattr(Tensor, name)


def memory(values: Any) -> set[int]:
    tensors = [value for value in _pytree.tree_leaves(values) if isinstance(value, Tensor)]
    return {t.untyped_storage()._cdata for t in tensors if t.layout == torch.strided and t.numel()}


@torch.no_grad()
def mistakes(kind: Kind, target: Any, func: Callable[..., Any], given: tuple[Any, ...]) -> set[str] | None:
    """How a function shares or writes the memory of its arguments without our knowledge; None if it refuses them."""
    leaves, form = _pytree.tree_flatten(given)
    leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    inputs = {Node(Kind.INPUT, f"x{k}"): leaf for k, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
    nodes = iter(inputs)
    args, kwargs = _pytree.tree_unflatten([next(nodes) if isinstance(x, Tensor) else x for x in leaves], form)
    node = Node(kind, target, tuple(args), kwargs)
    versions = {source: value._version for source, value in inputs.items()}
    args, kwargs = _pytree.tree_unflatten(leaves, form)
    try:
        returned = memory(func(*args, **kwargs))
    except Exception:  # a sample of the function that the method does not take
        return None
    shared = {source for source, value in inputs.items() if memory(value) & returned}
    changed = {source for source, value in inputs.items() if value._version != versions[source]}
    found = {"shares": shared - set(aliases_of(node)), "writes": changed - set(mutated(node))}
    return {what for what, sources in found.items() if sources}


def test_functions_of_torch_share_and_write_what_we_know_of() -> None:
    pytest.importorskip("expecttest")  # the samples are part of torch's own tests, which need it
    found, seen = collections.defaultdict(set), collections.Counter()
    for op in operators():
        for sample in list(op.sample_inputs("cpu", torch.float32))[:SAMPLES]:
            for kind, target, func in variants(op):
                label = op.full_name if kind is Kind.FUNCTION else f"Tensor.{target}"
                wrong = mistakes(kind, target, func, ((sample.input, *sample.args), sample.kwargs))
                seen[kind] += wrong is not None
                found[label] |= wrong or set()
    assert seen[Kind.FUNCTION] > 6000 and seen[Kind.METHOD] > 3500, seen
    assert {label: sorted(wrong) for label, wrong in found.items() if wrong} == {}


def test_an_operator_with_a_low_line_is_not_in_place() -> None:
    a, b = Node(Kind.INPUT, "a"), Node(Kind.INPUT, "b")
    assert mutated(Node(Kind.FUNCTION, operator.and_, (a, b))) == []
    assert mutated(Node(Kind.FUNCTION, operator.iand, (a, b))) == [a]
    assert mutated(Node(Kind.METHOD, "logical_and_", (a, b))) == [a]
