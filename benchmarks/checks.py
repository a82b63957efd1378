"""What is checked of one extractor at one place of one model. This runs in a process for each model."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from oracle import capture, cloned, equal, parameters_needed, stopped, tensors_in, unexpected_parameters
from torch import nn
from zoo import Entry, without_dropout

from benchmarks.extractors import EXTRACTORS, ON_EXAMPLE, PLAIN, Extractor, Place, feature_places
from benchmarks.models import LIBRARIES

CHECKS = {
    "built": "it is made without an error",
    "eval": "in evaluation it returns what a hook on the layer captures, bit for bit",
    "other size": "so it does on another batch size (for texts and sounds in another length too)",
    "train": "and in training, from the same seed, running statistics after the pass included",
    "parameters": "it holds the parameters that autograd finds the layer to depend on, and no others",
    "untouched": "the model has the state, the modules and the modes it had before",
    "deepcopy": "a deep copy returns the same, in the same modes",
    "pickle": "so does what comes back from a pickle (where the whole model pickles)",
    "script": "`torch.jit.script` takes it, and what comes out returns the same (where the whole model scripts)",
    "export": "`torch.export.export` takes it, and the program returns the same (where the whole model exports)",
    "compile": "`torch.compile(fullgraph=True)` takes it (backend eager), likewise",
}
Outcome = bool | str  # True, or what went wrong
Call = tuple[tuple[Any, ...], dict[str, Any]]
ASKING = ("CannotFollowError", "FixedArgumentError")  # errors that say that an example is needed
DIFFERS = "returns another value"


@dataclass
class Cut:
    """A place, and what hooks on the untouched model capture there."""

    place: Place
    eval: Any
    other: Any
    train: Any  # None where the model does not run in train mode
    trained: list[dict[str, torch.Tensor]]  # the state after that, of the model stopped there and run to its end
    needed: set[str] | None  # None where autograd does not see all that the place depends on


def _scripted(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return torch.jit.script(module)(*args, **kwargs)


def _exported(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return torch.export.export(module, args, kwargs).module()(*args, **kwargs)


def _compiled(module: nn.Module, args: Any, kwargs: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, backend="eager")(*args, **kwargs)


TOOLS: dict[str, Callable[[nn.Module, Any, Any], Any]] = {
    "script": _scripted, "export": _exported, "compile": _compiled
}  # fmt: skip


class Examination:
    """A model, the places where it is cut, and what is true of it there."""

    def __init__(self, name: str, entry: Entry, cuts: int, tools: bool) -> None:
        self.entry = entry
        self.model = entry.model()
        self.example, self.another = entry.example(0), entry.example(1)
        with torch.no_grad():
            seen = self._capture(self.model, [path for path, _ in self.model.named_modules() if path], self.example)
        self.places = self._choose(
            {path: len(calls) for path, calls in seen.items() if tensors_in(calls[-1:])}, cuts, name
        )
        self._eval = {place.path: seen[place.path][-1] for place in self.places}
        self.pickles = _outcome(lambda: bool(pickle.dumps(self.model))) is True
        self.tools = [tool for tool in TOOLS if tools and self._can(tool)]

    @staticmethod
    def _capture(model: nn.Module, paths: list[str], call: Call) -> dict[str, Any]:
        torch.manual_seed(1)
        return capture(model, paths, *cloned(list(call[0])), **cloned(call[1]))

    def _can(self, tool: str) -> bool:
        """Whether a tool takes the whole model, and what it makes returns the same."""
        with torch.no_grad():
            expected = _run(self.model, self.example)
        return (
            self._agrees(lambda *args, **kwargs: TOOLS[tool](self.model, args, kwargs), self.example, expected) is True
        )

    def _choose(self, ran: dict[str, int], cuts: int, seed: str) -> list[Place]:
        """One of the model's own children, one of the places that timm lists if it does, and others at any depth."""
        chance = random.Random(seed)
        chosen: list[str] = []
        for group in ([path for path in ran if "." not in path], [p for p in feature_places(self.model) if p in ran]):
            rest = sorted(set(group) - set(chosen))
            chosen += chance.sample(rest, min(1, len(rest)))
        rest = sorted(set(ran) - set(chosen))
        chosen += chance.sample(rest, min(len(rest), max(cuts - len(chosen), 0)))
        return [Place(path, ran[path]) for path in chosen[:cuts]]

    def _in_training(self, place: Place) -> nn.Module:
        """A copy of the model in train mode, without dropout where what a cut leaves out draws random numbers."""
        shifts = isinstance(self.entry.train, str) and not place.path.startswith(self.entry.train)
        return (without_dropout(self.model) if shifts else copy.deepcopy(self.model)).train()

    def cut(self, place: Place) -> Cut:
        with torch.no_grad():
            other = self._capture(self.model, [place.path], self.another)[place.path][-1]
        train, trained = None, []
        if self.entry.train:
            model = self._in_training(place)
            try:
                with torch.no_grad():
                    whole = copy.deepcopy(model)
                    calls = len(self._capture(whole, [place.path], self.example)[place.path])
                    torch.manual_seed(1)
                    args, kwargs = self.example
                    train = stopped(model, place.path, calls - 1, *cloned(list(args)), **cloned(kwargs))
                trained = [model.state_dict(), whole.state_dict()]
            except Exception:  # such as a batch norm that is left with one value for each channel
                train = None
        needed = None
        if self.entry.exact:
            needed = parameters_needed(
                self.model, place.path, *cloned(list(self.example[0])), **cloned(self.example[1])
            )
        return Cut(place, self._eval[place.path], other, train, trained, needed)

    def outcomes(self, extractor: Extractor, cut: Cut) -> dict[str, Outcome]:
        """Of each check that applies. Each extractor gets a copy of the model, for what it may do to it."""
        model = copy.deepcopy(self.model)
        before = _state(model)
        part: list[nn.Module] = []

        def built() -> bool:
            part.append(extractor.extract(model, cut.place, self.example))
            return True

        outcomes = {"built": _outcome(built)}
        outcomes["untouched"] = _outcome(lambda: _same(before, _state(model)) or "the model is another one")
        if not part:
            return outcomes
        made = part[0]
        if cut.needed is not None:
            needed, path = cut.needed, cut.place.path
            outcomes["parameters"] = _outcome(lambda: unexpected_parameters(model, made, needed, path) or True)
        outcomes["eval"] = self._agrees(made, self.example, cut.eval)
        outcomes["other size"] = self._agrees(made, self.another, cut.other)
        if cut.train is not None:
            outcomes["train"] = self._trains(extractor, cut)
        outcomes["deepcopy"] = self._copies(made, copy.deepcopy, cut)
        if self.pickles:
            outcomes["pickle"] = self._copies(made, lambda made: pickle.loads(pickle.dumps(made)), cut)
        for tool in self.tools:
            ready: Callable[..., Any] = lambda *args, tool=tool, **kwargs: TOOLS[tool](made, args, kwargs)  # noqa: E731
            outcomes[tool] = self._agrees(ready, self.example, cut.eval)
        return outcomes

    def _agrees(self, made: Callable[..., Any], call: Call, expected: Any) -> Outcome:
        def check() -> bool:
            with torch.no_grad():
                return equal(_run(made, call), expected)

        return _outcome(check)

    def _trains(self, extractor: Extractor, cut: Cut) -> Outcome:
        model = self._in_training(cut.place)

        def check() -> bool | str:
            made = extractor.extract(model, cut.place, self.example)
            agrees = self._agrees(made, self.example, cut.train)
            held = {id(tensor): name for name, tensor in made.named_buffers(remove_duplicate=False)}
            stale = [
                name
                for name, buffer in model.named_buffers()
                if id(buffer) in held and not any(torch.equal(buffer, state.get(name, buffer)) for state in cut.trained)
            ]
            return f"running statistics: {stale[0]}" if agrees is True and stale else agrees

        return _outcome(check)

    def _copies(self, made: nn.Module, copied: Callable[[nn.Module], nn.Module], cut: Cut) -> Outcome:
        def check() -> bool | str:
            other = copied(made)
            same = [m.training for m in other.modules()] == [m.training for m in made.modules()]
            return self._agrees(other, self.example, cut.eval) if same else "other modes"

        return _outcome(check)


