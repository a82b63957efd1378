"""Targets that name several layers at once: a type of module, or a pattern of paths."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from truncate._errors import UnknownTargetError


def names_several(model: nn.Module, written: Any) -> bool:
    """Whether a target is a type or a pattern. A child whose name holds a `*` is a child."""
    if isinstance(written, type):
        return issubclass(written, nn.Module)
    return isinstance(written, str) and ("*" in written or "?" in written) and written not in model._modules


def all_named(model: nn.Module, written: Any) -> list[str]:
    """The paths of all layers inside a model that a type or a pattern names, in the order of `named_modules()`.

    In a pattern, `*` stands for any text, dots too, and `?` for one character. Lists and dicts of layers, which never
    run themselves, are left out.

    Raises:
        UnknownTargetError: There is none.
    """
    run = {path: module for path, module in model.named_modules() if path and _runs(module)}
    if isinstance(written, type):
        found = [path for path, module in run.items() if isinstance(module, written)]
        if not found:
            raise _none_of_type(model, written, run.values())
        return found
    found = like(written, run)
    if not found:
        raise _none_like(model, written, run)
    return found


def like(pattern: str, paths: Iterable[str]) -> list[str]:
    """Those of some paths that a pattern names, with the call that it selects."""
    pattern, colon, call = pattern.partition(":")
    expression = re.escape(_dotted(pattern)).replace(r"\*", ".*").replace(r"\?", ".")
    return [f"{path}{colon}{call}" for path in paths if re.fullmatch(expression, path)]


def _dotted(pattern: str) -> str:
    return re.sub(r"\[(\d+)\]", r".\1", pattern.strip())


def _runs(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule) or type(module).forward is not nn.Module.forward


def _none_of_type(model: nn.Module, kind: type, modules: Iterable[nn.Module]) -> UnknownTargetError:
    names = sorted({type(module).__name__ for module in modules})
    close = difflib.get_close_matches(kind.__name__, names, n=3, cutoff=0.5)
    text = f"no layer of this {type(model).__name__} is a {kind.__name__}. "
    text += f"Did you mean {' or '.join(close)}? " if close else ""
    return UnknownTargetError(f"{text}It holds: {', '.join(names) or 'no layers'}")


def _none_like(model: nn.Module, written: str, paths: Iterable[str]) -> UnknownTargetError:
    plain = re.sub(r"[*?]|:.*", "", _dotted(written))
    close = difflib.get_close_matches(plain, [*paths], n=3, cutoff=0.4)
    text = f"no layer of this {type(model).__name__} has a path like {written!r}. "
    text += f"Near it are {', '.join(map(repr, close))}. " if close else ""
    return UnknownTargetError(f"{text}* stands for any text; layers(model) lists every path")
