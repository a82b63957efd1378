"""How a target is written, and which layer or operation of a model that means."""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Any

import torch
from torch import nn

from truncate._errors import TruncateError, UnknownTargetError, require_module
from truncate._graph import has_forward, join
from truncate._target.items import Keys
from truncate._target.label import BEFORE

# One step of a path: `.name`, `.3`, `.-2`, `[3]`, `[-2]`, `["name"]`.
_STEP = re.compile(r"""\.?(?P<name>[^.\[\]]+)|\[(?P<index>-?\d+)\]|\[(?P<quote>["'])(?P<key>.*?)(?P=quote)\]""")


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """What is asked for: one call of a module, or of an operation (`operation`) of the forward of `module`."""

    text: str
    path: str  # of `module`, as in named_modules()
    module: nn.Module
    operation: str | None = None
    call: int = -1  # which of its calls, as a Python index
    before: bool = False  # whether its input is asked for, instead of its output
    items: Keys = ()  # which item of its output, if that is several

    @property
    def is_module(self) -> bool:
        return self.operation is None

    @property
    def name(self) -> str:
        """Its path in the one spelling of `named_modules()`, the item, and which call it is if that is not the last."""
        path = self.path if self.operation is None else join(self.path, self.operation)
        items = "".join(f"[{key!r}]" for key in self.items)
        return f"{BEFORE * self.before}{path}{items}{f':{self.call}' * (self.call != -1)}"


def module_given(caller: str, given: Any) -> nn.Module:
    """The module that a user gives to `caller`. An exported program becomes one, with the modules of its trace.

    Raises:
        TruncateError: It is neither, or the one graph that an exported program runs as.
    """
    if type(given).__module__ == "torch.export.exported_program":  # importing it to ask would take a second
        from truncate._target.program import module_of  # what it needs takes as long

        return module_of(given)
    require_module(caller, given)
    model: nn.Module = given
    if any(getattr(hook, "__module__", "") == "torch.export._unlift" for hook in model._forward_pre_hooks.values()):
        raise TruncateError(
            f"{caller} got the result of program.module(), which is one graph without modules, and checks its inputs "
            f"by hooks that need all of it. Give the exported program itself: {caller}(program, ...)"
        )
    return model


def resolve(model: nn.Module, written: Any) -> Target:
    """The target that `written` names: a path in any spelling, or a module of the model."""
    if isinstance(written, nn.Module):
        for path, module in model.named_modules(remove_duplicate=False):
            if module is written:
                return Target(path, path, module)
        raise UnknownTargetError(
            f"the {type(written).__name__} given as a target is not part of this {type(model).__name__}. "
            f"Was it taken from a copy of the model, or replaced since?"
        )
    if isinstance(written, int) and not isinstance(written, bool) and isinstance(model, nn.Sequential):
        written = f"[{written}]"
    if not isinstance(written, str):
        raise TruncateError(
            f"a target is a path such as 'layer1.0.conv1', a type or a module of the model, or a number if the model "
            f"is an nn.Sequential, but got {written!r} of type {type(written).__name__}"
        )
    path, call = _split_call(written)
    steps, items = _steps(path, written)
    if call != 0 and type(model).__module__.startswith(("torch.fx.", "torch.export.")):
        _refuse_one_of_several(model, steps, written)
    module = model
    found: list[str] = []
    for position, step in enumerate(steps):
        if isinstance(module, torch.jit.ScriptModule):
            holder = repr(".".join(found)) if found else "the model"
            raise UnknownTargetError(
                f"{written!r} lies inside {holder}, which was compiled by TorchScript: you can stop at it, "
                f"but not inside it. Cut the model before you compile it"
            )
        name = _child_name(module, step)
        rest = items[position:]
        if name is None and None not in rest and not hasattr(type(module), "__getitem__"):
            return Target(written, ".".join(found), module, None, call, items=tuple(rest))
        if name is None:
            held = step in module._parameters or step in module._buffers
            runs = has_forward(module)
            if None not in rest[1:] and rest[0] is None and step.isidentifier() and runs and not held:
                # Perhaps an operation: known once its forward is followed.
                return Target(written, ".".join(found), module, step, call, items=tuple(rest[1:]))
            raise unknown(model, written, ".".join(found), module, step)
        found.append(name)
        module = module._modules[name]
    return Target(written, ".".join(found), module, None, call)


