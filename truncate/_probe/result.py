"""What `probe` returns: a table of layers, which knows the best and the cheapest, and makes modules of them."""

from __future__ import annotations

import dataclasses
import os
from collections import OrderedDict
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, overload

from torch import nn

from truncate._api import truncate
from truncate._errors import ExtractError, TruncateError, printable
from truncate._extract import evaluating
from truncate._files import whole
from truncate._probe import curve
from truncate._probe.choose import BEFORE
from truncate._probe.scores import Array, Measures, Trial
from truncate._probe.taps import Pass
from truncate._sandbox import Example
from truncate._show import percent, plain
from truncate._tune import WithHead

if TYPE_CHECKING:
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class ProbedLayer:
    """One row: a layer with a pooling, and what was found there."""

    layer: str  #: a target of `truncate`, or ``before`` and one: what that layer is given
    pool: str  #: how its output was made one vector: "avg", "mean", "cls", or the type of a module; "": it was one
    dimension: int  #: how many numbers the vector has
    score: float | None  #: with labels: the mean of the score over the folds
    spread: float | None  #: with labels: the standard error of that mean, which is what ± shows
    scores: tuple[float, ...]  #: with labels: the score in each fold; the folds are the same ones for each layer
    intrinsic_dimension: float | None  #: without labels: of the cloud of vectors, by TwoNN
    effective_rank: float | None  #: without labels: over how many directions the vectors spread
    agreement: float | None  #: without labels: the share of ten nearest neighbours that the last row has as well
    parameters: int  #: how many are needed up to there
    multiply_adds: int | None  #: of one example up to there; None if they cannot be counted in all layers
    share: float | None  #: in the whole model's multiply-adds, from 0 to 1; in its parameters if those are None
    milliseconds: float | None  #: of one example up to there, in the one pass; None if that cannot be seen


