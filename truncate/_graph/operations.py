"""What is known of torch's own functions: which return tensors, which return views, which mutate their arguments."""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
from torch import nn

from truncate._graph.graph import Graph, Kind, Node, nodes_in

UNARY = {"neg": operator.neg, "pos": operator.pos, "invert": operator.invert, "abs": operator.abs}
BINARY = {
    name: getattr(operator, name if name not in ("and", "or") else f"{name}_")
    for name in (
        "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift getitem eq ne lt le gt ge"
    ).split()
}
INPLACE = {
    name: getattr(operator, name)
    for name in ("iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor ilshift irshift").split()
}
DUNDER = {**UNARY, **BINARY, **INPLACE, "setitem": operator.setitem}
OPERATORS = frozenset(DUNDER.values())
COMPARISONS = frozenset(("eq", "ne", "lt", "le", "gt", "ge"))

_NEGATION = {operator.eq: operator.ne, operator.ne: operator.eq}
_NEGATION_OF_SIZES = {
    operator.lt: operator.ge, operator.ge: operator.lt, operator.gt: operator.le, operator.le: operator.gt
}  # fmt: skip

# Methods of a tensor that change what happens in its backward pass.
_ON_THE_SIDE = frozenset(("register_hook", "register_post_accumulate_grad_hook", "retain_grad"))
# These mutate their running statistics in training, and return a new tensor.
_NORMS = frozenset(("batch_norm", "instance_norm"))
_EMBEDDINGS = frozenset(("embedding", "embedding_bag"))
# These may return an argument or a view of one, though their schemas do not say so.
_MAY_RETURN_ARGUMENT = frozenset(
    """
    alpha_dropout atleast_1d atleast_2d atleast_3d broadcast_tensors cartesian_prod chain_matmul combinations
    conj_physical dropout feature_alpha_dropout feature_dropout flatten_dense_tensors histogramdd meshgrid sum_to_size
    to_dense type_as unflatten_dense_tensors unsafe_chunk unsafe_split unsafe_split_with_sizes
    """.split()
)
# Functions that make a tensor from plain values and have no ATen operator of the same name.
_CONSTRUCTORS = frozenset((torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy))


@functools.lru_cache(maxsize=1024)
def _schemas(name: str) -> tuple[Any, ...]:
    """The schemas of the ATen operator of that name, which say what it returns, views and mutates."""
    packet = getattr(torch.ops.aten, name, None) if name.isidentifier() else None
    if not isinstance(packet, torch._ops.OpOverloadPacket):  # but a method of Python's, such as `__eq__`
        return ()
    return tuple(getattr(packet, overload)._schema for overload in packet.overloads())


def negated(node: Node) -> tuple[Any, tuple[Any, ...]]:
    """A function and its arguments that compute ``not value``; of a comparison, the opposite one: ``!=`` for ``==``."""
    if node.target in _NEGATION:
        return _NEGATION[node.target], node.args
    if node.target in _NEGATION_OF_SIZES and all(map(_is_size, node.args)):  # with NaN, both would be false
        return _NEGATION_OF_SIZES[node.target], node.args
    return operator.not_, (node,)


def _is_size(value: Any) -> bool:
    """Whether a value is certainly an integer, or a shape."""
    if type(value) is not Node:
        return type(value) is int
    if value.kind is Kind.METHOD:
        return value.target in ("dim", "size", "numel")
    if value.target is getattr:
        return value.args[1] in ("shape", "ndim")
    of_sizes = (operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod)
    return value.target in of_sizes and all(map(_is_size, value.args))


def name_of(node: Node) -> str:
    """The name of the function of a node: ``add_``, also for ``torch.ops.aten.add_.Tensor``."""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.rpartition("::")[2]
    return node.target if isinstance(node.target, str) else called(node.target)


def called(function: Any) -> str:
    """The name that a function has; empty if it has none. An object may answer anything when it is asked for one."""
    name = getattr(function, "__name__", "")
    return name if type(name) is str else ""


