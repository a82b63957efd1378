"""The command line of the fuzzer."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from itertools import islice
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.fuzz.driver import tolerant, tried
from benchmarks.fuzz.features import PRELUDE
from benchmarks.fuzz.reduce import describe, reduced
from benchmarks.fuzz.results import as_rows, failures, summary
from benchmarks.fuzz.script import script_of
from benchmarks.fuzz.seeds import Case, cases_of
from benchmarks.fuzz.trial import CRASHED, KNOWN, WRONG

CUTS = 4


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("first", type=int, nargs="?", help="the first seed")
    parser.add_argument("last", type=int, nargs="?", help="the seed to stop before")
    parser.add_argument("--cuts", type=int, default=CUTS, help="of each model (%(default)s)")
    parser.add_argument("--limit-seconds", type=float, default=60, help="that one cut may take (%(default)g)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no cut is begun")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where each outcome is written")
    parser.add_argument("--show", metavar="SEED[:CUT]", help="print a model and what comes of its cuts")
    parser.add_argument("--reduce", metavar="SEED[:CUT]", help="print a small script that fails in the same way")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.show or given.reduce:
        warnings.simplefilter("ignore")
        return reduce(given.reduce, given.cuts) if given.reduce else show(given.show, given.cuts)
    if given.first is None or given.last is None:
        parser.error("give the first seed and the one to stop before")
    return fuzz(range(given.first, given.last), given.cuts, given.limit_seconds, given.minutes, given.json)


def fuzz(seeds: range, cuts: int, limit: float, minutes: float, path: Path | None) -> int:
    results = []
    for each in tried(seeds, cuts, limit, time.monotonic() + 60 * minutes):
        results.append(each)
        if each.outcome.kind in (WRONG, CRASHED):
            print(f"{each.name}: {each.outcome.kind}: {each.outcome.cause}", file=sys.stderr, flush=True)
    print(summary(results))
    if path is not None:
        report.save(path, report.surroundings(), as_rows(results))
    return bool(failures(results))


def _chosen(name: str, cuts: int) -> list[tuple[str, Case]]:
    seed, _, number = name.partition(":")
    cases = [(f"{seed}:{n}", case) for n, case in enumerate(islice(cases_of(int(seed), cuts), cuts))]
    return [cases[int(number)]] if number else cases


def show(name: str, cuts: int) -> int:
    cases = _chosen(name, cuts)
    print(cases[0][1].source.removeprefix(PRELUDE) if cases else "the model does not run by itself")
    for each, case in cases:
        outcome = tolerant(case)
        print(f"\n{each} {describe(case.cut)}\n  {outcome.kind}: {outcome.cause} (run {outcome.run})\n{outcome.detail}")
    return 0


def reduce(name: str, cuts: int) -> int:
    for each, case in _chosen(name, cuts):
        outcome = tolerant(case)
        if outcome.kind in (WRONG, CRASHED, KNOWN):
            small, outcome = reduced(case, lambda text: print(text, file=sys.stderr))
            print(script_of(small, outcome, each))
            return 1
    print("nothing to reduce: no cut is wrong or crashes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
