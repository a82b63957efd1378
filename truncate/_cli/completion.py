"""What the shell offers after what is typed so far: models, targets, files."""

from __future__ import annotations

import importlib.util
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

complete_file = click.Path().shell_complete


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The models of torchvision; and once `timm:` is typed, the many of timm."""
    if not incomplete.startswith("timm:"):
        from torchvision.models import list_models

        names = list_models()
    elif importlib.util.find_spec("timm"):
        import timm

        names = [f"timm:{name}" for name in timm.list_models()]
    else:
        names = []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_layer(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The targets in the model that was named before, one level at a time."""
    model = ctx.params.get("model") or next(iter(ctx.args), "")  # click gives up at an option that has no value yet
    if ":" in model and not model.startswith("timm:"):
        return []  # to build it would run whatever code it names
    import torch

    from truncate._cli import models
    from truncate._show import layers

    try:
        with torch.device("meta"):  # where weights take neither time nor memory
            found = layers(models.build(model).model)
    except Exception:  # there is nowhere to say so; the command itself will
        return []
    start = len(incomplete)
    paths = dict.fromkeys(target.path for target in found if target.path.startswith(incomplete))
    return [CompletionItem(path) for path in paths if "." not in path[start:]]


# -- what click's classes for the shells leave out ---------------------------------------------------------------------


_BREAKS = (":", "=")


class Bash(BashComplete):
    """Bash ends a word at `:` and at `=` too, and puts in only what is after them."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        words = [""]
        for word in [*args, incomplete]:
            if word in _BREAKS or words[-1].endswith(_BREAKS):
                words[-1] += word
            else:
                words.append(word)
        return words[1:-1], words[-1]

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        items = super().get_completions(args, incomplete)
        value = incomplete.partition("=")[2] if _is_option(incomplete) else incomplete
        put_in = value.rfind(":") + 1
        for item in items:
            item.value = item.value[put_in:]
        return items


class _WholeWords(ShellComplete):
    """Where `--upto=cl` is one word, what takes its place has to hold the option too."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        items = super().get_completions(args, incomplete)
        option, equals, _ = incomplete.partition("=")
        if equals and _is_option(option):
            for item in items:
                item.value = f"{option}={item.value}"
        return items


class Zsh(_WholeWords, ZshComplete):
    """Zsh puts in what is offered in place of the whole word."""


class Fish(_WholeWords, FishComplete):
    """Click's lines for fish end a help at its first comma."""

    def format_completion(self, item: CompletionItem[Any]) -> str:
        item.help = item.help and item.help.replace(",", ";")
        return super().format_completion(item)


def _is_option(word: str) -> bool:
    return word.startswith("--")


for _kind in (Bash, Zsh, Fish):  # as a decorator it returns None before click 8.2
    add_completion_class(_kind)