def returns_tensor(func: Any) -> bool:
    """Whether a torch function always returns one tensor."""
    if func in _CONSTRUCTORS:
        return True
    if isinstance(func, torch._ops.OpOverload):
        schemas: tuple[Any, ...] = (func._schema,)
    else:
        schemas = _schemas(func if isinstance(func, str) else called(func))
    return bool(schemas) and all([str(r.type) for r in schema.returns] == ["Tensor"] for schema in schemas)


def may_return_tensor(func: Any) -> bool:
    """Whether a torch function returns a tensor for some arguments, and not just a number, as ``dim`` does."""
    schemas = _schemas(func if isinstance(func, str) else called(func))
    return any(str(r.type) == "Tensor" for schema in schemas for r in schema.returns)


def returns_list(func: Any) -> bool:
    """Whether a torch function returns a list of tensors, whose length may depend on sizes, as ``split`` does."""
    schemas = _schemas(func if isinstance(func, str) else called(func))
    return any(str(r.type) == "List[Tensor]" for schema in schemas for r in schema.returns)


def returns_tensors(node: Node) -> bool:
    """Whether a node calls a torch function that returns several tensors."""
    schemas = _schemas(name_of(node)) if node.kind in (Kind.FUNCTION, Kind.METHOD) else ()
    return bool(schemas) and all(str(r.type) in ("Tensor", "List[Tensor]") for s in schemas for r in s.returns)


def is_tensor(node: Node) -> bool:
    """Whether the value of a node is certainly one tensor."""
    if node.kind is Kind.ATTRIBUTE:
        return not is_mode(node) and not node.args
    if node.kind is Kind.METHOD:
        return not any(hasattr(other, node.target) for other in (dict, list, tuple, str)) and returns_tensor(
            node.target
        )
    if node.kind is not Kind.FUNCTION or node.target is getattr:
        return False
    if node.target in OPERATORS:
        return any(is_tensor(source) for source in node.args if isinstance(source, Node))
    return returns_tensor(node.target)


def is_repeatable(node: Node) -> bool:
    """Whether an operation (not a child) gives the same result each time it runs on the same values."""
    if node.kind is Kind.ATTRIBUTE:
        return not node.args
    if node.kind not in (Kind.FUNCTION, Kind.METHOD) or mutated(node):
        return False
    if node.target is getattr or node.target in OPERATORS or node.target in _CONSTRUCTORS:
        return True
    packet, name = torch.ops.aten, name_of(node)
    return bool(_schemas(name)) and not any(
        torch.Tag.nondeterministic_seeded in getattr(getattr(packet, name), overload).tags
        for overload in getattr(packet, name).overloads()
    )


def is_mode(node: Node) -> bool:
    """Whether a node reads the ``training`` flag of a module."""
    return node.kind is Kind.ATTRIBUTE and node.target.rpartition(".")[2] == "training"


