"""What makes a table: any change of it gives another hash, and nothing else does."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import ROOT
from torch import nn

from truncate import truncate
from truncate._jobs.identity import code_hash, versions, weights_hash

HELPERS = "SHIFT = 3\n\ndef twice(x):\n    return x * 2 + SHIFT\n"
MODEL = """
import functools
import torch
from torch import nn
import helpers
from helpers import twice

SCALE = 5
TABLE = {"a": [1, 2]}

def shifted(x, by=7):
    return other(x) + by

def other(x):
    return shifted(x) if x is None else x + SCALE

def doubled(function):
    @functools.wraps(function)
    def wrapped(*args):
        return function(*args) * 11
    return wrapped

class Config:
    slope = 13
    def __init__(self):
        self.width = 17
        self.me = self

class Act(nn.Module):
    LIMIT = 19
    def forward(self, x):
        return self.limited(x)
    def limited(self, x):
        return torch.clamp(x, max=self.LIMIT) * self.half
    @property
    def half(self):
        return 23
    def unused(self):
        return 29

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4, eps=0.25)
        self.act = Act()
        self.config = Config()
        self.choices = {"deep": [lambda x: x + 31]}
        self.last = nn.Identity()
        self.first.register_forward_hook(lambda module, args, output: output + 37)
        print("made")
    @doubled
    def forward(self, x):
        x = self.norm(self.first(x))
        x = helpers.twice(shifted(x)) + TABLE["a"][0] + self.config.width + self.config.slope
        return self.last(self.act(self.choices["deep"][0](x)) - 41)
"""


@pytest.fixture
def hash_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Of the model with the texts replaced in its file, or in that beside it; whole, or cut in some way."""

    def build(changes: dict[str, str], cut: Any = lambda net: net) -> str:
        for name, text in (("helpers", HELPERS), ("model", MODEL)):
            for old, new in changes.items():
                text = text.replace(old, new)
            path = tmp_path / f"{name}.py"
            path.write_text(text)
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, name, module)
            exec(compile(text, str(path), "exec"), module.__dict__)
        torch.manual_seed(0)
        return code_hash(cut(module.Net().eval()))

    return build


CHANGES = [
    ("- 41", "- 42"),  # the forward
    ("* 11", "* 12"),  # what decorates it
    ("self.norm(self.first(x))", "self.first(x)"),
    ("x + SCALE", "x - SCALE"),  # a function that a function of it calls
    ("SCALE = 5", "SCALE = 6"),
    ("by=7", "by=8"),
    ("[1, 2]", "[0, 2]"),
    ("x * 2", "x * 3"),  # in another file
    ("SHIFT = 3", "SHIFT = 4"),
    ("slope = 13", "slope = 14"),
    ("width = 17", "width = 18"),
    ("LIMIT = 19", "LIMIT = 20"),  # in a module inside
    ("return self.limited(x)", "return self.limited(x) + 0"),
    ("max=self", "min=self"),
    ("return 23", "return 24"),
    ("x + 31", "x + 32"),
    ("output + 37", "output + 38"),  # a hook
    ("stride=2", "stride=1"),
    ("eps=0.25", "eps=0.5"),
]
NO_CHANGES = [
    ("SCALE = 5", "# five\n\n\nSCALE = 5"),
    ("    def forward(self, x):\n        x =", "    def forward(self, x):\n        # as before\n\n        x ="),
    ("return 29", "return 30"),
    ('print("made")', 'print("built")'),
]
CUTS: dict[str, Any] = {
    "whole": lambda net: net,
    "live": lambda net: truncate(net, "last", live=True, args=(torch.rand(1, 3, 8, 8),)),
    "recorded": lambda net: truncate(net, "last", args=(torch.rand(1, 3, 8, 8),), live=False),
}


@pytest.mark.parametrize("cut", CUTS)
def test_each_change_of_what_is_computed_counts(cut: str, hash_of: Callable[..., str]) -> None:
    hashes = [hash_of({}, CUTS[cut]), *(hash_of({old: new}, CUTS[cut]) for old, new in CHANGES)]
    same = [change for change, found in zip(CHANGES, hashes[1:]) if found == hashes[0]]
    assert same == ([("* 11", "* 12")] if cut == "recorded" else [])  # comes after the target, and is dropped


@pytest.mark.parametrize("cut", CUTS)
def test_nothing_else_counts(cut: str, hash_of: Callable[..., str]) -> None:
    first = hash_of({}, CUTS[cut])
    assert [change for change in NO_CHANGES if hash_of(dict([change]), CUTS[cut]) != first] == []


def test_what_was_dropped_does_not_count(hash_of: Callable[..., str]) -> None:
    found = [hash_of(changes, lambda net: truncate(net, "norm")) for changes in ({}, {"LIMIT = 19": "LIMIT = 20"})]
    assert found[0] == found[1]


def test_modules_that_no_state_holds(hash_of: Callable[..., str]) -> None:
    net = nn.Linear(2, 2)
    net.hidden = [nn.Linear(2, 2)]  # type: ignore[assignment]
    before = code_hash(net)
    with torch.no_grad():
        net.hidden[0].weight[0, 0] += 1  # type: ignore[index]
    assert code_hash(net) != before


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "timm:convnext_atto", "timm:vit_tiny_patch16_224"])
def test_the_same_in_each_process(name: str) -> None:
    code = f"""
import sys, torch, warnings
from truncate._cli import models
from truncate._jobs import code_hash
from truncate import truncate
built = models.build({name!r})
print(code_hash(built.model, built.transform), code_hash(built.stopped(next(iter(built.model._modules)))))
"""
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1


def test_versions_of_what_the_model_is_made_of() -> None:
    import timm

    found = versions(timm.create_model("convnext_atto"), "torch")
    expected = {"torch": torch.__version__.partition("+")[0], "timm": timm.__version__}
    assert found == {"python": sys.version.split()[0], **expected}


def test_all_that_a_module_holds_is_compared() -> None:
    class Holding(nn.Module):
        def __init__(self, saved: float = 1.0, unsaved: float = 2.0, extra: Any = 3) -> None:
            super().__init__()
            self.saved = nn.Parameter(torch.full((2,), saved))
            self.register_buffer("unsaved", torch.full((2,), unsaved), persistent=False)
            self.extra = extra

        def get_extra_state(self) -> Any:
            return {"value": self.extra}

    first = weights_hash(Holding())
    assert weights_hash(Holding()) == first
    others = {weights_hash(Holding(saved=9.0)), weights_hash(Holding(unsaved=9.0)), weights_hash(Holding(extra=9))}
    assert len({first, *others}) == 4
