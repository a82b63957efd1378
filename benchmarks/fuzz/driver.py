"""Tries the cuts of many seeds, some seeds at a time in a process of their own.

A process says which cut it begins, so that one that dies or takes too long is known; the next one goes on behind it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from benchmarks.child import Child
from benchmarks.fuzz.known import known
from benchmarks.fuzz.seeds import Case, cases_of
from benchmarks.fuzz.trial import CRASHED, KNOWN, UNUSABLE, WRONG, Outcome, attempt, cause_of

AT_ONCE = 100  # seeds that one process tries: what it holds on to does not grow without end


@dataclass
class Tried:
    seed: int
    cut: int  # the number of the cut; -1: the model does not run by itself
    outcome: Outcome

    @property
    def name(self) -> str:
        return f"{self.seed}:{self.cut}" if self.cut >= 0 else str(self.seed)


def tried(seeds: range, cuts: int, limit: float, end: float) -> Iterator[Tried]:
    """All cuts of these seeds until the time `end`; each may take `limit` seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.fuzz.trial", "torch._dynamo"])  # which torch imports late, and slowly
    begin = (seeds.start, 0)
    while begin[0] < seeds.stop and time.monotonic() < end:
        stop = min(begin[0] + AT_ONCE, seeds.stop)
        now, reason = (begin[0], -1), f"took longer than {limit:g} s"
        with Child(context, _send, begin, stop, cuts) as child:
            while child.messages.poll(limit):
                message = child.messages.recv()
                if message is None:
                    begin, reason = (stop, 0), ""
                    break
                seed, number, outcome = message
                now = (seed, number)
                if outcome is not None:
                    begin = (seed, number + 1)
                    yield Tried(seed, number, outcome)
                if time.monotonic() > end:
                    return
        reason = child.died or reason
        if reason:
            yield Tried(*now, Outcome(CRASHED, reason))
            begin = (now[0], now[1] + 1) if now[1] >= 0 else (now[0] + 1, 0)


def _send(begin: tuple[int, int], stop: int, cuts: int, pipe: Connection) -> None:
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        for message in attempts(begin, stop, cuts):
            pipe.send(message)
    pipe.send(None)


def attempts(begin: tuple[int, int], stop: int, cuts: int) -> Iterator[tuple[int, int, Outcome | None]]:
    """The cuts from one of them on, each announced before it is made."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    for seed in range(begin[0], stop):
        first = begin[1] if seed == begin[0] else 0
        yield seed, -1, None
        number = -1
        for number, case in enumerate(cases_of(seed, cuts)):
            if number >= first:
                yield seed, number, None
                yield seed, number, tolerant(case)
        if number < 0:
            yield seed, -1, Outcome(UNUSABLE, "the model does not run by itself")


def tolerant(case: Case) -> Outcome:
    """What came of a case; an error of the fuzzer's own is told as such, and does not end the batch."""
    try:
        outcome = attempt(case)
        if outcome.kind in (WRONG, CRASHED) and (what := known(case, outcome)):
            outcome.kind, outcome.cause = KNOWN, what
        return outcome
    except Exception as error:
        return Outcome(CRASHED, f"in the fuzzer: {cause_of(error)}", "".join(traceback.format_exception(error)))
