"""What several commands take, and how a help page ends."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from truncate._cli.completion import complete_file, complete_layer, complete_model

PROGRAM = "python -m truncate"

model = click.argument("model", shell_complete=complete_model)
_TARGETS: dict[str, Any] = {"multiple": True, "metavar": "TARGET", "shell_complete": complete_layer}
_upto = click.option("--upto", **_TARGETS, help="Where to stop, also a pattern; repeat it for several outputs.")
_before = click.option("--before", **_TARGETS, help="Instead of --upto: return the input of a layer.")
weights = click.option(
    "--weights",
    metavar="NAME|FILE",
    shell_complete=complete_file,
    help="Trained weights by name (DEFAULT), or a checkpoint.",
)
trust = click.option("--trust", is_flag=True, help="Read a checkpoint that may run code, too.")
images = click.argument("images", metavar="FOLDER|FILE|-", shell_complete=complete_file)
limit = click.option("--limit", type=click.IntRange(min=1), help="Use at most this many images.")
random = click.option("--random", is_flag=True, help="Use random weights.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
quiet = click.option("--quiet", is_flag=True, help="Print nothing but warnings and errors, and what --json prints.")
batch_size = click.option(
    "--batch-size", default=32, show_default=True, type=click.IntRange(min=1), help="Images in a batch."
)
workers = click.option(
    "--workers", type=click.IntRange(min=0), help="Processes that read images [default: from the number of cores]."
)
device = click.option("--device", help="Where to compute [default: a GPU if there is one].")


def stop(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --upto and --before to a command. It gets `stop`: one of these words, with its targets."""

    @_upto
    @_before
    @functools.wraps(command)
    def checked(upto: tuple[str, ...], before: tuple[str, ...], **given: Any) -> Any:
        if upto and before:
            raise click.UsageError(
                f"--upto {upto[0]} and --before {before[0]} both say where to stop; use only one of the two options, "
                "which may be repeated",
                click.get_current_context(),
            )
        if not upto and not before:
            raise click.UsageError(
                f"say where to stop: --upto TARGET (`layers {given['model']}` lists the targets), or --before TARGET",
                click.get_current_context(),
            )
        return command(stop={"upto": upto} if upto else {"before": before}, **given)

    return checked


def examples(*lines: str) -> str:
    """What a help page ends with; the first character keeps the lines as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {PROGRAM} {line}" for line in lines)])
