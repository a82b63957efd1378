"""Each call of each module of the gallery's models, which tests cut, and how the untouched models are run."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gallery import GALLERY, Specimen
from oracle import hooked, stopped
from rebuilt import truncate
from torch import nn

from truncate import CannotFollowError

# -- running the untouched models ------------------------------------------------------------------------------------


def prepared(spec: Specimen, batch: int = 2) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Fresh inputs, with all random numbers that follow set to their beginning."""
    inputs = spec.inputs(batch)
    torch.manual_seed(1)
    random.seed(1)
    return inputs


def run(model: nn.Module, spec: Specimen, batch: int = 2) -> Any:
    args, kwargs = prepared(spec, batch)
    return model(*args, **kwargs)


def run_until(model: nn.Module, spec: Specimen, path: str, call: int, batch: int = 2) -> Any:
    args, kwargs = prepared(spec, batch)
    return stopped(model, path, call, *args, **kwargs)


def trace(model: nn.Module, spec: Specimen, batch: int = 2) -> dict[str, list[Any]]:
    """What each call of each module that runs returns, with all names of a module."""
    named = model.named_modules(remove_duplicate=False)
    hookable = {path: module for path, module in named if not isinstance(module, torch.jit.ScriptModule)}
    with hooked(hookable) as seen:
        run(model, spec, batch)
    return {path: outputs for path, outputs in seen.items() if outputs}


def refused(spec: Specimen, path: str) -> bool:
    return any(path == place or path.startswith(f"{place}.") for place in spec.refuses)


def thinned(paths: list[str]) -> list[str]:
    """All of them, or a few of the many of a deep model, with the last."""
    return paths if len(paths) < 20 else [*paths[:: -(-len(paths) // 4)], paths[-1]]


# -- what the tests go through ---------------------------------------------------------------------------------------


def _places() -> Iterator[Any]:
    """Each call of each module of each model that runs in one of the modes, and the modes in which it does."""
    for name, spec in GALLERY.items():
        seen = {training: trace(spec.make().train(training), spec) for training in (False, True)}
        for path in thinned(list({**seen[False], **seen[True]})):
            for call in range(max(len(outputs.get(path, ())) for outputs in seen.values())):
                modes = tuple(training for training, outputs in seen.items() if len(outputs.get(path, ())) > call)
                if path:
                    yield pytest.param(spec, path, call, modes, id=f"{name}-{path}:{call}")


ALL = list(_places())
SURE = [place for place in ALL if not refused(place.values[0], place.values[1])]
ONE_EACH = [list(places)[-1] for _, places in itertools.groupby(SURE, key=lambda place: place.values[0])]
ARGUMENTS = ("spec", "path", "call", "modes")
EVERY_PLACE = pytest.mark.parametrize(ARGUMENTS, ALL)
EVERY_SURE_PLACE = pytest.mark.parametrize(ARGUMENTS, SURE)
ONE_PLACE_EACH = pytest.mark.parametrize(ARGUMENTS, ONE_EACH)
EVERY_MODEL = pytest.mark.parametrize("spec", GALLERY.values(), ids=list(GALLERY))
BOTH_MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def cut_or_none(model: nn.Module, spec: Specimen, path: str, call: int) -> nn.Module | None:
    """The cut, or nothing where it may be refused and was."""
    try:
        return truncate(model, f"{path}:{call}")
    except CannotFollowError:
        assert refused(spec, path), "this place has to be had"
        return None
