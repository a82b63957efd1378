"""The classes that are made for cuts: where their source is found, how long they live, how they are pickled."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import linecache
import pickle
import resource
import sys
import traceback
import types
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truncate import TruncateError, freeze, source, split, truncate
from truncate._build.assemble import run_source_of_pickle


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.a(self.inner(x)))


class ByClosure(Net):
    """Holds a function that holds it."""

    def __init__(self) -> None:
        super().__init__()
        model = weakref.proxy(self)
        self.__dict__["how"] = lambda x, of=[self, model]: x * len(of)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.how(self.a(x)))


class Asks(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x + 1 if x.shape[0] > 1 else x)


X = torch.ones(2, 4)


def test_the_source_is_found_after_its_cache_was_cleared() -> None:
    whole = truncate(Net(), {"a": "a", "b": "b"})
    inside = nn.Sequential(truncate(Asks(), "a", args=(X,)))
    for module in (whole, inside, truncate(Net(), {"a": "a", "b": "b"}), pickle.loads(pickle.dumps(whole))):
        linecache.clearcache()
        torch.jit.script(module)
    linecache.clearcache()
    assert inspect.getsource(whole.forward).startswith("def forward(self, x")
    linecache.clearcache()
    assert torch.equal(truncate(whole, "a", live=True)(X), whole(X)["a"])
    linecache.clearcache()
    assert torch.equal(truncate(whole, "a")(X), whole(X)["a"])


def test_an_error_shows_the_line() -> None:
    with pytest.raises(RuntimeError) as caught:
        truncate(Net(), {"of its own": "a", "b": "b"})(torch.ones(2, 3))
    assert "x = self.inner(x)" in "".join(traceback.format_exception(caught.value))


def test_a_thousand_cuts_leave_nothing() -> None:
    """Each with a source of its own, in every way in which a cut is made."""

    def soak(count: int) -> tuple[int, ...]:
        for i in range(count):
            model: Any = (Net, ByClosure, Asks)[i % 3]()
            model.register_module(f"layer{count}_{i}", nn.Linear(4, 4))
            kind = type(model)
            model.__class__ = type(kind)(
                kind.__name__, (kind,), {"forward": forward_through(f"layer{count}_{i}", kind)}
            )
            how: Any = {"live": True} if i % 10 == 1 else {"args": (X,)} if i % 3 == 2 else {}
            cut = truncate(model, "b", **how)
            if i % 60 == 0:
                source(truncate(cut, "a"))
                split(model, "a")
                pickle.loads(pickle.dumps(cut))
                freeze(copy.deepcopy(cut))
        del model, cut, kind
        gc.collect()
        objects = gc.get_objects()
        modules = sum(issubclass(type(one), nn.Module) for one in objects)
        classes = sum(isinstance(one, type) and issubclass(one, nn.Module) for one in objects if type(one) is type)
        return modules, classes, sum("truncated" in name for name in [*linecache.cache, *sys.modules])

    *_, entries = soak(30)
    modules, classes, _ = soak(600)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    modules_later, classes_later, entries_later = soak(400)
    assert modules_later <= modules
    assert classes_later <= classes
    assert entries_later <= entries + 2 * 512  # of the sources that are kept for the next cut
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 16 * 1024  # kilobytes


def forward_through(name: str, kind: Any) -> Any:
    def forward(self: Any, x: Tensor) -> Any:
        return kind.forward(self, getattr(self, name)(x))

    return forward


def test_letting_in_one_function_of_ours_runs_no_code() -> None:
    for module in (truncate(Net(), {"a": "a", "b": "b"}), freeze(truncate(Net(), {"a": "a", "b": "b"}))):
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        with pytest.raises(
            pickle.UnpicklingError, match=r"GLOBAL truncate\._build\.\w+\.(run_source_of_pickle|_make_held) "
        ):
            torch.load(file, weights_only=True)
        rooms = [
            vars(part) for name, part in sys.modules.items() if name.startswith(("truncate._build", "truncate._live"))
        ]
        ours = {one for room in rooms for one in room.values() if isinstance(one, types.FunctionType)}
        assert run_source_of_pickle in ours
        file.seek(0)
        with torch.serialization.safe_globals(list(ours)), pytest.raises(pickle.UnpicklingError, match="GLOBAL exec"):
            torch.load(file, weights_only=True)
        file.seek(0)
        assert torch.load(file, weights_only=False)(X).keys() == {"a", "b"}


class Hostile:
    def __init__(self, run: Any) -> None:
        self.run = run

    def __reduce__(self) -> Any:
        text = "def forward(self, x=1 / 0): pass\n"
        return run_source_of_pickle, (self.run, "Name", text, {})


@pytest.mark.parametrize("run", [print, None, "exec", max])
def test_it_is_exec_or_nothing(run: Any) -> None:
    with pytest.raises(TruncateError, match="such a pickle runs its source with `exec`, and nothing else"):
        pickle.loads(pickle.dumps(Hostile(run)))
    with pytest.raises(ZeroDivisionError):
        pickle.loads(pickle.dumps(Hostile(exec)))
