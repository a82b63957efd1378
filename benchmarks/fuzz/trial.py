"""Makes one cut of a model and compares what it does with hooks on the model that was left alone.

The model is run twice beside the cut: to its end, and stopped behind the last target as the cut is. They differ in what
is changed after the target (statistics of later layers, the caller's input), and a cut may do either.
"""

from __future__ import annotations

import copy
import pickle
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import truncate
from benchmarks.fuzz.cuts import Run, call_of
from benchmarks.fuzz.gradients import buffers_kept, close, held_by, of_cut, of_model
from benchmarks.fuzz.oracle import Seen, mapped, observe, same, tensors_in
from benchmarks.fuzz.seeds import Case
from truncate import TruncateError

RIGHT, REFUSED, WRONG, CRASHED, KNOWN, UNUSABLE = "right", "refused", "wrong", "crashed", "known", "not run"
LIBRARY = Path(truncate.__file__).parent


@dataclass
class Outcome:
    kind: str
    cause: str = ""  # without names and numbers, to be counted
    detail: str = ""
    run: int = -1  # of the cut's runs; -1: while it was made


class Found(Exception):
    """Ends a trial with what was found."""

    def __init__(self, kind: str, cause: str, detail: str = "") -> None:
        super().__init__(kind, cause, detail)
        self.outcome = Outcome(kind, cause, detail)


def cause_of(error: BaseException) -> str:
    """The beginning of an error, without names, so that like ones are counted together."""
    text = " ".join(str(error).split())
    text = re.sub(r"^(cannot follow the forward of .*?: )+", "cannot follow: ", text)
    text = re.sub(r"\bit raises \w*Error: cannot follow the forward of .*\bit ", "it ", text)
    text = re.sub(r"'[^']*'(, '[^']*')*|\"[^\"]*\"", "'…'", text)
    text = re.sub(r"\S*/\S+\.py(, line \d+)?(, in \w+)?.*", "…", text)
    text = re.sub(r" \((?:[A-Z]\w*)\)", "", text)
    text = re.sub(r"\b[a-z]+\d+\w*\b", "…", text)
    text = re.sub(r"\d+", "N", text)
    return f"{type(error).__name__}: {text[:90].strip()}"


