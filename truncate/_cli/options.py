"""What several commands take, and how a help page ends."""

from __future__ import annotations

import click

from truncate._cli.completion import complete_file, complete_layer, complete_model

PROGRAM = "python -m truncate"

model = click.argument("model", shell_complete=complete_model)
upto = click.option(
    "--upto",
    required=True,
    multiple=True,
    metavar="TARGET",
    shell_complete=complete_layer,
    help="Where to stop, as `layers` lists it; several give several outputs.",
)
weights = click.option(
    "--weights",
    metavar="NAME|FILE",
    shell_complete=complete_file,
    help="Trained weights by name (DEFAULT), or a checkpoint.",
)
trust = click.option("--trust", is_flag=True, help="Read a checkpoint that may run code, too.")
folder = click.argument("folder", shell_complete=complete_file)
batch_size = click.option(
    "--batch-size", default=32, show_default=True, type=click.IntRange(min=1), help="Images at a time."
)
workers = click.option(
    "--workers", type=click.IntRange(min=0), help="Processes that read images [default: by the cores]."
)
device = click.option("--device", help="Where to compute [default: a GPU if there is one].")


def examples(*lines: str) -> str:
    """What a help page ends with; the first character keeps the lines as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {PROGRAM} {line}" for line in lines)])
