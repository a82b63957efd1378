"""What the shell offers behind what is typed so far: models, places, files."""

from __future__ import annotations

import click
import torch
from click.shell_completion import CompletionItem

from truncate import _models
from truncate._layers import layers

complete_file = click.Path().shell_complete


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The models of torchvision. (Those of others are behind a colon, where bash begins another word.)"""
    from torchvision.models import list_models

    return [CompletionItem(name) for name in list_models() if name.startswith(incomplete)]


def complete_place(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The places in the model that was named before, one level at a time."""
    model = ctx.params.get("model") or next(iter(ctx.args), "")  # click gives up at an option that has no value yet
    if ":" in model and not model.startswith("timm:"):
        return []  # to build it would run whatever code it names
    try:
        with torch.device("meta"):  # where weights take neither time nor memory
            places = layers(_models.build(model).model)
    except Exception:  # there is nowhere to say so; the command itself will
        return []
    start = len(incomplete)
    paths = dict.fromkeys(place.path for place in places if place.path.startswith(incomplete))
    return [CompletionItem(path) for path in paths if "." not in path[start:]]
