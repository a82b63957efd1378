"""A drawing as HTML that needs nothing else: it can be folded and searched, and a click copies a target."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from html import escape
from importlib import resources

from truncate._show.tree import Diagram, Mark, Repeated, folded, number, percent

_CLASSES = {Mark.RETURNED: "returned", Mark.KEPT: "kept", Mark.PARTLY: "partly", Mark.DROPPED: "dropped"}
_FEW = 60  # so many rows are all shown at first


def page(diagram: Diagram) -> str:
    """A whole page."""
    title = escape(f"{diagram.title} {diagram.cut}".strip())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{title}</title><style>body {{ margin: 0; background: #ffffff; }} "
        "@media (prefers-color-scheme: dark) { body { background: #0d1117; } }</style>"
        f"</head><body>\n{fragment(diagram)}\n</body></html>\n"
    )


def fragment(diagram: Diagram) -> str:
    """What a page shows, as a notebook puts it between other things."""
    columns = 1 + any(item.shape for item in diagram.root.walk()) + (diagram.root.work is not None)
    facts = "".join(f"<p>{escape(name)}: {escape(value)}</p>" for name, value in diagram.facts)
    legend = "".join(f"<span>{_sign(mark)}{mark.value}</span>" for mark in diagram.marks)
    return (
        f'<div class="truncate-drawing" style="--columns: {columns}"><style>\n{_resource("tree.css")}</style>\n'
        f"<h1>{escape(diagram.title)} <span>{escape(diagram.cut)}</span></h1>\n{facts}\n"
        + (f'<p class="legend">{legend}</p>\n' if legend else "")
        + '<div class="tools" role="search" hidden="hidden">'
        '<input type="search" placeholder="find a layer" aria-label="Find a layer by its path or type"/>'
        '<button type="button" data-fold="open">unfold all</button>'
        '<button type="button" data-fold="closed">fold all</button>'
        '<span class="said" role="status" aria-live="polite"></span></div>\n'
        f"{''.join(_Rows(diagram, columns).drawn())}\n"
        f"<script>\n//<![CDATA[\n{_resource('tree.js')}//]]>\n</script></div>"
    )


@functools.cache
def _resource(name: str) -> str:
    return resources.files("truncate._show").joinpath(name).read_text(encoding="utf-8")


def _sign(mark: Mark | None) -> str:
    return (
        f'<span class="mark {_CLASSES[mark]}" role="img" aria-label="{mark.value}"></span>' if mark else "<span></span>"
    )


class _Rows:
    """The rows of one drawing, line by line."""

    def __init__(self, diagram: Diagram, columns: int) -> None:
        self._diagram = diagram
        self._shapes = columns > 1 + (diagram.root.work is not None)
        self._all_open = sum(1 for _ in diagram.root.walk()) <= _FEW

    def drawn(self) -> Iterator[str]:
        names = [("name", "target"), ("type", "type"), *[("shape", "output")] * self._shapes, ("count", "parameters")]
        names += [("count work", "multiply-adds")] * (self._diagram.root.work is not None)
        bars = {"count": "<i></i>", "count work": "<i></i>"}
        cells = "".join(
            f'<span class="{kind}" style="--level: 0">{name}{bars.get(kind, "")}</span>' for kind, name in names
        )
        yield f'<div class="row head" aria-hidden="true"><span></span>{cells}</div>\n'
        yield "<ul>\n"
        yield from self._item(Repeated([self._diagram.root]), 0)
        yield "</ul>"

    def _item(self, repeated: Repeated, level: int) -> Iterator[str]:
        """One node with what is inside it; of several that look alike, all of them inside one."""
        item = repeated.first
        if repeated.times > 1:
            inside = [Repeated([each]) for each in repeated.nodes]
        else:
            inside = folded(item.inside)
        find = f' data-find="{escape(f"{item.path} {item.type}".lower())}"' if self._is_target(repeated) else ""
        yield f"<li{find}>"
        if not inside:
            yield f"<div{self._row(repeated, level)}</div></li>\n"
            return
        yield f"<details{self._open(repeated, level)}><summary{self._row(repeated, level)}</summary><ul>\n"
        for inner in inside:
            yield from self._item(inner, level + 1)
        yield "</ul></details></li>\n"

    def _is_target(self, repeated: Repeated) -> bool:
        return repeated.times == 1 and repeated.first.is_target

    def _open(self, repeated: Repeated, level: int) -> str:
        """At first, the first level is unfolded and what leads to a target; in a small drawing all but what repeats."""
        leads = any(inner.returned_as for inner in repeated.first.walk() if inner is not repeated.first)
        is_open = level == 0 or leads or (self._all_open and repeated.times == 1)
        return ' open="open"' if is_open else ""

    def _row(self, repeated: Repeated, level: int) -> str:
        item, times = repeated.first, repeated.times
        kinds = [
            "row",
            *([_CLASSES[item.mark]] if item.mark else []),
            *(["quiet"] if item.quiet else []),
        ]
        name = f"<code>{escape(repeated.label)}</code>"
        if self._is_target(repeated):
            path = escape(item.path)
            name = (
                f'<button type="button" class="copy" data-target="{path}" title="copy {path}" '
                f'aria-label="Copy the target {path}">{escape(item.name)}</button>'
            )
        if times > 1:
            name += f' <span class="times">× {times}</span>'
        if item.returned_as:
            name += f' <span class="tag">{escape(item.returned_as)}</span>'
        notes = f" <small>{escape(item.notes)}</small>" if item.notes else ""
        kind = escape(item.type) if item.path else ""
        shape = f'<span class="shape" title="{escape(item.shape)}">{escape(item.shape)}</span>' if self._shapes else ""
        work = self._count(repeated, "work") if self._diagram.root.work is not None else ""
        return (
            f' class="{" ".join(kinds)}">{_sign(item.mark)}<span class="name" style="--level: {level}">{name}</span>'
            f'<span class="type">{kind}{notes}</span>{shape}{self._count(repeated, "parameters")}{work}'
        )

    def _count(self, repeated: Repeated, column: str) -> str:
        share = self._diagram.share(repeated, column)
        text = number(getattr(repeated.first, column), repeated.times)
        bar = f'<i style="--share: {share or 0:.4f}"></i>'
        return f'<span class="count {column}" title="{escape(percent(share))}">{text}{bar}</span>'
