"""What a user asks for: the one place where every spelling of a target is read."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from truncate._errors import CannotFollowError, TruncateError
from truncate._graph import Call, Kind, descend, join
from truncate._record import Traces
from truncate._sandbox import Example, call_model, sandbox_copy
from truncate._target import BEFORE, Target, TargetPaths, all_named, names_several, resolve

LAST = "last"


def targets_of(model: nn.Module, written: Any, example: Example | None = None) -> Target | list[Target]:
    """The target that is written: several of them if it is a type or a pattern.

    `example`: on which the model runs, if it cannot be followed, to know which layer is ``"last"``.
    """
    if isinstance(written, str) and written.startswith(BEFORE) and written not in model._modules:
        found = targets_of(model, written.removeprefix(BEFORE), example)
        return list(map(before, found)) if isinstance(found, list) else before(found)
    if names_several(model, written):
        return [resolve(model, path) for path in all_named(model, written)]
    if isinstance(written, str) and written.strip() == LAST and LAST not in model._modules:
        return resolve(model, last_layer(model, example))
    return resolve(model, written)


def before(target: Target) -> Target:
    """What a target is given."""
    if target.is_module and not target.path:
        raise TruncateError("before='' stops at what the model itself is given, where nothing has been computed yet")
    if target.items:
        raise TruncateError(f"{target.text!r} is an item of the output of a layer: before= cannot select items")
    return dataclasses.replace(target, before=True)


def one_layer(model: nn.Module, written: Any, example: Example | None, name: str) -> Target:
    """The one whole layer that is written as the argument `name`, where a model is divided."""
    target = targets_of(model, written, example)
    if isinstance(target, list) or target.items or target.before:
        raise TruncateError(f"{name}={written!r}: a model is divided after one layer, such as {name}='layer3'")
    return target


def last_layer(model: nn.Module, example: Example | None) -> str:
    """The path of the last layer that runs and has weights, as the classifier of a model has.

    Weights are parameters of two or more dimensions: a norm scales what the layer before it has made, and has none.

    Raises:
        TruncateError: There is none, or a forward cannot be followed, and there is no example.
    """
    if example is not None:
        path = _seen_last(model, example)
    else:
        traces = Traces(model, TargetPaths([]))
        try:
            path = _followed_last(traces, model, "", traces.entry)
        except CannotFollowError as error:
            raise CannotFollowError(
                f"which layer runs last depends on values: give an example, args=(x,), or name the layer. {error}"
            ) from error
    if path is None:
        raise TruncateError(f"this {type(model).__name__} runs no layer with weights, so there is no last one")
    return path


def _followed_last(traces: Traces, module: nn.Module, path: str, call: Call) -> str | None:
    for node in reversed(traces.graphs(module, path, call)[0].nodes):
        if node.kind is Kind.CHILD:
            child, below = descend(module, node.target), join(path, node.target)
            if _has_weights(child):
                return below
            inner = _followed_last(traces, child, below, traces.call(module, path, node)) if child._modules else None
            if inner is not None:
                return inner
    return None


def _seen_last(model: nn.Module, example: Example) -> str | None:
    seen: list[str] = []
    sandbox = sandbox_copy(model, example.meta.tensor)
    for path, module in sandbox.named_modules():
        if _has_weights(module):
            module.register_forward_pre_hook(lambda *_, path=path: seen.append(path))
    call_model(sandbox, example)
    return seen[-1] if seen else None


def _has_weights(module: nn.Module) -> bool:
    if is_parametrized(module):
        return True
    own = module.parameters(recurse=False)
    return not module._modules and any(nn.parameter.is_lazy(p) or p.dim() > 1 for p in own)
