"""The module of an exported program: the tree that torch makes of it, where each module runs the code of its graph.

torch's own tree is run by an interpreter, cannot be copied, and checks what it is given outside of its graph. Here the
graphs hold all that is done, so that they are followed, copied and pickled as the forward of any other module.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

_REGISTRIES = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")
_ASSERTIONS = ("aten::_assert_scalar", "aten::_assert_async")


def module_of(program: Any) -> nn.Module:
    """The module of an exported program, with the modules that its trace names, their weights and their names."""
    whole: Any = _unflattened(program)
    leaves = [node for node in whole.graph.nodes if node.op == "placeholder"]
    values = [node.meta.get("val") for node in leaves]
    output = next(iter(reversed(whole.graph.nodes)))
    signature = whole.module_call_graph[0].signature
    args, kwargs = pytree.tree_unflatten(leaves, signature.in_spec)
    returned = pytree.tree_unflatten(list(output.args[0]), signature.out_spec)
    has_numbers = any(isinstance(value, (int, float, str)) for value in values)  # which are fixed, and read nowhere
    if all(map(_is_plain, (args, kwargs, returned))) and not has_numbers:
        names = [f"arg_{i}" for i, _ in enumerate(args)]
        arguments = {**dict(zip(names, args)), **kwargs}
        anchor = next(node for node in whole.graph.nodes if node.op != "placeholder")
        with whole.graph.inserting_before(anchor):
            taken = list(_take(whole.graph, arguments, anchor))
            _check(taken, values, whole.range_constraints)
        output.args = (returned,)
        whole = _with_code(whole, {})
    made: nn.Module = whole
    return made


def _is_plain(value: Any) -> bool:
    if type(value) in (tuple, list, dict):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, (fx.Node, int, float, str, torch.dtype, torch.device))


def _unflattened(program: Any) -> Any:
    """Torch's tree of a program. Where a module has a graph for each of its calls, each of them is a module there.

    One module that counts its calls, to run another graph in each, counts wrong once a pass is left before its end.
    """
    whole = torch.export.unflatten(program)
    counting = {path for path, module in whole.named_modules() if "_call_modules" in vars(module)}
    if counting:
        program = copy.copy(program)
        program._module_call_graph = [
            dataclasses.replace(entry, signature=None) if entry.fqn.partition("@")[0] in counting else entry
            for entry in program.module_call_graph
        ]
        whole = torch.export.unflatten(program)
    return whole


def _with_code(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    """The same module, and all that it holds, with code in place of what interprets its graph."""
    if id(module) in known:
        return known[id(module)]
    for name, child in list(module._modules.items()):
        if child is not None:
            module._modules[name] = _with_code(child, known)
    graph = vars(module).get("graph")
    made = module
    if isinstance(graph, fx.Graph):
        for node in graph.nodes:
            if node.op == "call_function" and getattr(node.target, "_schema", None) is not None:
                if node.target._schema.name in _ASSERTIONS:
                    node.target = torch._assert
            node.meta.clear()  # values without a device, which cannot be copied
        name = str(getattr(module, "_ty", None) or type(module).__name__).rpartition(".")[2]
        made = fx.GraphModule(module, graph, name if name.isidentifier() else "GraphModule")
        vars(made).update({name: vars(module)[name] for name in _REGISTRIES})
        vars(made).update({name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)})
        vars(made).update(training=module.training, meta={})
    known[id(module)] = made
    return made


# -- what goes in ------------------------------------------------------------------------------------------------------


def _take(graph: fx.Graph, arguments: dict[str, Any], anchor: fx.Node) -> Iterator[fx.Node]:
    """Gives a graph the arguments of the model, where torch's takes all tensors in them one by one. These come out."""
    holders = {}
    for name, argument in arguments.items():
        holders[name] = argument if isinstance(argument, fx.Node) else graph.placeholder(name)
        anchor.prepend(holders[name])  # in the order of the arguments
    for name, argument in arguments.items():
        yield from _taken_out(graph, holders[name], argument)


def _taken_out(graph: fx.Graph, holder: fx.Node, argument: Any) -> Iterator[fx.Node]:
    if isinstance(argument, fx.Node):
        if holder is not argument:
            argument.replace_all_uses_with(holder)
            graph.erase_node(argument)
        yield holder
    elif argument is not None:
        for key, item in argument.items() if isinstance(argument, dict) else enumerate(argument):
            yield from _taken_out(graph, graph.call_function(operator.getitem, (holder, key)), item)


def _check(leaves: list[fx.Node], values: list[Any], ranges: dict[Any, Any]) -> None:
    """Writes what the program demands of its inputs: their sizes."""
    known: dict[Any, Any] = {}  # what stands for a size that was left free
    later: list[tuple[Any, Any, str]] = []
    for node, value in zip(leaves, values):
        given: Any = fx.Proxy(node)
        sizes: list[tuple[Any, Any, str]] = []
        if isinstance(value, torch.Tensor):
            _demand(given.dim() == value.dim(), f"{node.name} has {value.dim()} dimensions")
            sizes = [(given.shape[i], size, f"{node.name}.shape[{i}]") for i, size in enumerate(value.shape)]
        elif isinstance(value, torch.SymInt):
            sizes = [(given, value, node.name)]
        for found, size, name in sizes:
            free = None if isinstance(size, int) else size.node.expr
            if free is None or free.is_number:
                _demand(found == int(size), f"{name} == {int(size)}")
            elif free.is_symbol and free not in known:
                known[free] = found
                low, high = (_bound(ranges[free], end) for end in ("lower", "upper")) if free in ranges else (0, None)
                if low is not None and low > 2:  # torch takes what was exported with two for none and one, too
                    _demand(found >= low, f"{name} >= {low}")
                if high is not None:
                    _demand(found <= high, f"{name} <= {high}")
            else:
                later.append((found, free, name))
    for found, free, name in later:
        if free.free_symbols <= known.keys():
            _demand(found == sympy_interp(PythonReferenceAnalysis, known, free), f"{name} == {free}")
        else:
            _of_form(found, free, name, known)


def _of_form(found: Any, free: Any, name: str, known: dict[Any, Any]) -> None:
    """A size such as ``2*n + 1``, of which no input has the `n`."""
    unknown = free.free_symbols - known.keys()
    symbol = next(iter(unknown))
    factor = free.coeff(symbol)
    rest = free - factor * symbol
    if len(unknown) == 1 and factor.is_Integer and rest.is_Integer:
        known[symbol] = (found - int(rest)) // int(factor)
        _demand(known[symbol] * int(factor) + int(rest) == found, f"{name} is of the form {free}")


def _bound(allowed: Any, end: str) -> int | None:
    bound = getattr(allowed, end)
    return int(bound) if getattr(bound, "is_Integer", isinstance(bound, int)) else None


def _demand(condition: Any, text: str) -> None:
    condition.node.graph.call_function(torch._assert, (condition.node, f"the program was exported with {text}"))
