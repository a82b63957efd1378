"""Drawing a model, and what a cut leaves of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from truncate._api import divide, is_whole, made
from truncate._build import Truncated
from truncate._errors import ExtractError, TruncateError
from truncate._files import whole
from truncate._sandbox import example_of
from truncate._show import html, png, svg, terminal
from truncate._show.counting import multiply_adds
from truncate._show.listing import layers
from truncate._show.marks import items_with_steps, mark_cut, mark_result, mark_whole, tag_of
from truncate._show.search import count_parameters
from truncate._show.tree import Diagram
from truncate._target import Target, module_given

if TYPE_CHECKING:
    from rich.console import RenderableType

_WRITERS: dict[str, Callable[[Diagram], str | bytes]] = {".svg": svg.page, ".html": html.page, ".png": png.page}


class Drawing:
    """A drawing of a model. It prints as a tree, and a notebook shows it as HTML."""

    def __init__(self, diagram: Diagram) -> None:
        self.diagram = diagram.printable()

    def __repr__(self) -> str:
        return f"<drawing of {' '.join(filter(None, (self.diagram.title, self.diagram.cut)))}>"

    def __str__(self) -> str:
        return terminal.plain(self.__rich__())

    def __rich__(self) -> RenderableType:
        terminal.need_rich()
        return terminal.tree(self.diagram)

    def _repr_html_(self) -> str:
        return html.fragment(self.diagram)


def draw(
    model: nn.Module,
    upto: Any = None,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    *,
    before: Any = None,
    after: Any = None,
    live: bool | None = None,
    to: str | os.PathLike[str] | None = None,
) -> Drawing:
    """A drawing of a model, and of what ``truncate(model, upto)`` keeps of it. The model is not changed.

    Args:
        model: Any module. If `truncate` made it, the drawing marks its outputs.
        upto: Where to stop, as for `truncate`: one target, or several in a list, tuple or dict. Without `upto`,
            `before` and `after`, the whole model is drawn.
        args: An example input, as for ``torch.export.export``. With an example, the drawing shows the output shape
            and the multiply-adds of each layer. It may be on the meta device, where nothing is computed.
        kwargs: Keyword arguments of the example.
        before: Instead of `upto`: stops at the input of a layer.
        after: Where to start: after this layer.
        live: Which modules keep the model's own Python, as for `truncate`. The drawing notes which modules were
            recorded, and which are live; all others on the path were followed.
        to: A file to write: ``.svg``, a static drawing; ``.png``, the same as pixels, which needs `resvg_py` and a
            font of one width; or ``.html``, a page that can be folded and searched. None of them needs another file.
            The file is either complete or not there.

    Returns:
        An object that prints as a tree (in colours with `rich`), and that a notebook shows as HTML. Blocks that repeat
        are drawn once.

    Raises:
        TruncateError: The file cannot be written, or its suffix is not supported; or any error of `truncate`.
    """
    model = module_given("draw", model)
    path = None if to is None else Path(to)
    if path is not None and path.suffix not in _WRITERS:
        raise TruncateError(f"a drawing is written as {', '.join(_WRITERS)}, but {str(path)!r} ends in none of these")
    diagram = layers(model, args, kwargs).diagram()
    if upto is not None or before is not None or after is not None:
        example = None if args is None and kwargs is None else example_of(model, args, kwargs)
        division, arrangement = divide(model, upto, before, after, example, live)
        asked = [(steps, division.paths.targets[number]) for steps, number in items_with_steps(arrangement)]
        targets = {_tag(steps, target): target for steps, target in asked}
        cut = model
        if is_whole(division):
            mark_whole(diagram.root, list(targets))
        else:
            plans, pieces = made(division, arrangement, everything=True, check=False)
            cut = pieces[-1]
            mark_cut(diagram.root, plans[-1], targets, cut)
        stops = ", ".join(target.text or "the end" for target in targets.values())
        begin = f"after {division.cut_points[0].text}, " if after is not None else ""
        diagram.cut = f"{begin}{'up to' if before is None else 'before'} {stops}"
        diagram.left_parameters = count_parameters(cut)
        if diagram.root.work is not None and after is None:  # what begins after a layer does not run on the example
            diagram.left_work = (multiply_adds(cut, [""], args or (), kwargs or {}) or {}).get("")
    elif isinstance(model, Truncated):
        mark_result(diagram.root, model)
    drawing = Drawing(diagram)
    if path is not None:
        _write(path, _WRITERS[path.suffix](drawing.diagram))
    return drawing


def _tag(steps: tuple[Any, ...], target: Target) -> str:
    """Where a target stands in the result, and which of its values that is."""
    call = "" if target.call == -1 else f" (call {target.call})"
    return tag_of(steps) + call + (": what it is given" if target.before else "")


def _write(path: Path, content: str | bytes) -> None:
    try:
        with whole(path) as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except ExtractError as error:
        raise TruncateError(f"{error}. Nothing was written; give another path to `to`") from error


def _html_of(module: Truncated) -> str:
    return draw(module)._repr_html_()


def _tree_of(module: Truncated) -> RenderableType:
    return draw(module).__rich__()


# Set here, since the package of that class must not import this one.
Truncated._repr_html_ = _html_of  # type: ignore[attr-defined]
Truncated.__rich__ = _tree_of  # type: ignore[attr-defined]