def _refuse_one_of_several(model: nn.Module, steps: list[str], written: str) -> None:
    """A program that has a graph for each call of a module has the first of them alone under the module's own name."""
    module: Any = model
    for step in steps:
        others = [name for name in module._modules if name.partition("@")[0] == step != name]
        if others:
            first, later = f"{written.partition(':')[0]}:0", " or ".join(map(repr, others))
            raise UnknownTargetError(
                f"{written!r}: the program has a graph for each of several calls of {step!r}. Write {first!r} for the "
                f"first, or {later} in place of {step!r} for a later one"
            )
        module = module._modules.get(step)
        if module is None:
            return


def _split_call(written: str) -> tuple[str, int]:
    path, colon, call = written.rpartition(":")
    if not colon:
        return written.strip(), -1
    if not re.fullmatch(r"-?\d+", call.strip()):
        raise UnknownTargetError(
            f"{written!r}: what follows the colon is the number of a call, such as {path + ':0'!r}"
        )
    return path.strip(), int(call)


def _steps(path: str, written: str) -> tuple[list[str], list[Any]]:
    """The steps of a path, where an index keeps its brackets, so that it is not taken for a name; and what is in these.

    The latter is None of what has no brackets, and of what has some: which item it may be of what a layer returns.
    """
    steps: list[str] = []
    items: list[Any] = []
    end = 0
    while end < len(path):
        step = _STEP.match(path, end)
        if step is None or (end == 0 and path[0] == "."):
            raise UnknownTargetError(
                f"{written!r} is not a path: cannot read {path[end:]!r}. "
                f"Write it as 'features.3', 'features[3]' or 'features.-2'"
            )
        name, index, key = step["name"], step["index"], step["key"]
        steps.append(name if name is not None else key if key is not None else f"[{index}]")
        items.append(None if name is not None else key if key is not None else int(index))
        end = step.end()
    return steps, items


def _child_name(module: nn.Module, step: str) -> str | None:
    """The name of the child that a step leads to, if there is one."""
    children = module._modules
    if children.get(step) is not None:
        return step
    index = step.strip("[]")
    if not re.fullmatch(r"-?\d+", index):
        return None
    names = list(children)
    if step.startswith("[") and not isinstance(module, nn.Sequential):
        # Only in a Sequential is [3] a position; elsewhere it is the child named "3".
        if children.get(index) is not None:
            return index
    if step.startswith("[") and not hasattr(type(module), "__getitem__"):
        return None  # brackets after a layer that has no items itself are for those of what it returns
    if int(index) >= 0 and not step.startswith("["):
        return None
    position = int(index)
    return names[position] if -len(names) <= position < len(names) and children[names[position]] is not None else None


def only_holds_layers(written: str, path: str, module: nn.Module) -> str | None:
    """Why a target is never run, if that is because it has no forward: it is a list or dict of layers."""
    if has_forward(module):
        return None
    instead = f". Stop at one of them, such as {f'{path}.{[*module._modules][-1]}'!r}" if module._modules else ""
    return f"{written!r} is never run: it is a {type(module).__name__}, which only holds layers{instead}"


def close_modules(target: Target) -> list[str]:
    """The modules that may have been meant by a target that was taken to be an operation."""
    names = difflib.get_close_matches(str(target.operation), [*target.module._modules], n=3, cutoff=0.6)
    return [f"{target.path}.{name}" if target.path else name for name in names]


def unknown(
    model: nn.Module, written: str, parent: str, module: nn.Module, step: str, operations: tuple[str, ...] = ()
) -> UnknownTargetError:
    """The error for a target that does not exist: it names close ones, and what the last valid parent holds."""
    step = step.strip("[]")
    holder = f"{parent!r} ({type(module).__name__})" if parent else f"the model ({type(module).__name__})"
    text = f"no target {written!r}: {holder} holds no {step!r}."
    if step in module._parameters or step in module._buffers:
        instead = f"Stop at {parent!r} instead." if parent else "layers(model) lists every target."
        return UnknownTargetError(f"{written!r} is a tensor of {holder}, not a layer or an operation. {instead}")
    children = [*module._modules, *operations]
    close = difflib.get_close_matches(step, children, n=3, cutoff=0.6)
    candidates = [f"{parent}.{name}" if parent else name for name in close]
    if not candidates:
        candidates = difflib.get_close_matches(
            written, [path for path, _ in model.named_modules() if path], n=3, cutoff=0.6
        )
    if candidates:
        text += f" Did you mean {' or '.join(repr(c) for c in candidates)}?"
    elif not children:
        text += " It has no children; stop at it, or outside it."
    if children:
        shown = ", ".join(children[:12]) + (f", … ({len(children)} in all)" if len(children) > 12 else "")
        text += f" It holds: {shown}."
    if not module._modules and not parent:
        text += " layers(model) lists every target."
    return UnknownTargetError(text)
