"""The command line: what can be asked for, and how it ends. What is done is in the modules that the commands import.

They import them when they run, so that help, faults and completion need no torch, which takes seconds to import.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from truncate._cli import options, suggesting
from truncate._cli.completion import complete_file
from truncate._errors import Differs, NotUsable, Stopped, TruncateError, brief, is_passing, printable

_HELP = {"help_option_names": ["-h", "--help"]}


if TYPE_CHECKING:
    _ParamType = click.ParamType[tuple[int, ...]]
else:  # before click 8.4 it takes no type
    _ParamType = click.ParamType


class _Shape(_ParamType):
    """A shape such as ``1,3,224,224``."""

    name = "N,C,H,W"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        try:
            sizes = tuple(int(size) for size in str(value).replace("x", ",").split(","))
        except ValueError:
            sizes = ()
        if not sizes or min(sizes) < 1:
            self.fail(f"{value!r} is not a shape such as 1,3,224,224")
        return sizes


_shape = click.option("--shape", type=_Shape(), help="Shape of the example input [default: one usual image].")


def _version() -> str:
    try:
        return metadata.version("torch-truncate")
    except metadata.PackageNotFoundError:
        return "unknown, as this copy is not installed"


@click.group(context_settings=_HELP, no_args_is_help=False, epilog=options.examples("layers alexnet", "cut --help"))
@click.version_option(_version(), message="torch-truncate %(version)s")
def cli() -> None:
    """The model, stopped at a layer.

    A MODEL is a name that torchvision knows (resnet18), timm:NAME, hf:FOLDER or hf:NAME,
    or package.module:callable, where calling it returns the model.
    """
    for module in ("torchvision", "rich", "PIL"):
        if find_spec(module) is None:
            raise NotUsable(f"the command line needs {module}, which is missing: pip install 'torch-truncate[cli]'")


@cli.command(
    epilog=options.examples(
        "cut alexnet --upto classifier.5 --out alexnet-fc7.pt",
        "cut resnet18 --weights DEFAULT --upto flatten --image image.jpg",
        "cut timm:resnet10t --upto layer2 --upto global_pool --out features.onnx",
        'cut resnet18 --upto "layer?.1.conv2" --out features.pt',
    )
)
@options.model
@options.stop
@options.weights
@options.trust
@_shape
@click.option(
    "--out",
    type=Path,
    metavar="FILE",
    shell_complete=complete_file,
    help="Output: .pt, .pt2, .onnx or .safetensors.",
)
@click.option(
    "--image", type=Path, metavar="FILE", shell_complete=complete_file, help="An image to compute the features of."
)
@options.as_json
@options.quiet
def cut(**given: Any) -> None:
    """Stop a model at a layer, check the result against the whole model, and save it."""
    from truncate._cli import cutting

    cutting.cut(**given)


@cli.command(epilog=options.examples("layers resnet50 --depth 1", "layers vit_b_16 --table --shapes"))
@options.model
@options.weights
@options.trust
@_shape
@click.option("--depth", type=click.IntRange(min=1), help="How many levels are shown [default: all].")
@click.option("--table", is_flag=True, help="Show a table of full paths instead.")
@click.option("--shapes", is_flag=True, help="Run the model once and show the output shape of each layer.")
@options.as_json
def layers(**given: Any) -> None:
    """Draw all layers and operations of a model."""
    from truncate._cli import listing

    listing.show(**given)


@cli.command(
    epilog=options.examples(
        "extract resnet50 images --upto flatten --weights DEFAULT --out features.parquet",
        "extract vit_b_16 images --upto encoder --pool cls --dtype bfloat16 --out features",
    ),
)
@options.model
@options.images
@options.stop
@click.option(
    "--out",
    required=True,
    type=Path,
    metavar="FILE|FOLDER",
    shell_complete=complete_file,
    help="Output: .parquet, or a new folder.",
)
@options.weights
@options.trust
@options.random
@options.limit
@click.option("--pool", type=click.Choice(["avg", "max", "mean", "cls"]), help="Pool each output to one vector.")
@options.batch_size
@options.workers
@options.device
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="The dtype of autocast.",
)
@click.option("--engine", type=click.Choice(["ray"]), help="What divides the work [default: this process].")
@click.option("--strict", is_flag=True, help="Stop at the first file that cannot be read.")
@options.as_json
@options.quiet
def extract(**given: Any) -> int:
    """Write the features of images as a table: those of a folder, one file, or the paths on stdin (-).

    Killed and started again, it goes on where it was. Files that cannot be read are in a table of their own.
    """
    try:
        from truncate._cli import extracting

        return extracting.extract(**given)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Nothing is lost: the same command continues where it stopped") from None


@cli.command(
    epilog=options.examples(
        "probe resnet18 images --weights DEFAULT --out curve.svg",
        'probe vit_b_16 images --labels labels.csv --at "encoder.layers.*" --folds 10',
    ),
)
@options.model
@options.images
@click.option("--at", multiple=True, metavar="TARGET", help="What to probe, also a pattern [default: each block].")
@click.option(
    "--labels",
    type=Path,
    metavar="FILE",
    shell_complete=complete_file,
    help="A table (.csv) with the columns path and label [default: each class has a folder].",
)
@options.weights
@options.trust
@options.random
@options.limit
@click.option("--pool", type=click.Choice(["avg", "max", "mean", "cls"]), help="How maps become vectors.")
@click.option(
    "--estimator", default="linear", show_default=True, type=click.Choice(["linear", "knn"]), help="The probe."
)
@click.option("--folds", default=5, show_default=True, type=click.IntRange(min=2), help="Cross-validation folds.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of the folds.")
@options.batch_size
@options.workers
@options.device
@click.option(
    "--vectors",
    type=Path,
    metavar="FILE|FOLDER",
    shell_complete=complete_file,
    help="Where to keep the vectors: .parquet, or a new folder. The same command then continues with them.",
)
@click.option("--out", type=Path, metavar="FILE", shell_complete=complete_file, help="The file for the curve: .svg.")
@options.as_json
@options.quiet
def probe(**given: Any) -> int:
    """Find the layer that suits your images: how well each block tells the classes apart, and what it costs.

    They are those of a folder, where each class has a folder of its own, or the paths on stdin (-).
    Images that are in no folders of classes have no labels: then it prints measures that need none.
    """
    try:
        from truncate._cli import choosing

        return choosing.choose(**given)
    except KeyboardInterrupt:
        known = "Nothing is lost: the same command goes on where it was"
        raise KeyboardInterrupt(known if given["vectors"] else "With --vectors FILE.parquet, it goes on") from None


def run(program: str = options.PROGRAM) -> int:
    """`main`, with an exit code of its own for what nobody expected: Python's is 1, which says something else here."""
    try:
        return main(program=program)
    except Exception:
        traceback.print_exc()
        return 70


def main(arguments: list[str] | None = None, program: str = options.PROGRAM) -> int:
    """Runs the command line.

    Its exit code: 0; 1 if a check or a file failed; 2 for what cannot be done; 3 if the machine failed, for want of
    memory perhaps, and the same command may go on.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot draw a tree still shows its names
    try:
        code = cli.main(arguments, prog_name=program, standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else program
        return _fail(f"{suggesting.told(error)} (see {command} --help)")
    except click.ClickException as error:
        return _fail(suggesting.line(error))
    except (NotUsable, TruncateError) as error:
        return _fail(brief(error, limit=1000), code=3 if is_passing(error) else 2)
    except (Differs, Stopped) as error:
        return _fail(str(error), code=1)
    except click.Abort as error:  # which click makes of an interrupt
        print(". ".join(filter(None, ["interrupted", str(error.__cause__ or "")])), file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not is_passing(error):
            raise
        return _fail(brief(error) if str(error) else "out of memory", code=3)
    return code or 0


def _fail(message: str, code: int = 2) -> int:
    print(f"error: {printable(message)}", file=sys.stderr)
    return code
