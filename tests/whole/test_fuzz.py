"""The fuzzer in `benchmarks/fuzz`: some of its seeds, and whether it finds and shrinks what is broken on purpose."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fuzz.author import source_of
from benchmarks.fuzz.cuts import Cut, Run
from benchmarks.fuzz.driver import tried
from benchmarks.fuzz.oracle import observe
from benchmarks.fuzz.reduce import reduced
from benchmarks.fuzz.results import failures, summary
from benchmarks.fuzz.script import script_of
from benchmarks.fuzz.seeds import Case, cases_of
from benchmarks.fuzz.trial import RIGHT, WRONG, Outcome, attempt
from truncate._plan.effects import GraphEffects

SEEDS, AT_ONCE, CUTS = 300, 25, 2

# Overwrites in place what `a` returned, between lines that have nothing to do with it.
MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, y=None):
        if y is not None:
            x = x + y
        x = self.a(x)
        other = torch.stack([x * 2, x]).mean(0)
        x.relu_()
        x = self.b(x)
        return x, self.c(other)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x, y=None):
        first, second = self.block(x * 1, y)
        return first + second
"""
CASE = Case(MODEL, Cut("upto", ("block.b",), runs=(Run(), Run("train", batch=3, gradients=True))))


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_a_cut_of_a_random_model_is_right_or_refused(first: int) -> None:
    results = list(tried(range(first, first + AT_ONCE), CUTS, limit=60, end=float("inf")))
    assert len({each.seed for each in results}) == AT_ONCE
    assert not failures(results), summary(results)


def test_the_same_seed_gives_the_same_model_and_cuts() -> None:
    assert source_of(7) == source_of(7) != source_of(8)
    assert [case.cut for case in cases_of(7, 3)] == [case.cut for case in cases_of(7, 3)]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library no longer sees what is changed in place."""
    monkeypatch.setattr(GraphEffects, "mutated", lambda *_: [])


def outcomes(seeds: range) -> Iterator[Outcome]:
    for seed in seeds:
        for case in cases_of(seed, CUTS):
            yield attempt(case)


@pytest.mark.filterwarnings("ignore")
def test_what_is_broken_is_found(broken: None) -> None:
    assert any(outcome.kind == WRONG for outcome in outcomes(range(40)))


def test_what_is_not_broken_is_right() -> None:
    assert attempt(CASE) == Outcome(RIGHT)


def test_a_failure_is_made_small_and_written_as_a_script(broken: None, tmp_path: Path) -> None:
    assert attempt(CASE).kind == WRONG
    small, outcome = reduced(CASE)
    assert outcome.kind == WRONG
    assert len(small.source.splitlines()) < len(MODEL.splitlines())
    assert all(word in small.source for word in ("relu_", "self.b"))
    assert not any(word in small.source for word in ("self.c", "stack"))
    assert small.cut.runs == (Run(),)
    script = tmp_path / "script.py"
    script.write_text(script_of(small, outcome, "0:0"))
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert "expected" in printed and "got" in printed  # alone, where nothing is broken, it runs all the same


def test_the_model_is_stopped_behind_the_last_target() -> None:
    stopped = observe(CASE.make(), Run(), ["block.a"], before=False, last=0)
    assert stopped.stopped and stopped.watch.events == ["block.a"]
