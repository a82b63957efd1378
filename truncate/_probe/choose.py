"""Which layers are probed: those that a user names, or by default each block's output and the last layer's input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from truncate._errors import TruncateError
from truncate._graph import join
from truncate._plan import targets_of
from truncate._sandbox import Example
from truncate._show import LayerInfo
from truncate._target import BEFORE, Target, like, names_several, resolve

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def chosen(model: nn.Module, at: Any, rows: Iterable[LayerInfo], example: Example | None = None) -> dict[str, Target]:
    """The targets to probe by the names that they have in the table.

    Args:
        model: The model.
        at: What the user asks for, as `probe` takes it; None for the default.
        rows: The layers of the model in running order.
        example: On which the model runs, to know which layer is ``"last"`` where it cannot be followed.
    """
    run = {row.path: row for row in rows if not row.same_as and not row.mode}
    if at is None:
        names = _default(model, run)
        if not names:
            raise TruncateError(
                f"no block and no layer with weights was found in this {type(model).__name__}: name the layers to "
                "probe, such as at=['layer1', 'layer2']. print(layers(model)) lists all of them"
            )
    else:
        names = [name for one in (at if isinstance(at, list | tuple) else [at]) for name in _named(model, one, run)]
        if not names:
            raise TruncateError(f"nothing to probe: at={at!r} holds no target")
    return {name: _target(model, name, example) for name in dict.fromkeys(names)}


def _target(model: nn.Module, name: str, example: Example | None) -> Target:
    target = targets_of(model, name, example)
    assert isinstance(target, Target)  # types and patterns are read by now
    return target


def _named(model: nn.Module, one: Any, run: dict[str, LayerInfo]) -> Iterator[str]:
    """The names that one item of `at` stands for."""
    if isinstance(one, type) and issubclass(one, nn.Module):
        found = [path for path, row in run.items() if row.is_module and isinstance(model.get_submodule(path), one)]
        kinds = ", ".join(sorted({row.type for row in run.values() if row.is_module}))
        missing = f"at={one.__name__}: the model runs no layer of this type; it runs: {kinds}"
    elif names_several(model, one):
        pattern = one.removeprefix(BEFORE)
        found = [BEFORE * (pattern != one) + path for path in like(pattern, run)]
        missing = f"at={one!r}: no layer or operation has such a path. print(layers(model)) lists all of them"
    elif isinstance(one, nn.Module):
        found, missing = [resolve(model, one).path], ""
    elif isinstance(one, str):
        found, missing = [one], ""
    else:
        raise TruncateError(
            f"at={one!r}: a layer to probe is a path ('layer1'), a pattern ('layer*'), 'before ' and a path "
            "('before fc'), a type of module or a module of the model; several are in a list"
        )
    if not found:
        raise TruncateError(missing)
    yield from found


# -- the default -----------------------------------------------------------------------------------------------------


def _default(model: nn.Module, run: dict[str, LayerInfo]) -> list[str]:
    """Each block's output, or that of each layer with weights if there are no blocks; and the last layer's input."""
    kinds = Counter(map(type, model.modules()))
    order = {path: number for number, path in enumerate(run)}
    modules = {path: model.get_submodule(path) for path, row in run.items() if row.is_module}
    weighted = [path for path, module in modules.items() if _has_weights(module)]
    blocks = sorted({path for path in _blocks(model, "", kinds) if path in order}, key=order.__getitem__)
    blocks = blocks or weighted
    if not weighted:
        return blocks
    last = weighted[-1]
    holders = [path for path in blocks if path == last or last.startswith(f"{path}.")]
    if any(kinds[type(modules[path])] > 1 and path != last and not _is_list(modules[path]) for path in holders):
        return blocks  # the model ends with a block, and has no head
    holder, _, name = last.rpartition(".")
    siblings = list(model.get_submodule(holder)._modules) if _is_list(model.get_submodule(holder)) else []
    same = {join(holder, siblings[siblings.index(name) - 1])} if name in siblings[1:] else set()
    inside = {path for path in blocks if path in holders or order[path] > order[last]}
    return [path for path in blocks if path not in inside | same] + [BEFORE + last]


def _blocks(module: nn.Module, path: str, kinds: Counter[type]) -> Iterator[str]:
    """The blocks below a module: modules of a class that the model holds several times, without those inside them.

    In a plain list of layers, each layer with weights is one, together with the layers without weights that follow it.
    """
    runs: list[str] = []  # the last layer of each such run
    open_run = False
    for name, child in module.named_children():
        here = join(path, name)
        if not child._modules:
            if _is_list(module) and _has_weights(child):
                runs.append(here)
                open_run = True
            elif open_run:
                runs[-1] = here
            continue
        open_run = False
        if _is_list(child) or (kinds[type(child)] == 1 and _holds_blocks(child)):
            yield from _blocks(child, here, kinds)
        else:
            yield here
    whole = len(runs) == 1 and path and not any(child._modules for child in module.children())
    yield from [path] if whole and type(module) is nn.Sequential else runs


def _is_list(module: nn.Module) -> bool:
    return type(module) in _LISTS


def _holds_blocks(module: nn.Module) -> bool:
    lists = [list(inner.children()) for inner in module.modules() if _is_list(inner)]
    return any(any(child._modules for child in held) or sum(map(_has_weights, held)) > 1 for held in lists)


def _has_weights(module: nn.Module) -> bool:
    """Whether a layer mixes its inputs, as a convolution and a linear layer do and a norm does not."""
    return not module._modules and any(p.dim() > 1 for p in module.parameters(recurse=False))
