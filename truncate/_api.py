"""What a user calls."""

from __future__ import annotations

import copy as copying
from typing import Any

from torch import nn

from truncate._build import build, shallow_copy
from truncate._cut import Cutter
from truncate._errors import TruncateError
from truncate._forwards import Forwards
from truncate._target import Target, resolve


def truncate(model: nn.Module, upto: Any, *, copy: bool = False) -> nn.Module:
    """The model, stopped: an ordinary module that returns what `upto` returns inside the model, and computes no more.

    Args:
        model: Any module whose forward runs. It is not changed.
        upto: Where to stop: a path as ``named_modules()`` spells it (``"layer1.0.conv2"``), as Python does
            (``"layer1[0].conv2"``, ``"classifier[-2]"``), or the module object itself; ``":n"`` behind a path picks
            the n-th of several calls, of which the last is taken otherwise; an operation is named as `layers` lists
            it (``"layer1.0.add"``); ``""`` is the model itself. A list, tuple or dict of these gives several outputs.
        copy: Whether the result has parameters and buffers of its own. Otherwise they are the model's.

    Returns:
        A module with the arguments of ``model.forward``, which returns for any input, in training and in evaluation,
        exactly the output of the target: alone, or in a list, tuple or dict as asked. It holds exactly those
        children, parameters and buffers of the model that the target needs, under the model's own names, and each
        keeps its own training flag.

    Raises:
        UnknownTargetError: `upto` names no place of the model.
        NotReachedError: The forward does not run the place, or not that often.
        CannotFollowError: A forward between the model and the target depends on values known only when it runs.
        TruncateError: `model` or `upto` is of a wrong type. (The other errors are children of this one.)
    """
    if not isinstance(model, nn.Module):
        raise TruncateError(f"truncate takes a torch.nn.Module, but got {model!r} of type {type(model).__name__}")
    targets: list[Target] = []
    arrangement = _arrange(model, upto, targets)
    if not targets:
        raise TruncateError(f"nothing to stop at: upto is {upto!r}, which holds no target")
    cutter = Cutter(model, targets, Forwards(model))
    if isinstance(arrangement, int):
        result = shallow_copy(model) if targets[0].path == "" and targets[0].is_module else None
        result = result or build(cutter.plan())
    else:
        result = build(cutter.plan(), arrangement)
    return copying.deepcopy(result) if copy else result


def _arrange(model: nn.Module, upto: Any, targets: list[Target]) -> Any:
    """The containers of `upto` with the numbers of the targets in their place."""
    if isinstance(upto, (list, tuple)):
        return type(upto)(_arrange(model, item, targets) for item in upto)
    if isinstance(upto, dict):
        return {key: _arrange(model, item, targets) for key, item in upto.items()}
    targets.append(resolve(model, upto))
    return len(targets) - 1
