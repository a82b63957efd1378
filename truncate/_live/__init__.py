"""Modules that keep their own Python.

Goes in: a module of the model, and the targets inside of it. Comes out: a copy whose forward runs as it is and is
left, by an exception of ours, where the last target has its value. Nothing is followed, and nothing is fixed.
"""

from truncate._live.assemble import build_live
from truncate._live.copies import Copies, deep_copy, refuse_ways_back
from truncate._live.dropped import Dropped, drop_what_does_not_run
from truncate._live.module import is_live
from truncate._live.once import calls_itself, runs_once

__all__ = [
    "Copies",
    "Dropped",
    "build_live",
    "calls_itself",
    "deep_copy",
    "drop_what_does_not_run",
    "is_live",
    "refuse_ways_back",
    "runs_once",
]
