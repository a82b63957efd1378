"""Every place of every hostile model, cut and compared with what a hook on the untouched model captures."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import itertools
import pickle
import random
import threading
import warnings
from typing import Any

import pytest
import torch
from gallery import GALLERY, Specimen
from oracle import equal, parameters_needed, tensors_in
from places import (
    BOTH_MODES,
    EVERY_MODEL,
    EVERY_PLACE,
    EVERY_SURE_PLACE,
    ONE_PLACE_EACH,
    cut_or_none,
    refused,
    run,
    run_until,
    thinned,
    trace,
)
from rebuilt import truncate
from torch import nn

from truncate import CannotFollowError, NotReachedError, TruncateError

# -- values ----------------------------------------------------------------------------------------------------------


@BOTH_MODES
@EVERY_PLACE
def test_equals_what_a_hook_captures(
    spec: Specimen, path: str, call: int, modes: tuple[bool, ...], training: bool
) -> None:
    """Also in the next call, with another batch size, and without gradients; statistics are updated alike."""
    cut = cut_or_none(spec.make().train(training), spec, path, call) if training in modes else None
    if cut is None:
        return
    untouched, whole = spec.make().train(training), spec.make().train(training)
    for batch, gradients in ((2, True), (5, False), (5, True)):
        with torch.set_grad_enabled(gradients):
            expected = run_until(untouched, spec, path, call, batch)
            # A block that runs again after the target may have to stay whole, and then counts as in the whole pass.
            in_whole = trace(whole, spec, batch)[path][call]
            value = run(cut, spec, batch)
            assert equal(value, expected) or equal(value, in_whole)
        allowed = [dict(model.named_buffers(remove_duplicate=False)) for model in (untouched, whole)]
        for name, buffer in cut.named_buffers(remove_duplicate=False):
            assert any(equal(buffer, buffers[name]) for buffers in allowed)


@BOTH_MODES
@EVERY_SURE_PLACE
def test_a_mode_that_does_not_reach_the_place_says_so(
    spec: Specimen, path: str, call: int, modes: tuple[bool, ...], training: bool
) -> None:
    if training not in modes:
        with pytest.raises(NotReachedError, match="never run|runs it"):
            run(truncate(spec.make().train(training), f"{path}:{call}"), spec)


@EVERY_SURE_PLACE
def test_calls_are_counted_from_both_ends(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    outputs = trace(spec.make().train(modes[0]), spec)[path]
    spellings = [f"{path}:{call - len(outputs)}"] + [path] * (call == len(outputs) - 1)
    for written in spellings:
        assert equal(run(truncate(spec.make().train(modes[0]), written), spec), outputs[call])


@EVERY_SURE_PLACE
def test_follows_the_mode(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    """A cut that was made in one mode is put into the other, and back."""
    cut = truncate(spec.make().train(modes[-1]), f"{path}:{call}")
    for training in (*modes, *modes):
        untouched = spec.make()
        buffers = dict(untouched.named_buffers(remove_duplicate=False))
        for name, buffer in cut.named_buffers(remove_duplicate=False):
            buffers[name].copy_(buffer)
        parameters = dict(untouched.named_parameters(remove_duplicate=False))
        for name, parameter in cut.named_parameters(remove_duplicate=False):
            parameters[name].data.copy_(parameter)
        assert equal(run(cut.train(training), spec), run_until(untouched.train(training), spec, path, call))


@pytest.mark.parametrize("building", [True, False], ids=["", "built-without-gradients"])
@EVERY_PLACE
def test_gradients_are_those_of_the_model(
    spec: Specimen, path: str, call: int, modes: tuple[bool, ...], building: bool
) -> None:
    model, untouched = spec.make().train(modes[-1]), spec.make().train(modes[-1])
    with torch.set_grad_enabled(building):
        cut = cut_or_none(model, spec, path, call)
    if cut is None:
        return
    for output in (run(cut, spec), run_until(untouched, spec, path, call)):
        total = sum(t.square().sum() for t in tensors_in(output) if t.requires_grad)
        if isinstance(total, torch.Tensor):
            total.abs().backward()
    expected = dict(untouched.named_parameters(remove_duplicate=False))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        assert (parameter.grad is None) == (expected[name].grad is None)
        assert parameter.grad is None or torch.equal(parameter.grad, expected[name].grad)


# -- what a cut holds ------------------------------------------------------------------------------------------------


@EVERY_SURE_PLACE
def test_holds_exactly_what_the_place_needs(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    model = spec.make().train(modes[-1])
    cut = truncate(model, f"{path}:{call}")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    held = dict(cut.named_parameters(remove_duplicate=False))
    assert all(parameter is parameters[name] for name, parameter in held.items())
    assert all(buffer is buffers[name] for name, buffer in cut.named_buffers(remove_duplicate=False))
    assert set(cut.state_dict()) <= set(model.state_dict())
    needed = set()
    for training in modes:
        args, kwargs = spec.inputs()
        names = parameters_needed(spec.make().train(training), path, *args, call=call, **kwargs)
        needed |= {id(parameters[name]) for name in names}
    assert needed <= set(map(id, held.values()))
    assert needed == set(map(id, held.values())) or not spec.exact


@BOTH_MODES
@EVERY_SURE_PLACE
def test_what_is_not_rebuilt_is_the_very_same(
    spec: Specimen, path: str, call: int, modes: tuple[bool, ...], training: bool
) -> None:
    if training not in modes:
        return
    model = spec.make().train(training)
    cut = truncate(model, f"{path}:{call}")
    target = model.get_submodule(path)
    runs = trace(spec.make().train(training), spec)
    for name, module in cut.named_modules(remove_duplicate=False):
        original = model.get_submodule(name)
        assert module.training is original.training
        holds_target = original is not target and any(inner is target for inner in original.modules())
        if name in runs and not holds_target and type(module).__name__ != "Container":  # which only holds a flag
            assert module is original
        elif isinstance(original, nn.Sequential) and name in runs and len(runs[path]) == 1:
            assert type(module) is type(original) or type(original).forward is not nn.Sequential.forward


@BOTH_MODES
@EVERY_SURE_PLACE
def test_copies_and_pickles(spec: Specimen, path: str, call: int, modes: tuple[bool, ...], training: bool) -> None:
    if training not in modes:
        return
    model = spec.make().train(training)
    cut = truncate(model, f"{path}:{call}")
    twins = [copy.deepcopy(cut)]
    try:
        pickle.dumps(model)
    except Exception:  # parametrized modules, compiled parts and lambdas do not pickle
        pass
    else:
        saved = io.BytesIO()
        torch.save(cut, saved)
        saved.seek(0)
        twins += [pickle.loads(pickle.dumps(cut)), torch.load(saved, weights_only=False)]
    expected = run_until(spec.make().train(training), spec, path, call)
    flags = [(name, module.training) for name, module in cut.named_modules(remove_duplicate=False)]
    for twin in twins:
        assert [(name, module.training) for name, module in twin.named_modules(remove_duplicate=False)] == flags
        assert list(twin.state_dict()) == list(cut.state_dict())
        assert not {*twin.parameters()} & {*cut.parameters()}
        assert equal(run(twin, spec), expected)


@ONE_PLACE_EACH
def test_copy_is_independent(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    model = spec.make().train(modes[-1])
    cut = truncate(model, f"{path}:{call}", copy=True)
    with torch.no_grad():
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            tensor.zero_()
    assert equal(run(cut, spec), run_until(spec.make().train(modes[-1]), spec, path, call))


@EVERY_SURE_PLACE
def test_a_cut_can_be_cut_again(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    """A cut is an ordinary module, also for this library."""
    cut = truncate(spec.make().train(modes[-1]), f"{path}:{call}")
    for inner in [name for name in trace(copy.deepcopy(cut), spec) if name and not refused(spec, name)][:2]:
        expected = run_until(copy.deepcopy(cut), spec, inner, 0)
        assert equal(run(truncate(copy.deepcopy(cut), f"{inner}:0"), spec), expected)


# -- several places at once ------------------------------------------------------------------------------------------


@BOTH_MODES
@pytest.mark.parametrize("seed", range(6))
@EVERY_MODEL
def test_several_places_at_once(spec: Specimen, seed: int, training: bool) -> None:
    """Random places in random order, some of them twice, with the model's own output, in every container."""
    seen = trace(spec.make().train(training), spec)
    sure = [path for path in thinned(list(seen)) if not refused(spec, path)]
    places = [(path, call) for path in sure for call in range(len(seen[path]))]
    drawn = random.Random(seed).choices(places, k=min(5, len(places) + 1))
    upto = [f"{path}:{call}" if path else "" for path, call in drawn]
    expected = [seen[path][call] for path, call in drawn]
    keys = [f"k{i}" for i in range(len(upto))]
    for wanted in (upto, tuple(upto), dict(zip(keys, upto))):
        try:
            cut = truncate(spec.make().train(training), wanted)
        except CannotFollowError:
            assert spec.refuses, "only a model of which something may be refused"
            return
        got = run(cut, spec)
        assert type(got) is type(wanted) and len(got) == len(wanted)
        assert all(map(equal, got.values() if isinstance(got, dict) else got, expected))
        assert not isinstance(got, dict) or list(got) == keys


