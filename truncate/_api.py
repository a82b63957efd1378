"""What a user calls."""

from __future__ import annotations

import copy as copying
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from truncate._build import build, shallow_copy
from truncate._check import compare
from truncate._cut import Cutter
from truncate._errors import ContentWarning, TruncateError
from truncate._example import Example
from truncate._forwards import Forwards
from truncate._plan import assumptions_of
from truncate._spine import Spine
from truncate._target import Target, resolve


def truncate(
    model: nn.Module,
    upto: Any,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    *,
    copy: bool = False,
    check: bool = True,
) -> nn.Module:
    """The model, stopped: an ordinary module that returns what `upto` returns inside the model, and computes no more.

    Args:
        model: Any module whose forward runs. It is not changed.
        upto: Where to stop: a path as ``named_modules()`` spells it (``"layer1.0.conv2"``), as Python does
            (``"layer1[0].conv2"``, ``"classifier[-2]"``), or the module object itself; ``":n"`` behind a path picks
            the n-th of several calls, of which the last is taken otherwise; an operation is named as `layers` lists
            it (``"layer1.0.add"``); ``""`` is the model itself. A list, tuple or dict of these gives several outputs.
        args: Positional arguments of an example call of the model, as in ``torch.export.export(mod, args, kwargs)``.
            With an example, forwards that depend on values (branches on shapes, loops over data) are recorded on it.
        kwargs: Keyword arguments of that call.
        copy: Whether the result has parameters and buffers of its own. Otherwise they are the model's.
        check: Whether the result is compared with the model on the example, if there is one.

    Returns:
        A module with the arguments of ``model.forward``, which returns for any input, in training and in evaluation,
        exactly the output of the target: alone, or in a list, tuple or dict as asked. It holds exactly those
        children, parameters and buffers of the model that the target needs, under the model's own names, and each
        keeps its own training flag. ``assumptions`` lists what was fixed where a forward was recorded.

    Raises:
        UnknownTargetError: `upto` names no place of the model.
        NotReachedError: The forward does not run the place, or not that often.
        CannotFollowError: A forward between the model and the target depends on values known only when it runs.
        WrongResultError: The result differed from the model on the example.
        TruncateError: `model` or `upto` is of a wrong type. (The other errors are children of this one.)
    """
    if not isinstance(model, nn.Module):
        raise TruncateError(f"truncate takes a torch.nn.Module, but got {model!r} of type {type(model).__name__}")
    example = None
    if args is not None or kwargs is not None:
        example = _example(model, args, kwargs)
    targets: list[Target] = []
    arrangement = _arrange(model, upto, targets)
    if not targets:
        raise TruncateError(f"nothing to stop at: upto is {upto!r}, which holds no target")
    if isinstance(arrangement, int) and targets[0].is_module and targets[0].module is model:
        result = shallow_copy(model)
    else:
        spine = Spine(targets)
        forwards = Forwards(model, spine, example)
        plan = Cutter(model, spine, forwards).plan()
        result = build(plan, None if isinstance(arrangement, int) else arrangement)
        if not hasattr(result, "assumptions"):  # a child of the model may have that name
            result.__dict__["assumptions"] = assumptions_of(plan)
        decided = dict.fromkeys(a.module or "the model itself" for a in assumptions_of(plan) if a.content)
        for name in decided:
            warnings.warn(
                f"the forward of {name} decides by the content of a tensor. The result goes the way of the example and "
                f"raises for an input that would go another; its `assumptions` say where",
                ContentWarning,
                stacklevel=2,
            )
        if example is not None and check:
            compare(model, result, arrangement, example, spine, forwards)
    return copying.deepcopy(result) if copy else result


def _example(model: nn.Module, args: Any, kwargs: Any) -> Example:
    args, kwargs = args if args is not None else (), kwargs if kwargs is not None else {}
    if not isinstance(args, (tuple, list)):
        raise TruncateError(
            f"args are the positional arguments of an example, as a tuple: args=(x,), not {type(args).__name__}"
        )
    if not isinstance(kwargs, Mapping):
        raise TruncateError(f"kwargs are the keyword arguments of an example, as a dict, not {type(kwargs).__name__}")
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        signature = inspect.signature(model.forward)
        raise TruncateError(f"the example does not fit forward{signature} of {type(model).__name__}: {error}") from None
    return Example(tuple(args), dict(kwargs))


def _arrange(model: nn.Module, upto: Any, targets: list[Target]) -> Any:
    """The containers of `upto` with the numbers of the targets in their place."""
    if isinstance(upto, (list, tuple)):
        return type(upto)(_arrange(model, item, targets) for item in upto)
    if isinstance(upto, dict):
        return {key: _arrange(model, item, targets) for key, item in upto.items()}
    targets.append(resolve(model, upto))
    return len(targets) - 1
