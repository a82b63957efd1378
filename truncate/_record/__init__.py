"""ROOM _record."""

from truncate._record.traces import Traces

__all__ = [
    "Traces",
]
