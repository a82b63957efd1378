"""ROOM _cli."""

from truncate._cli.commands import main

__all__ = [
    "main",
]
