"""The command line: `cut`, `layers` and `extract`.

In: the arguments of a command. Out: what it prints and writes, and its exit code (`main`). Errors take one line.
"""

from truncate._cli.commands import main, run

__all__ = [
    "main",
    "run",
]
