"""ROOM _record."""

from truncate._record.traces import Forwards

__all__ = [
    "Forwards",
]