def _run(model: Callable[..., Any], call: Call) -> Any:
    torch.manual_seed(1)
    return model(*cloned(list(call[0])), **cloned(call[1]))


def _outcome(check: Callable[[], Any]) -> Outcome:
    try:
        result = check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:600]
    return True if result is True else str(result or DIFFERS)[:600]


def _state(model: nn.Module) -> tuple[dict[str, torch.Tensor], list[Any]]:
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    modules = [
        (path, id(module), module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for path, module in model.named_modules()
    ]
    return tensors, modules


def _same(before: tuple[dict[str, torch.Tensor], list[Any]], after: tuple[dict[str, torch.Tensor], list[Any]]) -> bool:
    return before[1] == after[1] and list(before[0]) == list(after[0]) and equal(before[0], after[0])


@dataclass
class Task:
    """What to examine of one model."""

    library: str
    name: str
    cuts: int
    tools: bool
    extractors: tuple[str, ...]  # words of their names


def examine(task: Task, skip: int, pipe: Connection) -> None:
    """Sends ``("begin", number of a step, place, extractor)`` before each step, and its outcomes after it.

    The first `skip` steps were done by a process that did not survive the last of them.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            examination = Examination(task.name, LIBRARIES[task.library]()[task.name], task.cuts, task.tools)
        except Exception as error:
            pipe.send(("failed", f"{type(error).__name__}: {error}"[:300]))
            return
        for step in _steps(examination, task, skip):
            pipe.send(step)
    pipe.send(("end",))


def _steps(examination: Examination, task: Task, skip: int) -> Iterator[tuple[Any, ...]]:
    number = 0
    wanted = [e for e in EXTRACTORS if any(word in e.name for word in task.extractors)]
    for place in examination.places:
        cut = None
        asks = False
        for extractor in wanted:
            number += 1
            if number <= skip:
                continue
            if extractor is ON_EXAMPLE and not asks or not extractor.applies(examination.model, place):
                continue
            yield "begin", number, place.path, extractor.name
            cut = cut or examination.cut(place)
            outcomes = examination.outcomes(extractor, cut)
            if extractor is PLAIN:
                asks = any(str(outcome).startswith(ASKING) for outcome in outcomes.values())
            yield "done", outcomes
