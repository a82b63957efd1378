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
        "a list that one module fills and another reads: what fills it is dropped",
        r"IndexError: list index out of range.*|value.*",
        r"= Fills\(",
    ),
    Known(
        "a child that changes its argument, or a buffer, only for other content than the example's is dropped",
        r"value.*|the caller's input|a buffer",
        r"OverwritesLarge\(|abs\(\)\.max\(\) > 3",
        r"args=",
        large=True,
    ),
    Known(
        "a value from outside of a block without gradients is cloned in it, and has none",
        r"the gradient of .*",
        r"set_grad_enabled|no_grad|without_gradient",
    ),
    Known(
        "a forward that makes a slice of a Sequential is not left at its target on an example",
        r"KeyError: N in _live/dropped.py <genexpr>",
        r"\[:2\]\(",
        r"args=",
    ),
    Known(
        "`after` with `upto` keeps what changes a buffer behind its target, without the check that it depends on",
        r"a buffer",
        r"_buffer",
        r"after='",
    ),
    Known(
        "a norm that is one of several targets of `before` is held, and not run, though the model counts that batch",
        r"a buffer",
        r"Norm\(",
        r"before=[\[({]",
    ),
    Known(
        "a checkpoint that was recorded is no longer one, so that later work in place breaks its backward",
        r"RuntimeError: one of the variables needed for gradient compu",
        r"checkpoint\(",
    ),
    Known(
        "calls of a module with two names, counted over both, are other ones after the result was pickled",
        r"value.*",
        r"self\.twin\d+ = self\.child",
        r":\d",
    ),
    Known(
        "in-place work on the caller's input is lost where the model itself is one of several targets",
        r"the caller's input",
        r"",
        r"''",
    ),
)


def known(case: Case, outcome: Outcome) -> str | None:
    """What is known of a failure."""
    own = case.source.removeprefix(PRELUDE)
    large = any(run.scale > 1 for run in case.cut.runs[: outcome.run + 1])
    for each in KNOWN:
        alike = re.fullmatch(each.cause, outcome.cause) and re.search(each.features, own)
        if alike and re.search(each.cut, str(case.cut)) and large >= each.large:
            return each.what
    return None
