"""``python -m truncate``, and the installed command: the command line, where what it needs is installed."""

from __future__ import annotations

import os
import sys

from truncate._errors import NotUsable, need


def run(program: str = "python -m truncate") -> int:
    """The command line with its exit code; one line if click is missing, as it is where only the library is wanted."""
    try:
        command_line = need("truncate._cli", "the command line", "torch-truncate[cli]")
    except NotUsable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    code: int = command_line.run(program)
    return code


def script() -> int:
    """The installed command. `python -m truncate` is the same, but no shell completes that."""
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())  # as `python -m` has it, so that a MODEL may be in a file here
    return run("torch-truncate")


if __name__ == "__main__":
    sys.exit(run())
