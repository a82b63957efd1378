"""The head of a generated forward: its signature, where the inputs lie in the arguments, and what it refuses."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from typing import Any

import torch
from torch import Tensor

from truncate._build.names import Names
from truncate._build.optional import NOTHING_LEFT_OUT, MayBeLeftOut, missing
from truncate._build.writer import Writer
from truncate._errors import CannotFollowError, FixedArgumentError, NotReachedError
from truncate._graph import Call, Node, is_container, is_dataclass_value, is_plain_name


def annotation(names: Names, hint: Any) -> str:
    """The text of a type that TorchScript knows, or nothing."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return "None"
    if hint is Tensor or hint in (int, float, bool, str):
        return str(hint.__name__)
    inner = [annotation(names, arg) for arg in args if arg is not type(None)]
    if not origin or not all(inner):
        return ""
    if origin in (typing.Union, types.UnionType) and len(inner) == 1 and len(args) == 2:
        return f"{names.of(typing.Optional)}[{inner[0]}]"
    if origin in (list, dict, tuple):
        return f"{names.of(getattr(typing, origin.__name__.capitalize()))}[{', '.join(inner)}]"
    return ""


def head(
    names: Names,
    signature_kept: tuple[inspect.Parameter, ...] | None,
    call: Call,
    used: list[str],
    hints: dict[str, Any],
    optional: MayBeLeftOut = NOTHING_LEFT_OUT,
) -> tuple[str, list[str], dict[str, str]]:
    """The ``def`` line, the statements that open the body, and the expression for each input."""
    if signature_kept is None:
        typed = [(name, annotation(names, hints.get(name))) for name in used]
        parameters = ["self", *(f"{name}: {text}" if text else name for name, text in typed)]
        return f"def forward({', '.join(parameters)}):", [], {name: name for name in used}
    signature = inspect.Signature(list(signature_kept))
    bound = signature.bind(*call.args, **call.kwargs).arguments
    written: list[str] = ["self"]
    opening: list[str] = []
    inputs: dict[str, str] = {}
    for parameter in signature_kept:
        name, given = parameter.name, bound.get(parameter.name, _LEFT_OUT)
        if not is_plain_name(name) or name == "self":
            raise CannotFollowError(f"a forward has an argument called {name!r}, which its source cannot contain")
        stars = _STARS.get(parameter.kind, "")
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in "".join(p[:1] for p in written):
            written.append("*")
        text = f"{stars}{name}"
        declared = hints.get(name)
        if name in optional.unread or name in optional.needed:
            parameter, declared = parameter.replace(default=None), declared and typing.Optional[declared]  # noqa: UP045
        hint = annotation(names, declared)
        if not hint and parameter.default is None:  # TorchScript would take it for a tensor, which is never None
            hint = annotation(names, Tensor | None)
        text += f": {hint}" if hint else ""
        if parameter.default is not parameter.empty:
            text += f" = {_constant(names, parameter.default)}"
        written.append(text)
        if name in optional.unread:
            continue
        if given is _LEFT_OUT and not stars:
            given = parameter.default
        elif given is _LEFT_OUT:
            given = () if stars == "*" else {}
        if name in optional.needed:
            opening += missing(name, optional.unread)
        elif parameter.default is None and (type(given) is Node or is_container(given)):
            text = (
                f"this module was cut on an example that gave {name}, so {name} cannot be left out. "
                f"Pass {name}, or cut the model again: on an example without it, or with live=True"
            )
            opening += [f"if {name} is None:", f"    raise {names.of(FixedArgumentError)}({text!r})"]
        _open(names, name, given, opening, inputs)
    return f"def forward({', '.join(written)}):", opening, inputs


_LEFT_OUT = object()
_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def _constant(names: Names, value: Any) -> str:
    return Writer(names, str, {}).value(value)


def _open(names: Names, expression: str, given: Any, opening: list[str], inputs: dict[str, str]) -> None:
    """Reads the inputs out of one argument, and refuses what differs from the constants that were assumed."""
    if type(given) is Node:
        inputs[given.target] = expression
        return
    if is_dataclass_value(given):
        for field in dataclasses.fields(given):
            _open(names, names.attribute(expression, field.name), getattr(given, field.name), opening, inputs)
        return
    if isinstance(given, (tuple, list, dict)):
        if not given or not isinstance(given, dict):
            differs = f"{names.builtin(len)}({expression}) != {len(given)}"
        else:
            keys = ", ".join(_constant(names, key) for key in given)
            differs = f"{names.builtin(set)}({expression}) != {{{keys}}}"
        _refuse(names, differs, expression, _shape_text(given), opening)
        for key, item in given.items() if isinstance(given, dict) else enumerate(given):
            _open(names, f"{expression}[{_constant(names, key)}]", item, opening, inputs)
        return
    fixed = _constant(names, given)
    if type(given) is float and given != given:
        differs = f"{expression} == {expression}"  # which no NaN is
    elif type(given) is bool:  # an exporter that traces passes a tensor, which it cannot compare with a bool
        differs = f"{expression} != {int(given)}"
    else:
        differs = f"{expression} {'!=' if type(given) in _COMPARED else 'is not'} {fixed}"
    _refuse(names, differs, expression, fixed, opening)


# Each time that it is written it is another object, so it is not compared by `is`.
_COMPARED = (int, float, complex, str, bytes, slice, torch.device)


def _shape_text(given: Any) -> str:
    return f"{type(given).__name__} of {len(given)}"


def _refuse(names: Names, condition: str, expression: str, fixed: str, opening: list[str]) -> None:
    text = (
        f"this module was cut with {expression} = {fixed}, and accepts no other value. "
        f"Pass that value, or cut the model again: on an example with the value that you need, or with live=True"
    )
    opening += [f"if {condition}:", f"    raise {names.of(FixedArgumentError)}({text!r})"]


def refuse_branch(names: Names, reason: str) -> list[str]:
    """The body of a branch that does not lead to the target."""
    return [f"raise {names.of(NotReachedError)}({reason!r})"]