@EVERY_MODEL
def test_several_places_hold_what_each_of_them_needs(spec: Specimen) -> None:
    seen = [trace(spec.make().train(training), spec) for training in (False, True)]
    places = [path for path in thinned(list(seen[0])) if path in seen[1] and path and not refused(spec, path)]
    model = spec.make()
    held = {id(parameter) for path in places for parameter in truncate(model, path).parameters()}
    if places and spec.exact:
        assert {id(parameter) for parameter in truncate(model, places).parameters()} == held


# -- the model itself ------------------------------------------------------------------------------------------------


def state(model: nn.Module) -> Any:
    """All that a cut might disturb: attributes by identity, tensors by value and version, the random states."""

    def members(value: Any) -> Any:
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else ()
        return id(value), [id(item) for item in inside]

    modules = list(model.modules())
    attributes = [{name: members(value) for name, value in vars(module).items()} for module in modules]
    tensors = [tensor for module in modules for tensor in itertools.chain(module.parameters(), module.buffers())]
    values = [(id(t), t._version, t.requires_grad, t.grad, t.detach().clone()) for t in tensors]
    return attributes, values, [type(module) for module in modules], torch.random.get_rng_state(), random.getstate()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@BOTH_MODES
@EVERY_MODEL
def test_leaves_the_model_untouched(spec: Specimen, training: bool) -> None:
    """Also when it ends in an error."""
    model = spec.make().train(training)
    before = state(model)
    paths = thinned([path for path, _ in model.named_modules(remove_duplicate=False)])
    for upto in [*paths, paths, "nowhere", "nowhere.at.all", "relu:99", *(f"{path}:99" for path in paths if path)]:
        with contextlib.suppress(TruncateError):
            truncate(model, upto)
        assert same(state(model), before)


