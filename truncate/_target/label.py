"""What a cut says of itself: the model that it was cut from, and what was asked for."""

from __future__ import annotations

from typing import Any

from torch import nn

BEFORE = "before "  # in front of a path: what this layer is given
ABOUT = "_truncate_about"  # of a cut: what is said of it, as plain text, which keeps no model alive and scripts


def tell(made: nn.Module, model: nn.Module, targets: Any, after: str, assumptions: Any) -> None:
    """Lets a cut say what it is, where nothing of the model has these names: `origin`, `targets` and `assumptions`.

    Args:
        made: The cut.
        model: What was cut. Of a cut that is cut again, the origin is the model that was cut first.
        targets: The targets, as text, in the containers that were asked for.
        after: The target after which it begins, if it does.
        assumptions: What was fixed where a forward was recorded.
    """
    kind = type(model)
    origin = about(model).get("origin", f"{kind.__module__}.{kind.__qualname__}")
    said = {"origin": origin, "targets": targets, "assumptions": assumptions}
    names = [name for name in said if name in names_of(model) or not hasattr(made, name)]
    made.__dict__.update({name: said[name] for name in names})
    made.__dict__[ABOUT] = {"origin": origin, "targets": targets, "after": after, "names": tuple(names)}


def about(module: nn.Module) -> dict[str, Any]:
    """What a cut says of itself; nothing if it is none."""
    said: dict[str, Any] = vars(module).get(ABOUT, {})
    return said


def names_of(module: nn.Module) -> tuple[str, ...]:
    """The names of those attributes of a module by which it says what it is, and that are none of the model's."""
    names: tuple[str, ...] = about(module).get("names", ())
    return names


def headline(module: Any) -> str:
    """What a cut is, in one line: the class of the model, and the targets; nothing if it is no cut."""
    said = about(module)
    if not said:
        return ""
    words = [said["origin"].rpartition(".")[2]]
    words += [f"after {said['after']!r}"] if said["after"] else []
    targets = said["targets"]
    if isinstance(targets, str) and targets.startswith(BEFORE):
        words += [f"{BEFORE}{targets.removeprefix(BEFORE)!r}"]
    elif targets != "":
        words += [f"up to {targets!r}"]
    return ", ".join(words)
