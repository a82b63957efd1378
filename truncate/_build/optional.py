"""Arguments that a cut does not read, and that may be left out when it is called, where the model requires them."""

from __future__ import annotations

import inspect
import re
import types
import typing
from typing import Any, NamedTuple

from truncate._graph import Call, Kind, Node
from truncate._plan import Plan


class MayBeLeftOut(NamedTuple):
    """Of the arguments without a default, those that get one in a cut."""

    unread: frozenset[str]  # what the cut does not read
    needed: frozenset[str]  # what the cut needs, but which follows such an argument: Python wants a default there too


NOTHING_LEFT_OUT = MayBeLeftOut(frozenset(), frozenset())


def optional_in(plan: Plan, hints: dict[str, Any]) -> MayBeLeftOut:
    """What may be left out when the forward of a plan is called.

    Nothing is known of how the model would run without it, and it does not run so: what the cut computes has no part
    in that. An argument that has a default is another matter. It stays as it was in the call that was followed, since
    the model may do something else where it is left out.
    """
    if plan.parameters is None or not plan.forms:
        return NOTHING_LEFT_OUT
    call = plan.forms[0].call
    read = {node.target for branch in plan.branches for node in branch.live if node.kind is Kind.INPUT}
    required = [p.name for p in plan.parameters if _is_required(plan, p)]
    alone = _given_alone(call, plan.parameters)
    unread = [name for name in required if name in alone and alone[name] not in read]
    by_position = {p.name for p in plan.parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)}
    needed: list[str] = []
    for position, name in enumerate(required):
        if name not in unread and name in by_position and any(n in unread for n in required[:position]):
            if name not in alone or (_may_be_none(hints.get(name)) and name not in _required_before(plan)):
                # That it is missing could not be told from what it is: so what comes before it has to be given.
                unread = [n for n in unread if n not in by_position or required.index(n) > position]
                needed = []
            else:
                needed.append(name)
    return MayBeLeftOut(frozenset(unread), frozenset(needed))


def missing(name: str, unread: frozenset[str]) -> list[str]:
    """What a forward begins with where an argument that it needs has a default for the sake of the one before it."""
    others = " and ".join(sorted(unread))
    text = f"this cut needs {name}, and it was not given. Only {others} may be left out: pass {name}={name}"
    return [f"if {name} is None:", f"    raise TypeError({text!r})"]


def required_by_model(forward: types.FunctionType, source: str) -> tuple[str, ...]:
    """The arguments of a generated forward that have a default, although the model requires them.

    These are the ones that it needs, and begins by asking for; and the ones that it does not name again.
    """
    _, _, body = source.partition("\n")
    by_default = [p.name for p in inspect.signature(forward).parameters.values() if p.default is None]
    asks = [name for name in by_default if f"    if {name} is None:\n        raise TypeError(" in body]
    body = re.sub(r"raise \w+\(.*\)\n", "", body)  # the text of an error may name any of them
    # Not as an attribute, nor as the name of another function's argument.
    return tuple(n for n in by_default if n in asks or not re.search(rf"(?<![\w.]){n}\b(?!\s*=[^=])", body))


def _is_required(plan: Plan, parameter: inspect.Parameter) -> bool:
    if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
        return False  # TorchScript takes no argument by name alone that has a default
    return parameter.default is parameter.empty or parameter.name in _required_before(plan)


def _required_before(plan: Plan) -> tuple[str, ...]:
    """Of a cut that is cut again, the arguments that the model itself requires."""
    names: tuple[str, ...] = getattr(type(plan.module), "_truncated_required", ())
    return names


def _given_alone(call: Call, parameters: tuple[inspect.Parameter, ...]) -> dict[str, str]:
    """The names of the inputs that are one whole argument, by that argument."""
    bound = inspect.Signature(list(parameters)).bind(*call.args, **call.kwargs).arguments
    return {name: value.target for name, value in bound.items() if type(value) is Node}


def _may_be_none(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in typing.get_args(hint)
