"""What the command line means by the name of a model: how it is built, with which weights, and what it takes."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from truncate._api import truncate
from truncate._cli.printing import warn
from truncate._errors import CannotFollowError, ContentWarning, NotUsable, WeightsError, close, explained, need
from truncate._jobs import decode
from truncate._plan import before, targets_of
from truncate._sandbox import example_of
from truncate._show import shape_of, shape_text
from truncate._target import BEFORE, Target, module_given
from truncate._weights import (
    PICKLED,
    SUFFIXES,
    NotTensorsError,
    listed,
    load_weights,
    problems_of,
    state_dict_in,
    wrapping,
)


@dataclasses.dataclass
class Built:
    """A model in evaluation mode, and an example of what it takes."""

    model: nn.Module
    weights: str  # which it has, in words
    args: tuple[Any, ...]  # random numbers of the right shape
    transform: Callable[[Any], torch.Tensor] | None  # from an image to what the model takes, without the batch
    untrained: frozenset[str] = frozenset()  # which of its tensors are random
    trained_by: str = ""  # how they would not be
    no_images: str = ""  # why there is no transform

    @property
    def shapes(self) -> str:
        """Of the example, in words."""
        return " and ".join(shape_text(shape_of(arg)) for arg in self.args if arg is not None)

    @property
    def about(self) -> str:
        """Which weights it has, and what could be done about it."""
        if not self.untrained:
            return self.weights
        if len(self.untrained) == len(self.model.state_dict()):
            return f"{self.weights} ({self.trained_by})"
        return f"{self.weights}, and random ones in {_named(sorted(self.untrained))}"

    def for_images(self) -> Callable[[Any], torch.Tensor]:
        """The transform of images.

        Raises:
            NotUsable: The model takes none.
        """
        if self.transform is None:
            raise NotUsable(self.no_images)
        return self.transform

    def targets(self, stop: Mapping[str, Sequence[str]]) -> dict[str, Target]:
        """What --upto or --before names, by the names of the targets: a pattern may name several, each counts once."""
        ((kind, written),) = stop.items()
        read: list[Target] = []
        for one in written:
            try:
                found = targets_of(self.model, one)
            except CannotFollowError:
                found = targets_of(self.model, one, example_of(self.model, self.args, None))
            read += found if isinstance(found, list) else [found]
        if kind == "upto":
            return {target.name: target for target in read}
        return {target.name.removeprefix(BEFORE): before(target) for target in read}

    def stopped(self, upto: Any, **options: Any) -> nn.Module:
        """The model up to there, cut without the example where that is possible: it then assumes less."""
        try:
            return truncate(self.model, upto=upto, live=False, **options)
        except CannotFollowError:
            with warnings.catch_warnings():  # a line each, as the command itself warns
                warnings.simplefilter("always", ContentWarning)
                warnings.showwarning = lambda message, *_: warn(str(message))
                return truncate(self.model, upto=upto, args=self.args, **options)

    def insist_on_trained(self, name: str, part: nn.Module, random: bool) -> str:
        """Refuses random weights in what computes features; or returns what to warn of, where they were asked for.

        Raises:
            NotUsable: There are some, and nobody asked for them.
        """
        state = part.state_dict().keys()
        names = sorted(self.untrained & state)
        if not names:
            return ""
        what = "random weights" if len(names) == len(state) else f"random weights in {_named(names)}"
        if not random:
            raise NotUsable(
                f"{name} has {what}, and their features say little about an image: {self.trained_by}, --weights FILE "
                "reads a checkpoint, and --random uses random weights anyway"
            )
        return f"{name} has {what}, and their features say little about an image ({self.trained_by})"


def build(name: str, weights: str | None = None, shape: tuple[int, ...] | None = None, trust: bool = False) -> Built:
    """The model of that name: of torchvision, ``timm:NAME``, ``hf:NAME``, or what ``package.module:callable`` returns.

    Args:
        name: Which model; a file that ends in .pt2 is an exported program.
        weights: The name of weights that the library downloads, or a local checkpoint. Without, they are random.
        shape: The shape of the example input, where it is not that of the model's usual image.
        trust: Whether a checkpoint that holds other things than tensors is read too, which may run code in it.

    Raises:
        NotUsable: There is no such model, or it does not go with these weights.
    """
    from truncate._cli import hugging_face  # which builds on what is here

    torch.manual_seed(0)  # random weights are the same in each run
    checkpoint = Path(weights) if weights and weights.endswith(SUFFIXES) else None
    named = None if checkpoint else weights
    _no_file(name)
    if name.endswith(".pt2"):
        built = _from_program(name, named)
    elif name.startswith("timm:"):
        built = _from_timm(name.removeprefix("timm:"), named)
    elif name.startswith("hf:"):
        built = hugging_face.build(name.removeprefix("hf:"), named)
    elif ":" in name:
        built = _from_callable(name, named)
    else:
        built = _from_torchvision(name, named)
    if checkpoint:
        _load(built.model, checkpoint, trust)
        built.weights, built.untrained = f"weights of {checkpoint.name}", frozenset()
    if shape:
        built.args = (_shaped(built.args[0], shape),)
    if not name.endswith(".pt2"):  # whose mode was fixed when it was exported
        built.model.eval()
    return built


def _no_file(name: str) -> None:
    """Refuses what looks like a file, and says what to write instead."""
    module, colon, attribute = name.partition(":")
    if module.endswith(".py"):
        instead = f"{Path(module).stem}:{attribute or 'NAME'}"
        raise NotUsable(f"{name!r} is a file, but a model is imported: write {instead}, in the folder of that file")
    if name.endswith(SUFFIXES) and not colon:
        raise NotUsable(f"{name!r} is a checkpoint and not a model: name the model, and add --weights {name}")


# -- the sources -----------------------------------------------------------------------------------------------------


def _from_torchvision(name: str, weights: str | None) -> Built:
    from torchvision import models

    try:
        builder, known = models.get_model_builder(name), models.get_model_weights(name)
    except ValueError:
        raise NotUsable(f"torchvision has no model {name!r}{close(name, models.list_models()) or _OTHERS}") from None
    if weights and weights not in known.__members__:
        names = ", ".join(known.__members__) or "none"
        raise NotUsable(f"{name} has no weights {weights!r}; it has: {names}. {LOCAL}")
    chosen = known[weights] if weights else None
    options: dict[str, Any] = {"weights": chosen}
    if chosen is None and "weights_backbone" in inspect.signature(builder).parameters:
        options["weights_backbone"] = None  # the default would download some
    with warnings.catch_warnings(), _building(name, weights):
        warnings.filterwarnings("ignore", "The default weight initialization", FutureWarning)  # of random weights
        model = builder(**options)
    usual = chosen or next(iter(known), None)
    transform = usual.transforms() if usual else imagenet()
    size = getattr(model, "image_size", None)
    if chosen is None and isinstance(size, int):  # trained weights may be for larger images than new ones
        transform = imagenet(size)
    crop = getattr(transform, "crop_size", None) or [224]
    crop = [*crop, *crop][:2]
    kind = builder.__module__.split(".")[2]
    if kind == "detection":
        args: tuple[Any, ...] = ([torch.rand(3, 320, 320)],)
    elif kind == "optical_flow":
        args = (random_numbers(1, 3, 128, 128), random_numbers(1, 3, 128, 128))
    elif kind == "video":
        args = (random_numbers(1, 3, 16, *crop),)
    else:
        args = (random_numbers(1, 3, *crop),)
    return _downloaded(model, f"weights {weights}" if weights else "", args, transform)


def _from_program(name: str, weights: str | None) -> Built:
    if weights:
        raise NotUsable(f"{name} is an exported program, which contains its own weights; leave out --weights")
    if not Path(name).is_file():
        raise NotUsable(f"no file {name}")
    logging.getLogger("torch.export").setLevel(logging.ERROR)  # it logs the trace of what it raises
    with explained(f"cannot read {name}"):
        program = torch.export.load(name)
    args = program.example_inputs[0] if program.example_inputs else (random_numbers(1, 3, 224, 224),)
    return Built(module_given("truncate", program), "its own weights", args, imagenet())


def _from_timm(name: str, weights: str | None) -> Built:
    timm = need("timm", "a model of timm", "timm")
    if weights not in (None, "DEFAULT"):
        raise NotUsable(f"the name of a timm model includes its weights: write DEFAULT, not {weights!r}. {LOCAL}")
    if name.partition(".")[0] not in timm.list_models():
        raise NotUsable(f"timm has no model {name!r}{close(name, timm.list_models())}")
    with _building(f"timm:{name}", weights):
        model = timm.create_model(name, pretrained=weights is not None)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    args = (random_numbers(1, *config["input_size"]),)
    return _downloaded(model, "pretrained weights" if weights else "", args, transform)


def _downloaded(model: nn.Module, weights: str, args: tuple[Any, ...], transform: Any) -> Built:
    """A model of a library, with the weights that it has downloaded, or with random ones if these are none."""
    untrained = frozenset() if weights else frozenset(model.state_dict())
    return Built(model, weights or "random weights", args, transform, untrained, _DEFAULT)


def _from_callable(name: str, weights: str | None) -> Built:
    if weights:
        raise NotUsable(f"{name} is not a model of a library, and has no weights called {weights!r}. {LOCAL}")
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise NotUsable(f"{name!r} is not a model: before the colon is the module to import, after it a callable")
    with explained(f"cannot import {module!r}"):
        value: Any = importlib.import_module(module)
    for step in attribute.split("."):
        if not hasattr(value, step):
            raise NotUsable(f"{module!r} has no {attribute!r}{close(step, dir(value))}")
        value = getattr(value, step)
    if not isinstance(value, nn.Module):
        if not callable(value):
            raise NotUsable(f"{name} is neither a model nor a function that returns one, but {value!r}")
        torch.manual_seed(0)  # the import may have drawn random numbers, if it was the first
        with explained(f"{name} failed when called without arguments"):
            value = value()
    if not isinstance(value, nn.Module):
        raise NotUsable(f"{name} returned a {type(value).__name__} and not a torch.nn.Module")
    return Built(value, "its own weights", (random_numbers(1, 3, 224, 224),), imagenet())


LOCAL = f"A local checkpoint ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
_OTHERS = ". Others are named timm:NAME, hf:FOLDER or hf:NAME, or package.module:callable"
_DEFAULT = "--weights DEFAULT downloads trained ones"


@contextlib.contextmanager
def _building(name: str, weights: str | None) -> Iterator[None]:
    try:
        with explained(f"cannot build {name}"):
            yield
    except NotUsable as error:
        if weights is None or not isinstance(error.__cause__, OSError):
            raise
        raise NotUsable(
            f"{error} (weights {weights!r} are downloaded; where there is no network, --weights takes a checkpoint)"
        ) from error


def _named(names: list[str]) -> str:
    more = [f"{len(names) - 2} more"] if len(names) > 2 else []
    return " and ".join([", ".join(names[:2]), *more])


# -- weights ---------------------------------------------------------------------------------------------------------


def _load(model: nn.Module, path: Path, trust: bool) -> None:
    """Loads a checkpoint that fits: one that holds more is another model's, even if all that the model needs is there.

    What is trusted is loaded as PyTorch does it, with all that modules may do there.
    """
    name = type(model).__name__
    if trust and path.suffix in PICKLED:
        with explained(f"cannot read {path}"):
            content = torch.load(path, map_location="cpu", weights_only=False)
        tensors, key = state_dict_in(content, path)
        state = content if key is None else content[key]
        prefix = wrapping(tensors, model.state_dict())
        with explained(f"{path} does not fit {name}"):
            model.load_state_dict({entry.removeprefix(prefix): value for entry, value in state.items()})
        return
    try:
        report = load_weights(model, path, strict=False)
    except WeightsError as error:
        instead = ["or take --trust"] if isinstance(error, NotTensorsError) else []
        raise NotUsable("; ".join([*str(error).splitlines(), *instead])) from error
    problems = problems_of(report)
    problems += [f"not in the model: {listed(report.unexpected)}"] if report.unexpected else []
    if problems:
        raise NotUsable(f"{path} does not fit {name}: {'; '.join(problems)}")


# -- images ----------------------------------------------------------------------------------------------------------


def read_image(path: Path) -> Any:
    """An image from a file, read as those of a folder are."""
    if path.is_dir():
        raise NotUsable(f"{path} is a folder: --image takes one image, and the command `extract` takes a folder")
    if not path.is_file():
        raise NotUsable(f"no file {path}")
    with explained(f"cannot read {path} as an image"):
        return decode(str(path))


def imagenet(size: int = 224) -> Callable[[Any], torch.Tensor]:
    """What most models trained on ImageNet do with an image."""
    from torchvision.models import ResNet18_Weights

    return ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=size, resize_size=round(size * 256 / 224))


def _shaped(like: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """Random numbers of another shape: whole ones if the example has these."""
    if not isinstance(like, torch.Tensor) or like.is_floating_point():
        return random_numbers(*shape)
    most = int(like.max()) + 1
    return torch.randint(most, shape, generator=torch.Generator().manual_seed(0), device="cpu")


def random_numbers(*shape: int) -> torch.Tensor:
    """Numbers of a normal distribution, the same ones in each run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu")  # whatever the default is