@pytest.mark.parametrize(
    "name", ["BranchesOnValue", "TakesSizeForNumber", "SwallowsErrors", "AsksForText", "CopiesValues", "DrawsInPython"]
)
def test_refuses_what_it_cannot_follow(name: str) -> None:
    spec = GALLERY[name]
    for place in spec.refuses:
        with pytest.raises(CannotFollowError) as caught:
            truncate(spec.make(), place)
        said = str(caught.value)
        # where it is, and what to do
        assert f"({name})" in said and inspect.getfile(spec.kind) in said and "args=" in said


def helper(x: torch.Tensor) -> torch.Tensor:
    return x * 2


class UsesHelper(nn.Module):
    """Calls a function of its file, which may be written anew in a running session."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(helper(self.a(x)) if isinstance(self.a, nn.Module) else x)


def test_follows_a_function_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = UsesHelper(), torch.randn(2, 4)
    assert equal(truncate(model, "b")(x), model(x))
    monkeypatch.setitem(globals(), "helper", lambda x: x - 7)
    assert equal(truncate(model, "b")(x), model(x))


def test_other_threads_may_use_the_model_meanwhile() -> None:
    spec = GALLERY["InplaceBlocks"]
    model = spec.make().eval()
    (x,), _ = spec.inputs()
    expected = model(x)
    done, wrong = threading.Event(), []

    def serve() -> None:
        while not done.is_set():
            try:
                assert equal(model(x), expected)
            except BaseException as error:  # whatever a patched PyTorch might raise
                wrong.append(error)
                return

    server = threading.Thread(target=serve)
    server.start()
    for _ in range(30):
        truncate(model, "layers.1.norm")
    done.set()
    server.join(timeout=30)
    assert not wrong


# -- other compilers -------------------------------------------------------------------------------------------------


def scripted(module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module)


@EVERY_SURE_PLACE
def test_scripts_wherever_the_model_does(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    try:
        whole = scripted(spec.make())
        wholesome = all(equal(run(whole.train(t), spec), run(spec.make().train(t), spec)) for t in modes)
    except Exception:  # whatever TorchScript says no to, it says so to the whole model
        wholesome = False
    if not wholesome:
        pytest.skip("the whole model does not script, or means something else when it does")
    for training in modes:
        script = scripted(truncate(spec.make().train(not training), f"{path}:{call}")).train(training)
        assert equal(run(script, spec), run_until(spec.make().train(training), spec, path, call))


@ONE_PLACE_EACH
def test_exports_wherever_the_model_does(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    args, kwargs = spec.inputs()
    try:
        torch.export.export(spec.make().train(modes[0]), args, kwargs).module()
    except Exception:
        pytest.skip("the whole model does not export")
    args, kwargs = spec.inputs()
    program = torch.export.export(truncate(spec.make().train(modes[0]), f"{path}:{call}"), args, kwargs)
    assert equal(run(program.module(), spec), run_until(spec.make().train(modes[0]), spec, path, call))
