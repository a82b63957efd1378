"""Models of whole collections, each with inputs of two sizes, and what every cut of one has to pass."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import capture, cloned, equal, on_device, parameters_needed, randomize, tensors_in, unexpected_parameters
from rebuilt import truncate
from torch import nn

import truncate as library
from truncate import CannotFollowError, CrossingError, FixedArgumentError, TruncateError, split

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of a collection, and what the checks have to know of it."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], Arguments]  # 0: the example, 1: of another size
    train: bool | str = True  # whether training can be compared: it cannot without labels. Or below what path it can be
    # as it is; elsewhere without dropout, since what a cut leaves out draws random numbers and so shifts the others
    exact: bool = True  # whether autograd finds all that a cut has to hold
    random: bool = True  # whether it may be given random statistics and scales
    wanted: tuple[str, ...] = ()  # parts of paths of which one each is cut; otherwise drawn
    cuts: int = 3
    undivided: tuple[str, ...] = ()  # places where `split` refuses to divide the model
    keeps: tuple[str, ...] = ()  # parameters kept though no gradient leads to them: a size is read, or it may write

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.make().eval()
        return on_device(randomize(model) if self.random else model)

    def example(self, size: int = 0) -> Arguments:
        torch.manual_seed(10 + size)
        return on_device(self.inputs(size))


def run(model: nn.Module, given: Arguments) -> Any:
    args, kwargs = cloned(list(given[0])), cloned(given[1])
    torch.manual_seed(1)
    return model(*args, **kwargs)


def hooked_run(model: nn.Module, path: str, given: Arguments) -> Any:
    args, kwargs = cloned(list(given[0])), cloned(given[1])
    torch.manual_seed(1)
    return capture(model, [path], *args, **kwargs)[path][-1]


def chosen(entry: Entry, name: str, paths: list[str]) -> list[str]:
    """The places to cut: the last that holds each of the wanted names, or some drawn ones."""
    if not entry.wanted:
        return random.Random(name).sample(paths, min(entry.cuts, len(paths)))
    found = [[path for path in paths if part in path] for part in entry.wanted]
    return list(dict.fromkeys(some[len(some) // 2] for some in found if some))


@torch.enable_grad()
def cut_of(model: nn.Module, path: str, given: Arguments) -> tuple[nn.Module, dict[str, Any]]:
    """A cut without an example if it can be had and takes all these arguments, and the example that it needed."""
    try:
        cut = truncate(model, path)
        run(cut, given)
        return cut, {}
    except (CannotFollowError, FixedArgumentError):
        example = {"args": given[0], "kwargs": given[1]}
        return truncate(model, path, **example), example


def can_pickle(model: nn.Module, given: Arguments) -> bool:
    """Whether the model itself pickles, and still runs when it comes back, as quantized modules do not."""
    try:
        run(pickle.loads(pickle.dumps(model)), given)
    except Exception:  # whatever stands in the way
        return False
    return True


def twins_of(module: nn.Module, pickles: bool) -> list[nn.Module]:
    return [copy.deepcopy(module), *([pickle.loads(pickle.dumps(module))] if pickles else [])]


@torch.no_grad()
def check(name: str, entry: Entry, record: Callable[[str, object], None]) -> None:
    """Every cut equals the hooked model, holds what it needs, copies and pickles, and the model is as before."""
    model, given, other = entry.model(), entry.example(), entry.example(1)
    seen = capture(model, [path for path, _ in model.named_modules()], *cloned(list(given[0])), **cloned(given[1]))
    paths = [path for path, outputs in seen.items() if path and outputs and tensors_in(outputs[-1])]
    del seen  # every output of the model at once: of a video model, gigabytes
    before = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    pickles, kept = can_pickle(model, given), set[str]()
    counts = {"cuts": 0, "on an example": 0, "other size refused": 0}
    for position, path in enumerate(chosen(entry, name, paths)):
        cut, example = cut_of(model, path, given)
        if position == 0 and path not in entry.undivided:
            check_division(model, path, given, example, entry.train is True)
        counts["cuts"] += 1
        counts["on an example"] += bool(example)
        expected = hooked_run(model, path, given)
        assert equal(run(cut, given), expected), f"{path}: differs"
        try:
            result = run(cut, other)
        except (AssertionError, TruncateError):
            assert example, f"{path}: only what was recorded may be refused"
            counts["other size refused"] += 1
        else:
            assert equal(result, hooked_run(model, path, other)), f"{path}: differs in another size"
        for twin in twins_of(cut, pickles):
            assert equal(run(twin, given), expected), f"{path}: a copy differs"
        if entry.exact:
            with torch.enable_grad():
                needed = parameters_needed(model, path, *cloned(list(given[0])), **cloned(given[1]))
            unexpected = unexpected_parameters(model, cut, needed, path)
            wrong = [name for name in unexpected if not name.startswith(tuple(f"+{kept}" for kept in entry.keeps))]
            assert not wrong, f"{path}: {wrong[:4]} of {len(wrong)}"
            kept |= set(unexpected)
        if entry.train:
            shifted = entry.train is not True and not path.startswith(entry.train)
            check_in_training(without_dropout(model) if shifted else model, path, given, example)
    assert all(any(name.startswith(f"+{one}") for name in kept) for one in entry.keeps), "is no longer kept"
    assert not model.training
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) or value.isnan().any() for key, value in before.items())
    for key, value in counts.items():
        record(key, value)
    print(name, counts)


def check_division(model: nn.Module, path: str, given: Arguments, example: dict[str, Any], in_training: bool) -> None:
    """The model in two pieces, all that crosses handed on, returns what the model returns."""
    with torch.enable_grad():
        try:
            pieces = split(model, path, **example, crossing="pass")
        except (CannotFollowError, CrossingError):  # what follows may need an example where the cut needs none
            example = {"args": given[0], "kwargs": given[1]}
            pieces = split(model, path, **example, crossing="pass")
    for training in (False, True) if in_training else (False,):
        whole, (front, back) = copy.deepcopy(model).train(training), copy.deepcopy(pieces)
        try:
            expected = run(whole, given)
        except (ValueError, RuntimeError):  # a batch norm of one value, say
            continue
        try:
            crossing = run(front.train(training), given)
            result = list(tensors_in(back.train(training)(crossing)))
        except AssertionError:  # random numbers decided: wav2vec2 drops whole layers
            assert example and training, f"divided at {path}: only what was recorded may be refused"
            continue
        assert equal(result, list(tensors_in(expected))), f"divided at {path}: differs"


def without_dropout(model: nn.Module) -> nn.Module:
    """A copy in which dropout draws random numbers and drops nothing."""
    model = copy.deepcopy(model)
    for module in model.modules():
        numbers = [name for name, value in vars(module).items() if type(value) is float]
        vars(module).update({name: 0.0 for name in numbers if name == "p" or "drop" in name})
    return model


@torch.enable_grad()  # as when it is cut: layers with gradient checkpointing ask for it, and the answer is checked
def check_in_training(model: nn.Module, path: str, given: Arguments, example: dict[str, Any]) -> None:
    """The same values and statistics with the same random numbers, for a cut that was made in the other mode."""
    whole = copy.deepcopy(model).train()
    try:
        expected = hooked_run(whole, path, given)
    except (ValueError, RuntimeError):  # a batch norm of one value, say
        return
    cut = truncate(model, path, **example, copy=True).train()
    assert equal(run(cut, given), expected), f"{path}: differs in training"
    statistics = whole.state_dict()
    for key, value in cut.state_dict().items():
        assert not isinstance(value, torch.Tensor) or equal(value, statistics[key]), f"{path}: {key} differs"


def each(entries: dict[str, Entry], refused: dict[str, str] | None = None) -> pytest.MarkDecorator:
    """A test for each entry; those that cannot be, for a reason, are expected to fail."""
    refused = refused or {}
    assert set(refused) <= set(entries)
    marks = {name: pytest.mark.xfail(reason=reason, strict=True) for name, reason in refused.items()}
    given = [pytest.param(name, entry, id=name, marks=marks.get(name, ())) for name, entry in entries.items()]
    return pytest.mark.parametrize(("name", "entry"), given)


@torch.no_grad()
def check_live(name: str, entry: Entry) -> None:
    """One place, cut live and without an example, equals the hooked model in both sizes and modes, and copies."""
    model, given, other = entry.model(), entry.example(), entry.example(1)
    seen = capture(model, [path for path, _ in model.named_modules()], *cloned(list(given[0])), **cloned(given[1]))
    paths = [path for path, outputs in seen.items() if path and outputs and tensors_in(outputs[-1])]
    del seen
    path = random.Random(f"{name} live").choice(paths)
    with torch.enable_grad():
        cut = library.truncate(model, path, live=True)
    assert not cut.assumptions
    for arguments in (given, other):
        assert equal(run(cut, arguments), hooked_run(model, path, arguments)), f"{path}: differs"
    for twin in twins_of(cut, can_pickle(model, given)):
        assert equal(run(twin, given), hooked_run(model, path, given)), f"{path}: a copy differs"
    if entry.train:
        try:
            expected = hooked_run(copy.deepcopy(model).train(), path, given)
        except (ValueError, RuntimeError):  # a batch norm of one value, say
            return
        assert equal(run(copy.deepcopy(cut).train(), given), expected), f"{path}: differs in training"