def mutated(node: Node) -> list[Node]:
    """The arguments that an operation (not a child) mutates."""
    if node.kind not in (Kind.FUNCTION, Kind.METHOD):
        return []
    name = name_of(node)
    targets: list[Any] = []
    if node.kind is Kind.METHOD and (name in _ON_THE_SIDE or not hasattr(torch.Tensor, name)):
        targets.append(node.args[0])  # of a list, dict or other object: perhaps `append` or `pop`
    elif node.target is operator.setitem or node.target in INPLACE.values():
        targets.append(node.args[0])
    elif name.endswith("_") and not name.endswith("__") and getattr(operator, name, None) is not node.target:
        targets.append(node.args[0] if node.args else next(iter(node.kwargs.values()), None))
    elif node.kwargs.get("inplace") not in (None, False):
        targets.append(node.args[0] if node.args else next(iter(node.kwargs.values())))
    elif name in _NORMS:  # the running statistics, in training
        targets += [*node.args[1:3], node.kwargs.get("running_mean"), node.kwargs.get("running_var")]
    elif name in _EMBEDDINGS and (node.kwargs.get("max_norm") or node.args[3:4] not in ((), (None,))):
        targets += [*node.args[1:2], node.kwargs.get("weight")]  # its rows are scaled down to that norm
    elif isinstance(getattr(node.target, "__self__", None), torch.autograd.function.FunctionMeta):
        if "mark_dirty" in node.target.__self__.forward.__code__.co_names:
            targets += [*node.args]
    targets.append(node.kwargs.get("out"))
    for schema in _own_schemas(node.target):
        for k, argument in enumerate(schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                targets += [*node.args[k : k + 1], node.kwargs.get(argument.name)]
    return list(dict.fromkeys(target for value in targets for target in nodes_in(value)))


def _own_schemas(function: Any) -> list[Any]:
    """What an operator under ``torch.ops`` declares, perhaps one of the user's."""
    if isinstance(function, torch._ops.OpOverload):
        return [function._schema]
    if isinstance(function, torch._ops.OpOverloadPacket):
        return [getattr(function, overload)._schema for overload in function.overloads()]
    return []


def aliases_of(node: Node) -> list[Node]:
    """The arguments of an operation (not of a child) that its value may be, or be a view of."""
    changed = mutated(node)
    if changed:  # an in-place operation returns what it mutates, except for norms, which mutate their statistics
        if name_of(node) == "set_":  # and shares the memory of another tensor
            return node.inputs()
        return [] if name_of(node) in (*_NORMS, *_EMBEDDINGS) else changed
    if node.kind not in (Kind.FUNCTION, Kind.METHOD) or _is_size(node):
        return []
    if node.target in OPERATORS:
        return list(nodes_in(node.args[0])) if node.target in (operator.getitem, operator.pos) else []
    name = name_of(node)
    if not _schemas(name) or name in _MAY_RETURN_ARGUMENT or (name == "einsum" and len(node.inputs()) == 1):
        return node.inputs()
    viewed = _viewed(name)
    return [
        *nodes_in([arg for k, arg in enumerate(node.args) if k in viewed]),
        *(nodes_in(node.kwargs) if viewed else ()),
    ]


@functools.lru_cache(maxsize=1024)
def _viewed(name: str) -> frozenset[int]:
    """The positions of the arguments that an operator may return, themselves or a view of them."""
    views = [schema for schema in _schemas(name) if any(_is_alias(returned) for returned in schema.returns)]
    return frozenset(k for schema in views for k, argument in enumerate(schema.arguments) if _is_alias(argument))


def _is_alias(declared: Any) -> bool:
    return declared.alias_info is not None and not declared.alias_info.is_write


def name_operations(graph: Graph, module: nn.Module) -> None:
    """Names the operations of a forward that can be targets: ``add``, ``add_1``, ``flatten``, in running order.

    Those that only compute with sizes, or only have a side effect, get no name.
    """
    sizes: set[Node] = set()
    used = set(module._modules)
    assertions = _assertions(graph)
    for node in graph.nodes:
        if node.kind not in (Kind.FUNCTION, Kind.METHOD) or node in assertions:
            continue
        reads = node.inputs()
        name = name_of(node).strip("_")
        if node.target in INPLACE.values():
            name = name[1:]  # `x += y` is an `add`
        about_sizes = node.target in (getattr, len) or (
            node.kind is Kind.METHOD and name in ("size", "dim", "numel", "stride")
        )
        if about_sizes or (reads and all(source in sizes for source in reads) and not returns_tensor(node.target)):
            sizes.add(node)
        elif name not in ("setitem", "list", "dict") and name.isidentifier():
            count = 0
            while (unique := f"{name}_{count}" if count else name) in used:
                count += 1
            used.add(unique)
            node.name = unique


def _assertions(graph: Graph) -> set[Node]:
    """The assertions of a graph, and the operations whose values only they read."""
    if all(node.target is not torch._assert for node in graph.nodes):
        return set()
    assertions: set[Node] = set()
    read_by_assertions: set[Node] = set()
    read = set(nodes_in(graph.result))
    for node in reversed(graph.nodes):
        is_assertion = node.target is torch._assert or (node in read_by_assertions and node not in read)
        if is_assertion:
            assertions.add(node)
        (read_by_assertions if is_assertion else read).update(node.inputs())
    return assertions