class Probes(Sequence[ProbedLayer]):
    """The layers that were probed, in running order. Prints as a table, and shows itself in a notebook with its curve.

    ``pandas.DataFrame(list(result))`` has a row for each.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Example,
        rows: Sequence[ProbedLayer],
        passed: Pass,
        features: Sequence[Array],
        trial: Trial | None,
        found: Measures | None,
    ) -> None:
        self._model, self._example, self._trial = model, example, trial
        self._rows, self._taps = tuple(rows), tuple(passed.taps)
        self.features = tuple(features)  #: for each row the vectors of all examples: float32, (examples, dimension)
        self.examples = len(features[0])  #: how many there are
        self.classes = None if trial is None else trial.classes  #: what the columns of `pipeline` stand for
        self.agreement = None if found is None else found.agreement  #: without labels: that of each two rows
        self.left_out = passed.left_out  #: the layers that give no vector for each example, and why
        self._measured = 0 if found is None else found.examples

    @overload
    def __getitem__(self, index: int) -> ProbedLayer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ProbedLayer]: ...
    def __getitem__(self, index: int | slice) -> ProbedLayer | Sequence[ProbedLayer]:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def best(self) -> ProbedLayer:
        """The row with the highest score, the cheaper one if two are equal.

        Raises:
            TruncateError: There are no labels, by which one would be better than another.
        """
        return max(self._scored(), key=lambda row: (row.score, -(row.share or 0)))

    @property
    def cheapest(self) -> ProbedLayer:
        """The row that needs the least work of those that score within one standard error of the best.

        Raises:
            TruncateError: There are no labels.
        """
        return min(self._near(), key=lambda row: (row.share or 0, -(row.score or 0)))

    def _near(self) -> list[ProbedLayer]:
        best = self.best
        least = (best.score or 0) - (best.spread or 0)
        return [row for row in self._rows if row.score is not None and row.score >= least]

    def _scored(self) -> tuple[ProbedLayer, ...]:
        if self._trial is None:
            raise TruncateError(
                "without labels no layer is better than another: give labels=, or name a layer of the table"
            )
        return self._rows

    # -- modules -------------------------------------------------------------------------------------------------------

    def cut(self, layer: str | int | ProbedLayer | None = None) -> nn.Module:
        """The model up to a layer, with its pooling: a module that returns vectors, (examples, dimension).

        Args:
            layer: A row, its position, or the name of its layer (of several poolings the best); None: `cheapest`.

        Returns:
            A module as `truncate` makes it, in evaluation mode and with parameters of its own.

        Raises:
            TruncateError: There is no such row; or what `truncate` raises.
        """
        tap = self._taps[self._index(layer)]
        path = tap.layer.removeprefix(BEFORE)
        with evaluating(self._model):
            return truncate(
                self._model,
                upto=None if tap.target.before else path,
                before=path if tap.target.before else None,
                args=self._example.args,
                kwargs=dict(self._example.kwargs),
                pool=tap.pool,
                flatten=True,
                copy=True,
            ).eval()

    def pipeline(self, layer: str | int | ProbedLayer | None = None) -> nn.Module:
        """The model up to a layer, with the linear model of the probe, fitted to all examples, as its head.

        Args:
            layer: As for `cut`.

        Returns:
            A module with the parts `backbone` and `head`, an ``nn.Linear``. It takes what the model takes, and returns
            a row for each example: a logit for each of `classes`, or the numbers that the labels were. It is trained,
            exported and saved as any cut is. How well it does on new data, `score` has estimated; on the examples that
            it was fitted to, it does better.

        Raises:
            TruncateError: There are no labels, the probe was no linear one, or what `cut` raises.
        """
        self._scored()
        index = self._index(layer)
        assert self._trial is not None
        head = self._trial.head(self.features[index], self._taps[index].like)
        kind = nn.Sequential if len(self._example.args) == 1 and not self._example.kwargs else WithHead
        return kind(OrderedDict(backbone=self.cut(index), head=head)).eval()

    def _index(self, layer: str | int | ProbedLayer | None) -> int:
        if isinstance(layer, int) and -len(self) <= layer < len(self):
            return layer % len(self)
        wanted = self.cheapest if layer is None else layer
        found = [i for i, row in enumerate(self._rows) if wanted in (row, row.layer)]
        if not found:
            names = ", ".join(dict.fromkeys(row.layer for row in self._rows))
            raise TruncateError(f"layer={layer!r} is no row of the {len(self)} of this table; its layers: {names}")
        return max(found, key=lambda i: self._rows[i].score or 0)

    # -- showing -------------------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """What was measured on what, in one line."""
        name = type(self._model).__name__
        if self._trial is None:
            on = "" if self._measured == self.examples else f", measured on {self._measured:,} of them"
            return f"{name} on {self.examples:,} examples{on}, without labels"
        told = f"{len(self.classes)} classes" if self.classes else "numbers"
        return f"{name} on {self.examples:,} examples, {told}: {self._trial.scored} in {self.folds} folds"

    @property
    def folds(self) -> int:
        """How many folds there are; 0 without labels."""
        return len(self._rows[0].scores)

    @property
    def notes(self) -> list[str]:
        """What is to be said below the table, line by line."""
        notes = []
        if self._trial is not None:
            best, cheapest, near = self.best, self.cheapest, self._near()
            few = f", and with {self.examples} examples itself a guess" if self.examples < 100 else ""
            notes.append(f"± is the standard error over the {self.folds} folds, the same for each layer{few}")
            notes.append(f"best: {_name(best)}; within its ±: {len(near)} of {len(self)}, cheapest: {_name(cheapest)}")
            last = self._rows[-1]
            gap = f"{(best.score or 0) - (last.score or 0):.3f} below the best"
            if last is not best:
                gap += ", within its ±" if last in near else ", more than its ±"
                notes.append(f"the last row, {_name(last)}, is {gap}")
        notes += [f"left out: {layer}, which {reason}" for layer, reason in self.left_out.items()]
        return notes

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """The table as text: the names of its columns, and its rows."""
        scored = ["score"] if self._trial else ["intrinsic dimension", "effective rank", "agreement"]
        head = ["layer", "pool", "dimension", *scored, "parameters", "multiply-adds", "share", "ms", ""]
        return head, [self._cells(row) for row in self._rows]

    def _cells(self, row: ProbedLayer) -> list[str]:
        if self._trial:
            found, marks = [f"{row.score:.3f} ± {row.spread:.3f}"], {"best": self.best, "cheapest": self.cheapest}
        else:
            found, marks = [f"{row.intrinsic_dimension:.1f}", f"{row.effective_rank:.1f}", f"{row.agreement:.2f}"], {}
        work = "" if row.multiply_adds is None else f"{row.multiply_adds:,}"
        time = "" if row.milliseconds is None else f"{row.milliseconds:.3f}"
        cells = [row.layer, row.pool, f"{row.dimension:,}", *found, f"{row.parameters:,}", work, percent(row.share)]
        return [*map(printable, cells), time, ", ".join(name for name, marked in marks.items() if marked is row)]

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        head, rows = self.cells()
        table = Table(
            box=None, pad_edge=False, title=self.title, title_justify="left", caption="\n".join(self.notes),
            caption_justify="left", title_style="bold",
        )  # fmt: skip
        for name in head:
            table.add_column(name, no_wrap=True, justify="left" if name in ("layer", "pool", "") else "right")
        for cells in rows:
            table.add_row(*map(Text, cells), style="bold magenta" if cells[-1] else None)
        return table

    def __str__(self) -> str:
        return plain(self.__rich__())

    def __repr__(self) -> str:
        return f"<{len(self)} probed layers of {type(self._model).__name__}>"

    def _repr_html_(self) -> str:
        head, rows = self.cells()
        lines = ["".join(f"<th>{escape(name)}</th>" for name in head)]
        lines += ["".join(f"<td>{escape(cell)}</td>" for cell in cells) for cells in rows]
        table = "".join(f"<tr>{line}</tr>\n" for line in lines)
        notes = "".join(f"<p>{escape(note)}</p>\n" for note in self.notes)
        return f"<h4>{escape(self.title)}</h4>\n<table>\n{table}</table>\n{notes}{self.draw()}"

    def draw(self, to: str | os.PathLike[str] | None = None) -> str:
        """The curve: the score of each layer against its share of the model's work, or without labels its dimension.

        Args:
            to: A file to write, ``.svg``. It is there whole or not at all.

        Returns:
            The curve as SVG, which needs nothing else.

        Raises:
            TruncateError: The file cannot be written, or is to be of another kind.
        """
        path = None if to is None else Path(to)
        if path is not None and path.suffix != ".svg":
            raise TruncateError(f"a curve is written as .svg, and {str(path)!r} ends otherwise")
        scored = self._trial.scored if self._trial else "intrinsic dimension"
        shared = "multiply-adds" if all(row.multiply_adds is not None for row in self) else "parameters"
        points = [self._point(row) for row in self]
        drawn = curve.page(self.title, f"share of the {shared}", scored, [p for p in points if p.y == p.y])
        if path is not None:
            try:
                with whole(path) as file:
                    file.write(drawn.encode())
            except ExtractError as error:
                raise TruncateError(f"{error}. Nothing was written; give another path to `to`") from error
        return drawn

    def _point(self, row: ProbedLayer) -> curve.Point:
        height = row.intrinsic_dimension if row.score is None else row.score
        return curve.Point(_name(row), row.share or 0.0, height or 0.0, row.spread or 0.0, self._cells(row)[-1])


def _name(row: ProbedLayer) -> str:
    return printable(f"{row.layer} ({row.pool})" if row.pool else row.layer)
