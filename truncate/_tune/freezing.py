"""Freezing a part of a model while the rest is trained."""

from __future__ import annotations

import ast
import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from truncate._api import truncate
from truncate._build import RECORD, Truncated, hold, release
from truncate._errors import ContentWarning, TruncateError, require_module


def freeze(
    model: nn.Module,
    upto: Any = "",
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    *,
    norm: bool = True,
) -> nn.Module:
    """Freezes everything that a layer of the model depends on, so that only the rest is trained.

    Exactly the parameters that ``truncate(model, upto)`` holds no longer require a gradient. Every module that
    ``truncate(model, upto)`` keeps whole stays in evaluation mode, with all its children: its `training` is False, and
    ``.train()`` on it or on any parent does not change that. So BatchNorm uses its running statistics and does not
    update them, and dropout drops nothing, also if it is a function that gets `self.training`.

    Modules that hold more than the frozen part, such as the model itself, follow ``.train()``. If the layer depends on
    the mode of one of them, there is a warning. A parameter or module that is used both before and after the layer is
    frozen. A gradient from an earlier step is removed, since an optimizer would apply it.

    A frozen model can be copied, pickled, scripted, exported, compiled and truncated, and the result is frozen too. Its
    state dict is unchanged.

    Args:
        model: Any module, or a result of `truncate`. It is changed in place.
        upto: The last layer to freeze, or several layers, as for `truncate`. The default is the whole module.
        args: Positional arguments of an example call of the model, if `truncate` needs one.
        kwargs: Keyword arguments of that call.
        norm: Whether modules stay in evaluation mode. Otherwise they keep their modes, and only parameters are frozen.

    Returns:
        The model itself.

    Raises:
        TruncateError: As for `truncate`; or a module was compiled by TorchScript, or has lazy parameters. The model is
            then unchanged.
    """
    require_module("freeze", model)
    if upto is model or (isinstance(upto, str) and not upto.strip()):
        frozen = model
    else:
        with warnings.catch_warnings(action="ignore", category=ContentWarning):  # that is for those who run the cut
            frozen = truncate(model, upto, args, kwargs, check=False)
    parameters = set(map(id, frozen.parameters()))
    inside = set(map(id, frozen.modules()))
    modules = {path: module for path, module in model.named_modules() if id(module) in inside}
    for path, module in modules.items():
        _check(path or "the model itself", module, norm)
    if norm:
        for path in _readers_of_modes(frozen, set(map(id, modules.values()))):
            warnings.warn(
                f"{upto!r} depends on the mode of {path or 'the model itself'}, which also holds modules that are "
                f"not frozen, so it follows .train(). To keep it in evaluation, freeze {path or 'the model'} as a "
                f"whole, or cut first: freeze(truncate(model, {upto!r}))",
                stacklevel=2,
            )
        for module in modules.values():
            hold(module)
    turned_off: list[nn.Parameter] = []
    for module in model.modules():
        own = {n: p for n, p in module.named_parameters(recurse=False) if id(p) in parameters and p.requires_grad}
        if own:
            module.__dict__[RECORD] = [*module.__dict__.get(RECORD, ()), *own]
            turned_off += own.values()
    for parameter in turned_off:  # only now: two modules may hold the same one
        parameter.requires_grad_(False)
        parameter.grad = None
    return model


def unfreeze(model: nn.Module) -> nn.Module:
    """Undoes every `freeze` in a module and all its children.

    Each frozen parameter requires a gradient again, unless it required none before `freeze`. Each module that was kept
    in evaluation gets the mode that was last requested for it: by ``.train()`` or ``.eval()``, or before `freeze`.

    Args:
        model: A frozen module, or any module in it: ``unfreeze(model.layer4)`` leaves the rest frozen.

    Returns:
        The model itself.
    """
    require_module("unfreeze", model)
    for module in model.modules():
        release(module)
        turned_off = module.__dict__.pop(RECORD, ())
        for name, parameter in module.named_parameters(recurse=False):
            if name in turned_off:
                parameter.requires_grad_(True)
    return model


def _check(path: str, module: nn.Module, norm: bool) -> None:
    if norm and isinstance(module, torch.jit.ScriptModule):
        raise TruncateError(
            f"{path} was compiled by TorchScript, so it cannot be kept in evaluation. Freeze the model before it is "
            f"scripted, or freeze its parameters alone: norm=False"
        )
    if any(map(is_lazy, [*module.parameters(recurse=False), *module.buffers(recurse=False)])):
        raise TruncateError(
            f"{path} ({type(module).__name__}) has no parameters yet. Run the model once on an example, then freeze it"
        )


def _readers_of_modes(cut: nn.Module, held: set[int]) -> list[str]:
    """The paths of those modules whose own mode the outputs of a cut depend on, and that are not held."""
    found: dict[str, None] = {}
    for path, module in cut.named_modules():
        if not isinstance(module, Truncated) or id(module) in held:
            continue
        for node in ast.walk(ast.parse(type(module)._truncated_source)):
            if isinstance(node, ast.Attribute) and node.attr == "training":
                holder = eval(ast.unparse(node.value), {"self": module})
                if id(holder) not in held:
                    below = next((name for name, m in module.named_modules() if m is holder), "")
                    found[".".join(filter(None, (path, below)))] = None
    return list(found)
