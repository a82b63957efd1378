"""Modules of source text. The text is in a real file, as Python's own tools, and the library, read it from there."""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import nn


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def load(source: str) -> ModuleType:
    """The source as an imported module, so that what it defines can be pickled."""
    name = "fuzz_" + hashlib.sha256(source.encode()).hexdigest()[:12]
    if name not in sys.modules:
        path = _folder() / f"{name}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def factory(source: str) -> Callable[[], nn.Module]:
    """Makes the model of the source, each time a new one with the same weights."""
    scope = load(source)

    def make() -> nn.Module:
        torch.manual_seed(0)
        model: nn.Module = scope.Model()
        with torch.no_grad():  # fresh statistics and scales are 0 and 1, which hides mistakes
            for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
                if tensor.is_floating_point() and (tensor.dim() < 2 or "running_" in name):
                    tensor.copy_(torch.rand(tensor.shape) * 0.5 + 0.5)
        return model

    return make
