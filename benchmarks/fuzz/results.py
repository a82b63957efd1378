"""Counts what came of many cuts, and tells it as tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from benchmarks import report
from benchmarks.fuzz.driver import Tried
from benchmarks.fuzz.trial import CRASHED, KNOWN, REFUSED, RIGHT, UNUSABLE, WRONG

SHOWN = 12  # seeds named for each cause


def failures(results: Iterable[Tried]) -> list[Tried]:
    return [each for each in results if each.outcome.kind in (WRONG, CRASHED)]


def summary(results: list[Tried]) -> str:
    """How many cuts were right, and for all others by cause how many and which."""
    cuts = [each for each in results if each.outcome.kind != UNUSABLE]
    counts = {kind: sum(each.outcome.kind == kind for each in cuts) for kind in (RIGHT, REFUSED, KNOWN, WRONG, CRASHED)}
    seeds = len({each.seed for each in results})
    parts = [
        f"{seeds} seeds, {len(cuts)} cuts; {len(results) - len(cuts)} times the model itself did not run.",
        report.table(
            ("", "cuts", "of all"), [(k, n, f"{100 * n / max(len(cuts), 1):.1f} %") for k, n in counts.items()]
        ),
    ]
    for kind in (WRONG, CRASHED, KNOWN, REFUSED, RIGHT):
        causes: dict[str, list[str]] = defaultdict(list)
        for each in cuts:
            if each.outcome.kind == kind and each.outcome.cause:
                causes[each.outcome.cause].append(each.name)
        rows = [
            (cause.replace("|", "\\|"), len(names), " ".join(names[:SHOWN]) + " …" * (len(names) > SHOWN))
            for cause, names in sorted(causes.items(), key=lambda item: -len(item[1]))
        ]
        if rows:
            parts.append(report.table((kind, "cuts", "seed:cut"), rows))
    return "\n\n".join(parts)


def as_rows(results: Iterable[Tried]) -> list[dict[str, Any]]:
    return [{"seed": each.seed, "cut": each.cut, **vars(each.outcome)} for each in results]
