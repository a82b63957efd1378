"""Failures that are known and not mended yet. A cut that fails so is counted apart; the list is to become empty."""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmarks.fuzz.features import PRELUDE
from benchmarks.fuzz.seeds import Case
from benchmarks.fuzz.trial import Outcome


@dataclass(frozen=True)
class Known:
    what: str
    cause: str  # a pattern that the whole cause has
    features: str  # a pattern that is somewhere in the model
    cut: str = ""  # and one that is in how it is cut
    large: bool = False  # whether the cut ran on large numbers before it failed


KNOWN = (
    Known(
        "a child off the path changes the caller's input for other content than the example's (never-wrong says so)",
        r"the caller's input",
        r"OverwritesLarge\(",
        large=True,
    ),
    Known(
        "a norm that is one of several targets of `before` is held, and not run, though the model counts that batch",
        r"a buffer",
        r"Norm\(",
        r"before=[\[({]",
    ),
    Known(
        "a model's own function leads to the model: a copy of a live cut asks the first cut, as one of the model does",
        r"value, in a later run",
        r"lambda \w+: self\.",
        r"deepcopy",
    ),
    Known(
        "a checkpoint that was recorded is no longer one, so that later work in place breaks its backward",
        r"RuntimeError: one of the variables needed for gradient compu",
        r"checkpoint\(",
    ),
)


def known(case: Case, outcome: Outcome) -> str | None:
    """What is known of a failure."""
    own = case.source.removeprefix(PRELUDE)
    large = any(run.scale > 1 for run in case.cut.runs[: outcome.run + 1])
    for each in KNOWN:
        alike = re.fullmatch(each.cause, outcome.cause) and re.search(each.features, own)
        if alike and re.search(each.cut, f"{case.cut} {case.cut.through}") and large >= each.large:
            return each.what
    return None
