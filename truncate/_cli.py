"""The command line: ``python -m truncate cut``, ``layers`` and ``extract``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from truncate import _models, _options, _save, _verify
from truncate._cli_extract import extract_command
from truncate._completion import complete_file
from truncate._errors import TruncateError
from truncate._graph import tensors_in
from truncate._layers import layers, shape_of, shape_text
from truncate._photos import Stopped
from truncate._usage import NotUsable, brief, explained

_HELP = {"help_option_names": ["-h", "--help"]}


class _Shape(click.ParamType[tuple[int, ...]]):
    """A shape such as ``1,3,224,224``."""

    name = "N,C,H,W"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        try:
            sizes = tuple(int(size) for size in str(value).replace("x", ",").split(","))
        except ValueError:
            sizes = ()
        if not sizes or min(sizes) < 1:
            self.fail(f"{value!r} is no shape such as 1,3,224,224")
        return sizes


_shape = click.option("--shape", type=_Shape(), help="Shape of the example input [default: one usual picture].")


@click.group(context_settings=_HELP, no_args_is_help=False, epilog=_options.examples("layers alexnet", "cut --help"))
def cli() -> None:
    """The model, stopped at a layer.

    A MODEL is a name that torchvision knows (resnet18), timm:NAME, or package.module:callable,
    where calling it returns the model.
    """


@cli.command(
    epilog=_options.examples(
        "cut alexnet --upto classifier.5 --save alexnet-fc7.pt",
        "cut resnet18 --weights DEFAULT --upto flatten --image photo.jpg",
        "cut timm:resnet10t --upto layer2 --upto global_pool --save features.onnx",
    )
)
@_options.model
@_options.upto
@_options.weights
@_options.trust
@_shape
@click.option(
    "--save",
    "path",
    type=Path,
    metavar="FILE",
    shell_complete=complete_file,
    help="To write: .pt, .pt2, .onnx or .safetensors.",
)
@click.option(
    "--image", type=Path, metavar="FILE", shell_complete=complete_file, help="A picture to compute the features of."
)
def cut(
    model: str,
    upto: tuple[str, ...],
    weights: str | None,
    trust: bool,
    shape: tuple[int, ...] | None,
    path: Path | None,
    image: Path | None,
) -> None:
    """Stop a model at a place, check the result against the whole model, and save it."""
    if path is not None:
        _save.check(path)
    if image is not None and shape is not None:
        raise NotUsable("--shape is that of random numbers, and --image brings its own: leave one of them out")
    picture = _models.read_picture(image) if image is not None else None
    built = _models.build(model, weights, shape, trust)
    if picture is not None:
        with explained(f"cannot prepare {image} for {model}"):
            built.args = (built.transform(picture).unsqueeze(0),)
    part = built.stopped(upto[0] if len(upto) == 1 else list(upto))
    given = f"{image.name if image is not None else 'random numbers'} ({_shapes(built.args)})"
    with explained(f"{model} does not run on {given}"), torch.no_grad():
        built.model(*built.args)
    with _verify.same_random_numbers(), torch.no_grad():
        features = part(*built.args)
    outputs = [features] if len(upto) == 1 else features
    if wrong := _verify.differing(built.model, list(upto), outputs, built.args):
        raise Differs(f"the cut returns something else than the model has at {', '.join(wrong)}; nothing was written")

    names = [place or "the model itself" for place in upto]
    print(f"{model} up to {', '.join(names)}, with {built.weights}\n")
    _compare(built, part)
    for assumption in getattr(part, "assumptions", ()):
        print(f"assumed: {assumption}")
    print(f"\nchecked on {given}: the cut returns bit for bit what the whole model has there")
    for place, output in zip(names, outputs):
        values = next(tensors_in(output), torch.zeros(0)).flatten()
        shown = ", ".join([f"{value:.4f}" for value in values[:6].tolist()] + ["…"] * (len(values) > 6))
        print(f"{place}: {_shapes((output,))}, {shown}")
    if path is not None:
        print(f"saved {_save.save(part, path, built.args)}")


def _compare(built: _models.Built, part: nn.Module) -> None:
    """Prints the summary of the cut, and what it spares."""
    import torchinfo

    def run(module: nn.Module) -> Callable[[], Any]:
        return lambda: module(*built.args)

    table = Table(box=None, pad_edge=False)
    for name in ("", "whole", "cut", "cut / whole"):
        table.add_column(name, justify="right" if name else "left")
    whole, kept = [sum(p.numel() for p in module.parameters()) for module in (built.model, part)]
    table.add_row("parameters", f"{whole:,}", f"{kept:,}", _percent(kept, whole))
    with torch.inference_mode():
        try:
            summaries = [torchinfo.summary(m, input_data=list(built.args), verbose=0) for m in (built.model, part)]
        except Exception as error:  # it is for reading only; some models it cannot follow
            print(f"torchinfo cannot summarize this model: {brief(error)}")
        else:
            print(summaries[1], end="\n\n")
            whole, kept = [int(summary.total_mult_adds) for summary in summaries]
            table.add_row("multiply-adds", f"{whole:,}", f"{kept:,}", _percent(kept, whole))
        slow, fast = _verify.times(run(built.model), run(part))
    table.add_row("time", f"{slow * 1e3:.1f} ms", f"{fast * 1e3:.1f} ms", _percent(fast, slow))
    Console(highlight=False).print(table)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _shapes(values: tuple[Any, ...]) -> str:
    return " and ".join(shape_text(shape_of(value)) for value in values)


@cli.command("layers", epilog=_options.examples("layers resnet50 --depth 1", "layers vit_b_16 --table --shapes"))
@_options.model
@_options.weights
@_options.trust
@_shape
@click.option("--depth", type=click.IntRange(min=1), help="How many levels are shown [default: all].")
@click.option("--table", is_flag=True, help="A table of whole paths instead.")
@click.option("--shapes", is_flag=True, help="Show what each place returns, from one run of the model.")
def layers_command(
    model: str,
    weights: str | None,
    trust: bool,
    shape: tuple[int, ...] | None,
    depth: int | None,
    table: bool,
    shapes: bool,
) -> None:
    """Draw every place where one can stop."""
    built = _models.build(model, weights, shape, trust)
    if shapes or shape:
        with explained(f"{model} on {_shapes(built.args)}"):
            places = layers(built.model, built.args)
    else:
        places = layers(built.model)
    if sys.stdout.isatty():
        Console(highlight=False).print(places.render(tree=not table, depth=depth))
    else:
        print(places.table(depth) if table else places.tree(depth))


cli.add_command(extract_command)


class Differs(Exception):
    """The check failed: a fault of this library, and not of what was asked."""


def script() -> int:
    """The installed command. `python -m truncate` is the same, but no shell completes that."""
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())  # as `python -m` has it, so that a MODEL may be in a file here
    return main(program="torch-truncate")


def main(arguments: list[str] | None = None, program: str = _options.PROGRAM) -> int:
    """Runs the command line. Its exit code: 0, 2 for what cannot be had, 1 if a check or a file failed."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot draw a tree still shows its names
    try:
        code = cli.main(arguments, prog_name=program, standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else program
        return _fail(f"{_line(error)} (see {command} --help)")
    except click.ClickException as error:
        return _fail(_line(error))
    except (NotUsable, TruncateError) as error:
        return _fail(brief(error, limit=1000))
    except (Differs, Stopped) as error:
        return _fail(str(error), code=1)
    except click.Abort:
        return _fail("interrupted", code=130)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code or 0


def _line(error: click.ClickException) -> str:
    return " ".join(error.format_message().split())


def _fail(message: str, code: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
