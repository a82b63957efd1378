"""What was perhaps meant by a wrong word on the command line."""

from __future__ import annotations

import difflib

import click

# What other commands call our options, and what begins one that is written with a single dash.
_MEANT = {
    "--upto": "--up-to --until --layer --layers --target --targets --node --nodes --stop --to --at -l -u",
    "--at": "--upto --before --up-to --layer --layers --target --targets -l",
    "--out": "--save --save-to --output --output-file --outfile --dest --svg --to --file -o -s",
    "--weights": "--checkpoint --ckpt --pretrained --state-dict --load -w",
    "--shape": "--size --input-size --input-shape --image-size --img-size",
    "--image": "--images --input --img --photo -i",
    "--device": "--gpu --cuda --cpu --gpus -d",
    "--workers": "--num-workers --processes --jobs -j",
    "--batch-size": "--batch --bs -b",
    "--limit": "--max --head --first --num --count --max-images -n",
    "--quiet": "--silent -q",
    "--json": "--format --to-json",
    "--dtype": "--precision --half --fp16 --bf16 --amp",
    "--pool": "--pooling -p",
    "--folds": "--cv --splits -k",
    "--labels": "--classes --targets --csv",
    "--depth": "--level --levels --max-depth",
}
_COMMANDS = {
    "layers": "list show tree print summary nodes info ls",
    "cut": "truncate save export trim slice",
    "extract": "features embed embeddings run",
    "probe": "choose best linear-probe",
}


def told(error: click.UsageError) -> str:
    """The message on one line, with what was perhaps meant."""
    context = error.ctx
    if context is None:
        return line(error)
    if isinstance(error, click.NoSuchOption):
        return f"no option {error.option_name}{_option(error.option_name, context)}"
    text = line(error)
    if isinstance(context.command, click.Group) and text.startswith("No such command"):
        word = text.split("'")[1]
        known = list(context.command.commands)
        instead = _did_you_mean(_close(word, _COMMANDS, known)) or f"; there are {', '.join(known)}"
        return f"no command {word!r}{instead}"
    if text.startswith("Got unexpected extra argument"):
        known = [parameter.name for parameter in context.command.params]
        several = "; it takes one folder or file, or - to read several paths from stdin" if "images" in known else ""
        return text.rstrip(".") + (several or ("; a target comes after --upto" if "upto" in known else ""))
    return text


def line(error: click.ClickException) -> str:
    """The message on one line."""
    return " ".join(error.format_message().split())


def _option(name: str, context: click.Context) -> str:
    group = context.find_root().command
    others = group.commands if isinstance(group, click.Group) else {}
    having = [other for other, command in others.items() if name in _options(command)]
    if having and context.command is group:
        return f" before the command: it comes after, as in {having[0]} MODEL {name}"
    instead = _did_you_mean(_close(name, _MEANT, _options(context.command)))
    return instead or (f": it is an option of {' and '.join(having)}" if having else "")


def _close(word: str, meant: dict[str, str], known: list[str]) -> list[str]:
    """What is known that is called so elsewhere; or else what is spelt alike."""
    found = [name for name, others in meant.items() if name in known and word in others.split()]
    return found or difflib.get_close_matches(word, known, n=2, cutoff=0.7)


def _options(command: click.Command) -> list[str]:
    return [name for option in command.params for name in option.opts if name.startswith("-")]


def _did_you_mean(names: list[str]) -> str:
    return f"; did you mean {' or '.join(names)}?" if names else ""