def crash_of(error: BaseException) -> Found:
    """Any error that is not the library's own, and where in the library it came up."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(LIBRARY)]
    where = f" in {Path(frames[-1].filename).relative_to(LIBRARY)} {frames[-1].name}" if frames else ""
    return Found(CRASHED, cause_of(error)[:60] + where, "".join(traceback.format_exception(error))[-3000:])


def attempt(case: Case) -> Outcome:
    trial = None
    try:
        trial = Trial(case)
        trial.build()
        for number, run in enumerate(case.cut.runs):
            trial.number = number
            trial.compare(run)
    except Found as found:
        found.outcome.run = trial.number if trial else -1
        return found.outcome
    return Outcome(RIGHT, trial.note)


class Trial:
    def __init__(self, case: Case) -> None:
        self.cut, self.make = cut, make = case.cut, case.make
        self.catches = "except RuntimeError" in case.source
        self.number = -1
        self.note = ""
        # The model run to its end, the one that is stopped, and the one that is cut.
        self.whole, self.stopped, self.given = (cut.prepare(make()) for _ in range(3))
        self.pieces: list[nn.Module] = []

    # -- making it ---------------------------------------------------------------------------------------------------

    def build(self) -> None:
        example = self.cut.example
        inputs = example.inputs() if example else []
        if example:
            seen = observe(self.cut.prepare(self.make()), example, (), False)
            if seen.error:
                raise Found(UNUSABLE, "the model does not run on the example")
        before = _state(self.given)
        torch.manual_seed(9)
        random = torch.get_rng_state()
        try:
            self.pieces = self.cut.make(self.given, call_of(inputs) if example else None)
        except TruncateError as error:
            raise Found(REFUSED, cause_of(error), str(error)) from error
        except Exception as error:
            raise crash_of(error) from error
        if not same(before, _state(self.given)):
            raise Found(WRONG, "the model is changed by cutting it")
        if not torch.equal(random, torch.get_rng_state()):
            raise Found(WRONG, "cutting draws random numbers")
        if example and not same(inputs, example.inputs()):
            raise Found(WRONG, "the example is changed by cutting")
        if self.cut.through:
            self._pass_through()

    def _pass_through(self) -> None:
        """Puts a copy in the place of the result, if the model itself can be copied so."""
        ways: dict[str, Callable[[Any], Any]] = {
            "deepcopy": copy.deepcopy,
            "pickle": lambda value: pickle.loads(pickle.dumps(value)),
        }
        way = ways[self.cut.through]
        if not self._survives(way):
            return
        try:
            self.pieces = list(way(nn.ModuleList(self.pieces)))
        except TruncateError as error:
            raise Found(REFUSED, cause_of(error), str(error)) from error
        except Exception as error:
            raise crash_of(error) from error

    def _survives(self, way: Callable[[Any], Any]) -> bool:
        """Whether a copy of the model runs as the model does. One whose hooks refer to the first model does not."""
        run = self.cut.runs[0]
        try:
            twin = self.cut.prepare(way(self.make()))
        except Exception:
            return False
        theirs, own = (observe(each, run, [""], False) for each in (self.cut.prepare(self.make()), twin))
        return own.error is None and theirs.error is None and same(own.watch.calls, theirs.watch.calls)

    # -- one pass ----------------------------------------------------------------------------------------------------

    def compare(self, run: Run) -> None:
        cut = self.cut
        targets = [""] if cut.how == "split" else list(cut.targets)
        watched = [*targets, cut.after] if cut.how == "after" else targets
        seen = observe(self.whole, run, watched, cut.how == "before")
        if seen.error is not None:
            raise Found(RIGHT if self.number else UNUSABLE, "the model does not run on this")
        targets = [seen.watch.counted(target) for target in targets]
        end = None if cut.how == "split" else seen.watch.end_of(targets)
        stopped = observe(self.stopped, run, watched, cut.how == "before", end)
        expected = [each for each in (seen, stopped) if each.error is None and self._reached(each, targets)]
        result, inputs = self._result(run, seen)
        if not expected:
            raise Found(WRONG, "a value where the model does not run the target", _shown(result))
        if cut.how == "after" and _draws(self.make(), run):
            return  # the numbers of what comes before were not drawn
        values = [result] if cut.how == "split" else cut.values(result)
        if not any(self._same(values, [each.value(t) for t in targets]) for each in expected):
            wanted = [seen.value(t) for t in targets] if seen in expected else "nothing"
            raise Found(
                WRONG, self._difference(values, expected, targets), f"expected {_shown(wanted)}, got {_shown(values)}"
            )
        self._compare_buffers()
        if run.gradients and cut.how != "after":
            with buffers_kept([self.whole, self.stopped, *self.pieces]):
                self._compare_gradients(values, expected, targets, inputs)
        elif cut.how != "after":
            self._compare_inputs(inputs, seen, stopped)

    @staticmethod
    def _reached(seen: Seen, targets: list[str]) -> bool:
        return seen.watch.end_of(targets) is not None

    def _result(self, run: Run, seen: Seen) -> tuple[Any, list[Tensor]]:
        """What the cut returns, and its inputs after that."""
        run.set_mode(*self.pieces)
        inputs = run.inputs()
        given = [tensor.clone() for tensor in inputs] if run.gradients else inputs
        args, kwargs = call_of(given)
        if self.cut.how == "after":
            if not self._reached(seen, [self.cut.after]):
                raise Found(RIGHT, "nothing to begin with")
            args, kwargs = (mapped(seen.value(self.cut.after), lambda tensor: tensor.detach().clone()),), {}
        torch.manual_seed(run.content)
        try:
            result = self.pieces[0](*args, **kwargs)
            for piece in self.pieces[1:]:
                held = mapped(result, lambda tensor: tensor.detach().clone())
                crossed, result = result, piece(result)
                if not same(mapped(crossed, Tensor.detach), held):
                    raise Found(WRONG, "a piece changes what it is given")
        except Found:
            raise
        except TruncateError as error:
            raise Found(REFUSED, self._when(run) + cause_of(error), str(error)) from error
        except AssertionError as error:
            raise Found(REFUSED, self._when(run) + "AssertionError (a check of the result)", str(error)) from error
        except Exception as error:
            if isinstance(error, RuntimeError) and self.catches:
                raise Found(REFUSED, "when run: an error of torch that the model catches", str(error)) from error
            raise crash_of(error) from error
        return result, inputs

    def _when(self, run: Run) -> str:
        """Marks what is refused on the example itself, which can be no guard."""
        example = self.cut.example
        alike = example is not None and self.number == 0 and example.inputs()[0].equal(run.inputs()[0])
        return "on the example itself: " if alike else "when run: "

    def _same(self, values: list[Any], wanted: list[Any]) -> bool:
        if self.cut.how == "before":
            return all(same(tensors_in(value), want) for value, want in zip(values, wanted))
        return same(values, wanted)

    def _difference(self, values: list[Any], expected: list[Seen], targets: list[str]) -> str:
        for each in expected:
            wanted = [each.value(target) for target in targets]
            if same(tensors_in(values), tensors_in(wanted)):
                return "value: of another form"
            mine, theirs = tensors_in(values), tensors_in(wanted)
            if len(mine) != len(theirs) or any(a.shape != b.shape for a, b in zip(mine, theirs)):
                return "value: other shapes"
        return "value" if self.number == 0 else "value, in a later run"

    # -- gradients and what is left behind ---------------------------------------------------------------------------

    def _compare_gradients(
        self, values: list[Any], expected: list[Seen], targets: list[str], inputs: list[Tensor]
    ) -> None:
        """As in either model. Where the model's own backward fails, so may the cut's."""
        models = [self.stopped if seen.stopped else self.whole for seen in expected]
        theirs = [of_model(model, seen, targets) for model, seen in zip(models, expected)]
        wanted = [flow for flow in theirs if flow is not None]
        if not wanted:
            return
        apart = self.cut.copy or self.cut.through  # else the parameters are the model's own
        parameters = held_by(self.pieces, self.whole) if apart else dict(self.given.named_parameters())
        try:
            own = of_cut(values, inputs, parameters, {position for flow in wanted for position in flow.taps})
        except Exception as error:
            if len(wanted) < len(theirs):
                return
            raise crash_of(error) from error
        mine = dict(zip(own.names, own.gradients))
        wrong = [
            [name for name, gradient in zip(flow.names, flow.gradients) if not close(gradient, mine.get(name))]
            for flow in wanted
        ]
        if all(wrong):
            where = "an input" if wrong[0][0].startswith("input ") else "a parameter"
            raise Found(WRONG, f"the gradient of {where}", ", ".join(wrong[0]))
        for position, tap in own.taps.items():
            if any(position not in flow.taps or close(flow.taps[position], tap) for flow in wanted):
                continue
            # A cut may hand out a clone, as documented: where something else holds the same memory, and, without an
            # example, where a child that cannot be followed might.
            reason = "of a cut without an example" if self.cut.example is None else ""
            if any(seen.tap(targets[position]).shared for seen in expected):
                reason = "whose memory something else holds"
            if tap is not None or not reason:
                detail = f"{targets[position]}: {wanted[0].taps[position]}, not {tap}"
                raise Found(WRONG, "the gradient at a target", detail)
            self.note = f"no gradient at a target {reason}"

    def _compare_inputs(self, inputs: list[Tensor], *seen: Seen) -> None:
        """What the caller gave is as the model leaves it. Pieces copy what they would change behind their own cut."""
        untouched = self.cut.runs[self.number].inputs()
        for number, tensor in enumerate(inputs):
            left = [each.inputs[number] for each in seen if each.error is None]
            if self.cut.how == "split" and not all(same(untouched[number], one) for one in left):
                continue
            if not any(same(tensor, one) for one in left):
                raise Found(WRONG, "the caller's input")

    def _compare_buffers(self) -> None:
        models = [dict(model.named_buffers(remove_duplicate=False)) for model in (self.whole, self.stopped)]
        for piece in self.pieces:
            for name, buffer in piece.named_buffers(remove_duplicate=False):
                if name in models[0] and not any(same(buffer, model[name]) for model in models if name in model):
                    raise Found(WRONG, "a buffer", f"{name}: expected {models[0][name]}, got {buffer}")


def _state(model: nn.Module) -> Any:
    state = {name: t.detach().clone() for name, t in [*model.named_parameters(), *model.named_buffers()]}
    return [state, [(path, module.training) for path, module in model.named_modules()]]


def _draws(model: nn.Module, run: Run) -> bool:
    """Whether a pass of the model draws random numbers."""
    run.set_mode(model)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    args, kwargs = call_of([tensor.detach() for tensor in run.inputs()])
    model(*args, **kwargs)
    return not torch.equal(before, torch.get_rng_state())


def _shown(value: Any) -> str:
    """The beginning of a nested value."""
    return " ".join(str(mapped(value, lambda tensor: tensor.detach())).split())[:400]
