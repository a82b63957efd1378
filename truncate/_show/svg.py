"""A drawing as SVG that needs nothing else: repeated blocks are drawn once, light or dark as the reader's screen."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from truncate._show.tree import Diagram, Mark, Repeated, TreeNode, folded, number, percent

# Colours are written out, since not every program that shows SVG knows variables of CSS.
_LIGHT = {
    "ground": "#ffffff",
    "text": "#1f2328",
    "faint": "#626a73",
    "line": "#d8dee4",
    "type": "#0757b0",
    "kept": "#1a7f37",
    "returned": "#7a35d4",
    "band": "#f3ecff",
    "bar": "#63b67a",
}
_DARK = {
    "ground": "#0d1117",
    "text": "#e6edf3",
    "faint": "#969fa9",
    "line": "#30363d",
    "type": "#6cb3ff",
    "kept": "#46c15a",
    "returned": "#c49bff",
    "band": "#271d3f",
    "bar": "#2f8f4a",
}
_COLOURS = """text { fill: %(text)s; }
.ground { fill: %(ground)s; }
.band { fill: %(band)s; }
.bar { fill: %(bar)s; }
.guide { stroke: %(line)s; }
.head text, .note { fill: %(faint)s; }
.type { fill: %(type)s; }
.times, .tag { fill: %(returned)s; }
.kept > circle, path.half { fill: %(kept)s; }
.partly > circle { stroke: %(kept)s; }
.dropped > circle { stroke: %(faint)s; }
.returned > circle { stroke: %(returned)s; }
.row.dropped text { fill: %(faint)s; }
.row.dropped .bar { fill: %(faint)s; }
"""
STYLE = f"""
text {{ font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre; }}
.title {{ font-size: 16px; font-weight: bold; }}
.guide {{ fill: none; }}
.times, .tag {{ font-weight: bold; }}
.number {{ text-anchor: end; }}
circle {{ stroke-width: 1.2; }}
.partly > circle, .dropped > circle, .returned > circle {{ fill: none; }}
.returned > circle {{ stroke-width: 3; }}
.row.returned text {{ font-weight: bold; }}
.quiet text {{ font-style: italic; }}
{_COLOURS % _LIGHT}@media (prefers-color-scheme: dark) {{
{_COLOURS % _DARK}}}
"""
_CLASSES = {Mark.RETURNED: "returned", Mark.KEPT: "kept", Mark.PARTLY: "partly", Mark.DROPPED: "dropped"}
_LETTER = 7.25  # how wide one is at 12 px; fonts of one width differ by little
_LINE = 20
_EDGE = 16
_STEP = 16  # how far what is inside a node is moved in
_GAP = 18  # between columns
_BAR = 56  # how long the bar of everything is
_MOST = 44  # letters in one column
_LEAST = 620


def page(diagram: Diagram, style: str = STYLE) -> str:
    """A whole file."""
    return _Page(diagram).drawn(style)


class _Page:
    def __init__(self, diagram: Diagram) -> None:
        self._diagram = diagram
        self._lines = list(_lines(Repeated([diagram.root]), 0))
        self._signs = 18 if diagram.marks else 0
        nodes = [repeated.first for repeated, _ in self._lines]
        names = [_EDGE + self._signs + level * _STEP + _wide(self._name(repeated)) for repeated, level in self._lines]
        self._columns = ["parameters", *["work"] * (diagram.root.work is not None)]
        self._type = int(max(names)) + _GAP
        self._shape = self._type + _wide("type", *(_type(item) for item in nodes)) + _GAP
        shapes = [_short(item.shape) for item in nodes]
        right = self._shape + (_wide("output", *shapes) + _GAP if any(shapes) else 0)
        self._shapes = any(shapes)
        self._numbers: list[int] = []  # where each column of them ends
        for column in self._columns:
            texts = [number(getattr(repeated.first, column), repeated.times) for repeated, _ in self._lines]
            right += _wide("multiply-adds", *texts)
            self._numbers.append(right)
            right += 6 + _BAR + _GAP
        notes = _wide(*(item.notes for item in nodes), "")
        self._notes = right
        self._width = max(_LEAST, right + notes, _EDGE + _wide(*(self._fact(fact) for fact in diagram.facts))) + _EDGE
        self._width = max(self._width, _EDGE * 2 + int(_wide(self._title) * 4 / 3))

    @property
    def _title(self) -> str:
        return f"{self._diagram.title} {self._diagram.cut}".strip()

    def drawn(self, style: str) -> str:
        head = list(self._head())
        top = 44 + _LINE * len(self._diagram.facts) + (_LINE + 6 if self._diagram.marks else 0)
        rows = [row for i, line in enumerate(self._lines) for row in self._row(*line, top + _LINE * (i + 1))]
        height = top + _LINE * (len(self._lines) + 1) + _EDGE
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width} {height}" width="{self._width}" '
            f'height="{height}" xml:space="preserve" role="img" aria-label="{escape(self._title)}">\n'
            f"<style>{style}</style>\n"
            f'<rect class="ground" width="100%" height="100%" rx="8"/>\n'
            + "\n".join([*head, *self._names(top), *rows])
            + "\n</svg>\n"
        )

    def _head(self) -> Iterator[str]:
        yield f'<text class="title" x="{_EDGE}" y="30">{escape(self._title)}</text>'
        y = 52
        for fact in self._diagram.facts:
            yield f'<text x="{_EDGE}" y="{y}">{escape(self._fact(fact))}</text>'
            y += _LINE
        x = _EDGE
        for mark in self._diagram.marks:
            text = f'<text x="{x + 18}" y="{y + 4}">{mark.value}</text>'
            yield f'<g class="{_CLASSES[mark]}">{_sign(mark, x + 6, y)}{text}</g>'
            x += 18 + _wide(mark.value) + _GAP

    def _fact(self, fact: tuple[str, str]) -> str:
        return f"{fact[0]}: {fact[1]}"

    def _names(self, y: int) -> Iterator[str]:
        """The line that says what the columns are."""
        texts = [
            f'<text x="{_EDGE + self._signs}" y="{y + 14}">target</text>',
            f'<text x="{self._type}" y="{y + 14}">type</text>',
        ]
        texts += [f'<text x="{self._shape}" y="{y + 14}">output</text>'] * self._shapes
        for right, name in zip(self._numbers, ("parameters", "multiply-adds")):
            texts.append(f'<text class="number" x="{right}" y="{y + 14}">{name}</text>')
        texts.append(f'<path class="guide" d="M{_EDGE} {y + _LINE - 0.5}H{self._width - _EDGE}"/>')
        yield f'<g class="head">{"".join(texts)}</g>'

    def _name(self, repeated: Repeated) -> str:
        """All that stands in the first column."""
        times = f" × {repeated.times}" if repeated.times > 1 else ""
        tag = f" {repeated.first.returned_as}" if repeated.first.returned_as else ""
        return f"{_short(repeated.label)}{times}{tag}"

    def _row(self, repeated: Repeated, level: int, y: int) -> Iterator[str]:
        item, base = repeated.first, y + 14
        kinds = [
            "row",
            *([_CLASSES[item.mark]] if item.mark else []),
            *(["quiet"] if item.quiet else []),
        ]
        yield f'<g class="{" ".join(kinds)}"><title>{escape(self._says(repeated))}</title>'
        if item.mark is Mark.RETURNED:
            yield _box("band", _EDGE - 6, y, self._width - 2 * _EDGE + 12, _LINE)
        if level:
            guides = [f"M{_EDGE + self._signs + step * _STEP + 5.5} {y}v{_LINE}" for step in range(level)]
            yield f'<path class="guide" d="{"".join(guides)}"/>'
        if item.mark:
            yield _sign(item.mark, _EDGE + 6, y + 10)
        times = f'<tspan class="times"> × {repeated.times}</tspan>' if repeated.times > 1 else ""
        tag = f'<tspan class="tag"> {escape(item.returned_as)}</tspan>' if item.returned_as else ""
        x = _EDGE + self._signs + level * _STEP
        yield f'<text x="{x}" y="{base}">{escape(_short(repeated.label))}{times}{tag}</text>'
        if _type(item):
            yield f'<text class="type" x="{self._type}" y="{base}">{escape(_type(item))}</text>'
        if item.shape:
            yield f'<text x="{self._shape}" y="{base}">{escape(_short(item.shape))}</text>'
        for column, right in zip(self._columns, self._numbers):
            share = self._diagram.share(repeated, column)
            text = number(getattr(item, column), repeated.times)
            if share:
                yield _box("bar", right + 6, y + 6, max(1.0, _BAR * min(1.0, share)), 9)
            if text:
                yield f'<text class="number" x="{right}" y="{base}">{text}</text>'
        if item.notes:
            yield f'<text class="note" x="{self._notes}" y="{base}">{escape(item.notes)}</text>'
        yield "</g>"

    def _says(self, repeated: Repeated) -> str:
        """A line in words, for those who point at it or cannot see it."""
        item = repeated.first
        last = f" … {repeated.nodes[-1].path}" if repeated.times > 1 else ""
        share = percent(self._diagram.share(repeated, "parameters"))
        parts = [
            item.path + last,
            item.type if item.path else item.name,
            item.mark.value if item.mark else "",
        ]
        return ", ".join(filter(None, [*parts, item.shape, f"{share} of the parameters" if share else ""]))


def _lines(repeated: Repeated, level: int) -> Iterator[tuple[Repeated, int]]:
    yield repeated, level
    for inner in folded(repeated.first.inside):
        yield from _lines(inner, level + 1)


def _type(item: TreeNode) -> str:
    return _short(item.type) if item.path else ""


def _short(text: str) -> str:
    """A text that fits into a column, with its middle left out if it does not."""
    half = _MOST // 2 - 1
    return text if len(text) <= _MOST else f"{text[:half]}…{text[-half:]}"


def _wide(*texts: str) -> int:
    return int(max(map(len, texts)) * _LETTER) + 1


def _sign(mark: Mark, x: float, y: float) -> str:
    half = f'<path class="half" d="M{x} {y - 4.5}a4.5 4.5 0 0 0 0 9z"/>' if mark is Mark.PARTLY else ""
    return f'<circle cx="{x}" cy="{y}" r="{3.5 if mark is Mark.RETURNED else 4.5}"/>{half}'


def _box(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.0f}" y="{y}" width="{width:.1f}" height="{height}" rx="2"/>'
