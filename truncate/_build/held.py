"""Modules held in evaluation: their `training` stays False, also when `.train()` is called on them or a parent.

Such a module gets a class of its own, derived from the one that it had. No hooks are added, and its attributes and
state are untouched. TorchScript, torch.compile and torch.export read `training` like any other property.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch import nn

from truncate._errors import TruncateError
from truncate._python import while_used

RECORD = "_parameters_frozen"  # the names of those parameters of a module that `freeze` turned off, kept by the module
ASKED = "_mode_asked"  # what a held module would have as `training`, kept by the module


def hold(module: nn.Module) -> None:
    """From now on `training` of this one module is False. Its children are not looked at."""
    if not isinstance(module, Held):
        module.__class__ = _held_class(type(module))
        module.training = module.__dict__.get("training", True)  # nothing yet, if it is being unpickled


def release(module: nn.Module) -> None:
    """Gives a held module its class back, and with it the mode that was last asked for."""
    if not isinstance(module, Held):
        return
    original = vars(type(module)).get("_held_kind")
    if original is None:
        raise TruncateError(
            f"the class of a frozen module was changed to {type(module).__name__}, so its own class cannot be "
            f"restored. Undo that change (torch.nn.utils.parametrize makes such changes), then unfreeze"
        )
    module.__class__ = original
    module.training = module.__dict__.pop(ASKED)


def carry_over(original: nn.Module, made: nn.Module) -> None:
    """Freezes what takes the place of a frozen module, or of a part of it."""
    if isinstance(original, Held):
        hold(made)
        made.training = original.__dict__[ASKED]
    names = [name for name in original.__dict__.get(RECORD, ()) if name in made._parameters]
    if names:
        made.__dict__[RECORD] = names


def _training(self: Any) -> bool:
    return False


def _keep(self: Any, mode: bool) -> None:
    pass


class _Mode(property):
    """Reads as False, and what is assigned is kept for when the module is released.

    Where an ordinary module keeps it is False too: with torch 2.6 Dynamo looks there, past any property.
    """

    def __set__(self, module: Any, mode: bool) -> None:
        module.__dict__.update({"training": False, ASKED: mode})


class Held:
    """What the class of a held module adds to the class that the module had."""

    _held_kind: type[nn.Module]  # that class
    training = _Mode(_training, _keep)  # the functions are what TorchScript compiles

    def __init_subclass__(cls) -> None:
        """Ends here: a class that registers its subclasses must not see one that nobody wrote."""

    def _get_name(self) -> str:
        return f"Frozen{super()._get_name()}"  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles as the original class does, to be held again when loaded: the class made here cannot be imported."""
        make, args, *state = _plain(self).__reduce_ex__(protocol)
        return _make_held, (make, args), *state


def _plain(module: Any) -> Any:
    """The same module with the class that it had."""
    plain: Any = object.__new__(module._held_kind)
    plain.__dict__ = module.__dict__
    return plain


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    """For a class that defines how it is copied, which may depend on its bases (as in torch.fx.GraphModule)."""
    plain = _plain(self)
    memo.setdefault(id(memo), []).append(plain)  # as `copy` does: a memo knows by its id what has been copied
    made = memo[id(self)] = plain.__deepcopy__(memo)
    hold(made)
    return made


def _make_held(make: Callable[..., nn.Module], args: tuple[Any, ...]) -> nn.Module:
    made = make(*args)
    hold(made)
    return made


@while_used
def _held_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of held modules of a class. It has the same name: TorchScript and others look at names."""
    members: dict[str, Any] = {
        "_held_kind": kind,
        **{name: value for name, value in vars(kind).items() if name in _WHERE_IT_IS_WRITTEN},
        "__annotations__": _annotations(kind),
        "__jit_ignored_attributes__": [*getattr(kind, "__jit_ignored_attributes__", ()), "training"],
    }
    if hasattr(kind, "__deepcopy__"):
        members["__deepcopy__"] = _deepcopy
    return types.new_class(kind.__name__, (Held, kind), {}, lambda space: space.update(members))


_WHERE_IT_IS_WRITTEN = ("__module__", "__qualname__", "__doc__", "__firstlineno__")  # the last since Python 3.13


def _annotations(kind: type) -> dict[str, Any]:
    """What an instance would find: a class without annotations hides those of its bases once it is asked for them."""
    return next((vars(base)["__annotations__"] for base in kind.__mro__ if "__annotations__" in vars(base)), {})
