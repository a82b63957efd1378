"""What random models are made of: statements of forwards, by subject, after the rows of docs/never-wrong.md.

A paragraph is one feature. All tensors have the shape (batch, length, 4). What stands in braces is filled in:

- ``{a}``, ``{b}``: tensors that are there; ``{v}``: one that is new, or, inside of a branch or loop, one that is there;
- ``{n}``: a number that occurs nowhere else in the model;
- ``{leaf}``: a child that takes a tensor and returns one; ``{call}``: the call of a child, a tensor;
- ``{made}``: an expression that makes such a child; ``{body}``: more statements;
- ``{op}``: a function of torch that this model calls nowhere else, so that it can be a target by its name;
- ``{list}``, ``{dict}``, ``{box}``: a container of tensors that is there.

Lines that begin with ``init`` go to ``__init__``. What that page says cannot be seen is not drawn.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.fuzz.features.around import GRADIENTS, HOOKS, ODD, RANDOM
from benchmarks.fuzz.features.asking import MODES, VALUES
from benchmarks.fuzz.features.keeping import CONTAINERS, STATE
from benchmarks.fuzz.features.plain import CALLS, GIVEN, IN_PLACE, LEAVES, OPENINGS, PURE, RETURNED

__all__ = ["GIVEN", "LEAVES", "OPENINGS", "PRELUDE", "RETURNED", "SUBJECTS"]

# Without the title, so that it can follow another one.
PRELUDE = (Path(__file__).parent.parent / "prelude.py").read_text().split('"""\n\n', 1)[1]


def _paragraphs(text: str) -> list[str]:
    return text.strip("\n").split("\n\n")


# By subject: its features, and how often one of them is drawn beside the others.
SUBJECTS = {
    "pure": (_paragraphs(PURE), 3),
    "in place": (_paragraphs(IN_PLACE), 4),
    "calls": (_paragraphs(CALLS), 5),
    "modes": (_paragraphs(MODES), 3),
    "state": (_paragraphs(STATE), 3),
    "values": (_paragraphs(VALUES), 2),
    "containers": (_paragraphs(CONTAINERS), 4),
    "hooks": (_paragraphs(HOOKS), 2),
    "gradients": (_paragraphs(GRADIENTS), 2),
    "random": (_paragraphs(RANDOM), 1),
    "odd": (_paragraphs(ODD), 1),
}
