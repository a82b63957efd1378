"""ROOM _build."""

from truncate._build.assemble import Truncated, build, shallow_copy
from truncate._build.check import compare, same
from truncate._build.held import RECORD, hold, release
from truncate._build.pool import pooling
from truncate._build.standalone import source

__all__ = [
    "RECORD",
    "Truncated",
    "build",
    "compare",
    "hold",
    "pooling",
    "release",
    "same",
    "shallow_copy",
    "source",
]
