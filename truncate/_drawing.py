"""Drawing a model, and what a cut leaves of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from truncate import _html, _svg, _terminal
from truncate._api import truncate
from truncate._build import Truncated
from truncate._divide import Division
from truncate._errors import ExtractError, TruncateError
from truncate._example import example_of
from truncate._layers import layers
from truncate._marks import items_with_steps, mark_cut, mark_result, mark_whole, tag_of
from truncate._multiply_adds import multiply_adds
from truncate._picture import Picture
from truncate._places import count_parameters
from truncate._target import Target, resolve
from truncate._whole import whole

if TYPE_CHECKING:
    from rich.console import RenderableType

_WRITERS = {".svg": _svg.page, ".html": _html.page}


class Drawing:
    """A picture of a model. Prints as a tree, and shows itself in a notebook."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture

    def __str__(self) -> str:
        return _terminal.plain(self.__rich__())

    def __rich__(self) -> RenderableType:
        return _terminal.tree(self.picture)

    def _repr_html_(self) -> str:
        return _html.fragment(self.picture)


def draw(
    model: nn.Module,
    upto: Any = None,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    before: Any = None,
    to: str | os.PathLike[str] | None = None,
) -> Drawing:
    """A picture of a model, and of what ``truncate(model, upto)`` leaves of it. The model is not changed.

    Args:
        model: Any module. One that `truncate` made is drawn as it is: what it returns is marked.
        upto: Where to stop, as for `truncate`: one place, or several in a list, tuple or dict. Without it and
            `before`, the model is drawn whole.
        args: An example input, as for ``torch.export.export``. With one, the picture shows the shape of what each
            place returns, and its multiply-adds. It may be on the meta device, where nothing is computed.
        kwargs: Its keyword arguments.
        before: In place of `upto`: stops at what a place is given.
        to: A file to write: ``.svg``, a picture that stands still, or ``.html``, a page that folds and is searched.
            Both need nothing else. The file is there whole or not at all.

    Returns:
        An object that prints as a tree, in colours where `rich` prints it, and that a notebook shows as HTML. Blocks
        that repeat are drawn as one.

    Raises:
        TruncateError: The file cannot be written, or is to be of another kind; or what `truncate` raises.
    """
    if not isinstance(model, nn.Module):
        raise TruncateError(f"draw takes a torch.nn.Module, but got {model!r} of type {type(model).__name__}")
    if upto is not None and before is not None:
        raise TruncateError(f"upto={upto!r} and before={before!r} are two places to stop; give one of them")
    path = None if to is None else Path(to)
    if path is not None and path.suffix not in _WRITERS:
        raise TruncateError(f"a drawing is written as .svg or .html, and {str(path)!r} ends in neither")
    picture = layers(model, args, kwargs).picture()
    stop = upto if before is None else before
    if stop is not None:
        kwargs = None if kwargs is None else dict(kwargs)
        cut = truncate(model, upto, args, kwargs, before=before, check=False)
        targets = _targets(model, stop, before is not None)
        if all(target.is_module and target.module is model for target in targets.values()):
            mark_whole(picture.root, list(targets))
        else:
            example = None if args is None and kwargs is None else example_of(model, args, kwargs)
            plan = Division(model, [], list(targets.values()), example).plans(everything=False)[-1]
            mark_cut(picture.root, plan, targets)
        places = ", ".join(target.text or "the end" for target in targets.values())
        picture.cut = f"{'before' if upto is None else 'up to'} {places}"
        picture.left_parameters = count_parameters(cut)
        if picture.root.work is not None:
            picture.left_work = (multiply_adds(cut, [""], args or (), kwargs or {}) or {}).get("")
    elif isinstance(model, Truncated):
        mark_result(picture.root, model)
    drawing = Drawing(picture)
    if path is not None:
        _write(path, _WRITERS[path.suffix](picture))
    return drawing


def _targets(model: nn.Module, stop: Any, before: bool) -> dict[str, Target]:
    """The targets by where they stand in the result."""
    targets = {}
    for steps, written in items_with_steps(stop):
        target = dataclasses.replace(resolve(model, written), before=before)
        call = "" if target.call == -1 else f" (call {target.call})"
        targets[tag_of(steps) + call + (": what it is given" if before else "")] = target
    return targets


def _write(path: Path, text: str) -> None:
    try:
        with whole(path) as file:
            file.write(text.encode())
    except ExtractError as error:
        raise TruncateError(f"{error}. Nothing was written; give another path to `to`") from error


def _html_of(module: Truncated) -> str:
    return draw(module)._repr_html_()


def _tree_of(module: Truncated) -> RenderableType:
    return draw(module).__rich__()


# Here, since the room of that class is below this one.
Truncated._repr_html_ = _html_of  # type: ignore[attr-defined]
Truncated.__rich__ = _tree_of  # type: ignore[attr-defined]
