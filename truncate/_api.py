"""The functions that a user calls to cut a model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from truncate._build import build, carry_data, compare, pooling
from truncate._errors import (
    CannotFollowError,
    ContentWarning,
    NoPythonError,
    NotReachedError,
    TruncateError,
    WrongResultError,
)
from truncate._graph import map_nested
from truncate._live import Copies, deep_copy, drop_what_does_not_run, refuse_ways_back
from truncate._plan import Division, LivePlan, Plan, assumptions_of, one_layer, targets_of
from truncate._plan import before as what_it_is_given
from truncate._sandbox import Example, example_of, outside_inference_mode
from truncate._target import (
    Numbered,
    Target,
    about,
    all_named,
    close_modules,
    keys_of,
    module_given,
    names_several,
    tell,
)


@outside_inference_mode
def truncate(
    model: nn.Module,
    upto: Any = None,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    *,
    before: Any = None,
    after: Any = None,
    crossing: str = "refuse",
    pool: str | nn.Module | None = None,
    flatten: bool = False,
    copy: bool = False,
    check: bool = True,
    live: bool | None = None,
) -> nn.Module:
    """The model, stopped: an ordinary module that returns the output of `upto` in the model, and computes nothing more.

    Args:
        model: Any module whose forward runs, or a ``torch.export.ExportedProgram``. It is not changed.
        upto: Where to stop. One target is

            - a path as ``named_modules()`` spells it (``"layer1.0.conv2"``), or as in Python (``"layer1[0].conv2"``,
              ``"classifier[-2]"``), or the module object itself. ``":n"`` after a path selects one of several calls,
              counted from 0; the default is the last call;
            - an operation, named as `layers` lists it (``"layer1.0.add"``);
            - an item of the output of a layer (``"lstm[0]"``);
            - ``"last"``, the last layer with weights that runs;
            - a number, if the model is an ``nn.Sequential``;
            - ``""``, the model itself.

            A list, tuple, named tuple or dict of targets gives several outputs. So does a type (``nn.Conv2d``) or a
            pattern (``"layer*.0.conv1"``), which stands for the list of all matching layers.
        args: Positional arguments of an example call of the model, as in ``torch.export.export(mod, args, kwargs)``.
            With an example, forwards that depend on values (branches on shapes, loops over data) are recorded on it.
        kwargs: Keyword arguments of that call.
        before: Instead of `upto`: returns the input of a layer. This is its only argument, or a tuple of all arguments
            that hold values of the pass.
        after: Where to start: the result takes the output of this layer, and is the part of the model after it, up to
            the end of the model or up to `upto` or `before`.
        crossing: What to do if `after` divides the model where more than one tensor crosses: ``"refuse"`` raises an
            error that lists them; with ``"pass"`` the result takes a tuple of them, as `split` passes them on.
        pool: How to pool each output: ``"avg"`` or ``"max"`` over the positions of maps with channels first,
            ``"mean"`` over tokens or over maps with channels last, ``"cls"`` takes the first token. Or any module,
            which is applied to each output.
        flatten: Whether to flatten all dimensions of each output after the batch into one, after pooling.
        copy: Whether the result gets its own modules, parameters and buffers. Otherwise it shares those of the model:
            a step of an optimizer changes both, and so does ``cut.eval()``, for the modules that are kept whole.
        check: Whether to compare the result with the model on the example, if there is one.
        live: Whether modules on the path to the target keep the model's own Python, which stops when the target has
            run. ``None``: only modules whose forward can be neither followed nor recorded. ``True``: all of them, so
            that nothing is fixed; then `upto` and `before` may name modules, but not operations. ``False``: none. A
            live module cannot be scripted.

    Returns:
        A module with the arguments of ``model.forward``. For any input, in training and in evaluation, it returns
        exactly the output of the target: alone, or in a list, tuple or dict as in `upto`. It holds only the children,
        parameters and buffers of the model that the target needs, under the model's own names (a live part may hold
        more). Each module keeps its own training flag. Arguments that the model requires but the target does not need
        may be left out. ``assumptions`` lists what was fixed where a forward was recorded. ``targets`` and ``origin``
        name the targets and the class of the model. Public attributes of the model that are plain data, such as its
        configuration, are copied.

    Raises:
        UnknownTargetError: `upto` names nothing in the model.
        NotReachedError: The forward does not run the target, or not that often.
        CannotFollowError: A forward on the path to the target depends on values that are known only when it runs.
        CrossingError: More than the output of `after` is needed after it.
        WrongResultError: The result differed from the model on the example, or did not run on it.
        TruncateError: `model` or `upto` has a wrong type. (The other errors are subclasses of it.)
    """
    model = module_given("truncate", model)
    example = _checked(model, args, kwargs, crossing)
    then = pooling(pool, flatten)
    division, arrangement = divide(model, upto, before, after, example, live)
    if is_whole(division) and isinstance(arrangement, int) and not then:
        result = Copies(model, [model], type).of(model)
        if not about(model):  # what a cut tells about itself stays
            tell(result, model, "", "", ())
    else:
        plans, pieces = made(division, arrangement, crossing == "pass", check)
        result = module_of(division, plans, -1, arrangement, then) if then else pieces[-1]
        _warn_of_content(plans[-1:])
    return deep_copy(result) if copy else result


@outside_inference_mode
def split(
    model: nn.Module,
    at: Any,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    *,
    crossing: str = "refuse",
    copy: bool = False,
    check: bool = True,
) -> tuple[nn.Module, ...]:
    """The model in pieces that run one after the other, divided after one layer (front and back) or after several.

    Args:
        model: Any module whose forward runs, or a ``torch.export.ExportedProgram``. It is not changed.
        at: The layer after which to divide the model, written as for `truncate`. A list of layers, in running order,
            gives one piece more than there are layers.
        args: Positional arguments of an example call of the model, for forwards that have to be recorded.
        kwargs: Keyword arguments of that call.
        crossing: What to do if more than the output of the layer is needed after it, such as a skip connection:
            ``"refuse"`` raises an error that lists what crosses and names the nearest layers where nothing else does.
            With ``"pass"``, one piece returns all of it as a tuple, and the next piece takes that tuple.
        copy: Whether the pieces get their own modules, parameters and buffers. Otherwise they share those of the
            model, as for `truncate`.
        check: Whether to compare the pieces, run one after the other, with the model on the example, if there is one.

    Returns:
        The pieces. The first has the arguments of ``model.forward``. Each other one takes the output of the previous
        piece: ``back(front(x))`` is ``model(x)``, bit for bit in evaluation and, with the same seed, in training.
        Anything that two pieces both use is one object in both.

    Raises:
        CrossingError: More than the output of a layer is needed after it.
        TruncateError: As for `truncate`; or the layers are not in running order.
    """
    model = module_given("split", model)
    example = _checked(model, args, kwargs, crossing)
    written = list(at) if isinstance(at, (list, tuple)) else [at]
    if not written:
        raise TruncateError("nothing to divide at: `at` holds no target")
    written = [path for one in written for path in (all_named(model, one) if names_several(model, one) else [one])]
    cut_points = [one_layer(model, cut_point, example, "at") for cut_point in written]
    end = len(cut_points)
    division = Division(model, cut_points, [Target("", "", model)], example)
    plans, pieces = made(division, end, crossing == "pass", check)
    _warn_of_content(plans)
    return tuple(deep_copy(nn.ModuleList(pieces)).children()) if copy else tuple(pieces)


def made(division: Division, arrangement: Any, everything: bool, check: bool) -> tuple[list[Plan], list[nn.Module]]:
    """The plans of a division and their modules, which are compared with the model on the example, if there is one."""
    try:
        plans = division.plans(everything)
        rebuilt = [plan for piece in plans for plan in piece.rebuilt()]
        followed = [plan.module for plan in rebuilt if not isinstance(plan, LivePlan)]
        refuse_ways_back(division.model, followed, (module for piece in plans for module in piece.kept()))
        pieces = [module_of(division, plans, number, 0) for number, _ in enumerate(plans[:-1])]
        pieces.append(module_of(division, plans, -1, arrangement))
        if division.example is not None and check:
            compare(division.model, pieces, arrangement, division.example, division.paths, division.traces)
    except (CannotFollowError, NotReachedError, WrongResultError) as error:
        again = _next_try(division, error, check)
        if again is None:
            if division.live is False and not isinstance(error, (NotReachedError, NoPythonError)):
                said = str(error)
                said += " " if said.endswith((".", "?")) else ". "
                error.args = (said + _why_not_live(division),)
            raise
        try:
            return made(again, arrangement, everything, check)
        except NotReachedError as unreached:
            raise (error if isinstance(error, NotReachedError) else unreached) from None
    return plans, pieces


def _why_not_live(division: Division) -> str:
    """What is said of the way that never fails, where it was not taken."""
    if division.cut_points or not all(target.is_module for target in division.targets):
        close = [name for target in division.targets if not target.is_module for name in close_modules(target)]
        meant = f". Or did you mean the module {' or '.join(map(repr, close))}?" if close else ""
        return (
            f"If all targets were modules, without after= and split, live=True could run the model's own Python{meant}"
        )
    return "Or pass live=True, which runs the model's own Python instead"


def _next_try(division: Division, error: TruncateError, check: bool) -> Division | None:
    """What to try when a division has failed: with all numbers fixed, and at last with the Python of the model.

    A target that was not seen to run may run unseen, as a function that leads to the original does it; if so, the check
    of the live cut tells.
    """
    traces, cannot_follow = division.traces, isinstance(error, CannotFollowError)
    if not cannot_follow and traces.passed is not None and not traces.numbers_are_fixed:
        return division.with_numbers_fixed()  # perhaps Python's C code has computed with a size, unseen
    tells = check and division.example is not None
    if division.live is None and (tells or not isinstance(error, NotReachedError)):
        return None if isinstance(error, NoPythonError) else division.all_live()
    return None


def divide(
    model: nn.Module, upto: Any, before: Any, after: Any, example: Example | None, live: bool | None = None
) -> tuple[Division, Any]:
    """The division that a user asks for, and the containers of its targets, with numbers in place of the targets."""
    if upto is not None and before is not None:
        raise TruncateError(f"upto={upto!r} and before={before!r} both say where to stop; give only one of them")
    if upto is None and before is None and after is None:
        raise TruncateError("say where to stop, for example upto='layer3'. print(layers(model)) lists all targets")
    cut_points = [] if after is None else [one_layer(model, after, example, "after")]
    stop = "" if upto is None and before is None else upto if before is None else before
    targets = [*cut_points]
    arrangement = _arrange(lambda one: targets_of(model, one, example), stop, targets, before is not None)
    if len(targets) == len(cut_points):
        name = "upto" if before is None else "before"
        raise TruncateError(f"nothing to stop at: {name} is {stop!r}, which holds no target")
    targets = targets[len(cut_points) :]
    if after is not None or not all(target.is_module for target in targets):
        if live:
            raise TruncateError(
                "live=True runs the model's own Python, which can only stop when a module has run: it takes modules in "
                "upto= or before=. Operations as targets, after= and split need a forward that is followed or recorded"
            )
        live = False
    return Division(model, cut_points, targets, example, live), arrangement


def is_whole(division: Division) -> bool:
    """Whether nothing is cut: all that is asked for is what the model itself returns."""
    targets = division.paths.targets
    return not division.cut_points and all(t.module is division.model and t.is_module and not t.items for t in targets)


def module_of(
    division: Division,
    plans: Sequence[Plan],
    number: int,
    arrangement: Any,
    then: Mapping[str, nn.Module] | None = None,
) -> nn.Module:
    """The module of one of the plans of a division, which says what it is, and what was fixed in it.

    `then`: what each of its outputs is passed through. The last one may be shown on an example what it does not need.
    """
    plan = plans[number]
    as_it_is = isinstance(arrangement, int) and not keys_of(arrangement)
    result = build(plan, None if as_it_is else arrangement, then or {})
    carry_data(division.model, result)
    bounds = ["", *(cut_point.name for cut_point in division.cut_points)]
    asked = map_nested(arrangement, lambda t: division.paths.targets[t].name) if number == -1 else bounds[number + 1]
    tell(result, division.model, asked, bounds[number], assumptions_of(plan))
    if number == -1 and division.example is not None:
        drop_what_does_not_run(result, division.example)
    return result


def _warn_of_content(plans: Sequence[Plan]) -> None:
    decided = [a.module or "the model itself" for plan in plans for a in assumptions_of(plan) if a.content]
    for name in dict.fromkeys(decided):
        warnings.warn(
            f"the forward of {name} branches on the content of a tensor. The result follows the branch that the "
            f"example took, and raises an error for an input that would take another; its `assumptions` say where",
            ContentWarning,
            stacklevel=4,
        )


def _checked(model: nn.Module, args: Any, kwargs: Any, crossing: Any) -> Example | None:
    """The example, if one is given, once everything else is of the right type."""
    if crossing not in ("refuse", "pass"):
        raise TruncateError(f"crossing is 'refuse' or 'pass', not {crossing!r}")
    return None if args is None and kwargs is None else example_of(model, args, kwargs)


def _arrange(read: Callable[[Any], Any], stop: Any, targets: list[Target], before: bool) -> Any:
    """The containers of `stop` with the numbers of the targets in their place; a list where one names several."""
    if isinstance(stop, (list, tuple)):
        items = [_arrange(read, item, targets, before) for item in stop]
        return type(stop)(*items) if hasattr(stop, "_fields") else type(stop)(items)
    if isinstance(stop, dict):
        return {key: _arrange(read, item, targets, before) for key, item in stop.items()}
    found = stop if isinstance(stop, Target) else read(stop)
    if isinstance(found, list):
        return [_arrange(read, target, targets, before) for target in found]
    targets.append(what_it_is_given(found) if before else found)
    return Numbered.of(len(targets) - 1, found.items)
