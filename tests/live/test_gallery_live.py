"""Every place of every hostile model, cut live and compared with what a hook on the untouched model captures.

What may be refused where forwards are followed may not be refused here: nothing is.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import pickle
import random
from typing import Any

import pytest
import torch
from gallery import Specimen
from oracle import equal, parameters_needed, tensors_in
from places import ALL, ARGUMENTS, BOTH_MODES, EVERY_MODEL, run, run_until, thinned, trace
from torch import nn

from truncate import NotReachedError, TruncateError, truncate
from truncate._live import Dropped

DEEP = "DeepChain-"  # takes a second for each test, and ten to be exported
PLACES = [place for place in ALL if not place.id.startswith(DEEP) or place.id.startswith(f"{DEEP}layers.75")]
ONE_EACH = [list(group)[-1] for _, group in itertools.groupby(PLACES, key=lambda place: place.values[0])]
SHALLOW_EACH = [place for place in ONE_EACH if not place.id.startswith(DEEP)]
ONE_PLACE_EACH = pytest.mark.parametrize(ARGUMENTS, SHALLOW_EACH)
EVERY_PLACE = pytest.mark.parametrize(ARGUMENTS, PLACES)
SOME = [place for number, place in enumerate(PLACES) if number % 3 == 0 or place in ONE_EACH]
SOME_PLACES = pytest.mark.parametrize(ARGUMENTS, SOME)
# Its function goes on calling the layer of the original where a model is copied, as it does in copies of the model.
COPIED = pytest.mark.parametrize(ARGUMENTS, [place for place in SOME if place.id != "ModuleInClosure-norm:0"])


def cut_at(spec: Specimen, upto: Any, training: bool, **options: Any) -> nn.Module:
    return truncate(spec.make().train(training), upto, live=True, **options)


# -- values ----------------------------------------------------------------------------------------------------------


@BOTH_MODES
@EVERY_PLACE
def test_equals_what_a_hook_captures(
    spec: Specimen, path: str, call: int, modes: tuple[bool, ...], training: bool
) -> None:
    """Also in the next calls, with another batch size, and without gradients; the state is that of the model.

    Where one of the modes alone reaches the place, the cut is made in the other one.
    """
    cut = cut_at(spec, f"{path}:{call}", training if len(modes) == 2 else not training).train(training)
    if training not in modes:
        with pytest.raises(NotReachedError, match="was not run in this call|this call of the model ran it"):
            run(cut, spec)
        return
    untouched, whole = spec.make().train(training), spec.make().train(training)
    for batch, gradients in ((2, True), (5, False), (5, True)):
        with torch.set_grad_enabled(gradients):
            try:
                expected = run_until(untouched, spec, path, call, batch)
            except IndexError:  # this input takes another branch
                with pytest.raises(NotReachedError, match="was not run in this call"):
                    run(cut, spec, batch)
                continue
            # A forward that keeps state runs to its end, and then counts as in the whole pass.
            in_whole = trace(whole, spec, batch)[path][call]
            value = run(cut, spec, batch)
            assert equal(value, expected) or equal(value, in_whole)
    allowed = [dict(model.named_buffers(remove_duplicate=False)) for model in (untouched, whole)]
    for name, buffer in cut.named_buffers(remove_duplicate=False):
        assert any(equal(buffer, buffers[name]) for buffers in allowed)


@EVERY_PLACE
def test_calls_are_counted_from_both_ends(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    outputs = trace(spec.make().train(modes[0]), spec)[path]
    spellings = [f"{path}:{call - len(outputs)}"] + [path] * (call == len(outputs) - 1)
    for written in spellings:
        assert equal(run(cut_at(spec, written, modes[0]), spec), outputs[call])


@SOME_PLACES
def test_gradients_are_those_of_the_model(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    model, untouched = spec.make().train(modes[-1]), spec.make().train(modes[-1])
    cut = truncate(model, f"{path}:{call}", live=True)
    for output in (run(cut, spec), run_until(untouched, spec, path, call)):
        total = sum(t.square().sum() for t in tensors_in(output) if t.requires_grad)
        if isinstance(total, torch.Tensor):
            total.abs().backward()
    expected = dict(untouched.named_parameters(remove_duplicate=False))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        assert (parameter.grad is None) == (expected[name].grad is None)
        assert parameter.grad is None or torch.equal(parameter.grad, expected[name].grad)


# -- with an example -------------------------------------------------------------------------------------------------


@SOME_PLACES
def test_with_an_example(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    """In both modes, also in the one that the model is not in when it is cut."""
    args, kwargs = spec.inputs()
    for training in modes:
        cut = cut_at(spec, f"{path}:{call}", training, args=args, kwargs=kwargs)
        assert equal(run(cut, spec), run_until(spec.make().train(training), spec, path, call))
        order = list(spec.make()._modules)
        for name, _ in (item for item in cut.named_children() if isinstance(item[1], Dropped)):
            assert order.index(name) > order.index(path.split(".")[0])  # registered later, and not on the path


# -- what a cut holds ------------------------------------------------------------------------------------------------


@COPIED
def test_holds_what_the_place_needs_and_it_is_the_models_own(
    spec: Specimen, path: str, call: int, modes: tuple[bool, ...]
) -> None:
    model = spec.make().train(modes[-1])
    cut = truncate(model, f"{path}:{call}", live=True)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    held = dict(cut.named_parameters(remove_duplicate=False))
    assert all(parameter is parameters[name] for name, parameter in held.items())
    assert all(buffer is buffers[name] for name, buffer in cut.named_buffers(remove_duplicate=False))
    assert set(cut.state_dict()) <= set(model.state_dict())
    needed: set[int] = set()
    for training in modes:
        args, kwargs = spec.inputs()
        names = parameters_needed(spec.make().train(training), path, *args, call=call, **kwargs)
        needed |= {id(parameters[name]) for name in names}
    assert needed <= set(map(id, held.values()))
    for name, module in cut.named_modules(remove_duplicate=False):
        if not isinstance(module, Dropped):
            assert module.training is model.get_submodule(name).training


@COPIED
def test_copies_and_pickles(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    model = spec.make().train(modes[-1])
    cut = truncate(model, f"{path}:{call}", live=True)
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
    expected = run_until(spec.make().train(modes[-1]), spec, path, call)
    for twin in twins:
        assert list(twin.state_dict()) == list(cut.state_dict())
        assert not {*twin.parameters()} & {*cut.parameters()}
        assert equal(run(twin, spec), expected)


@ONE_PLACE_EACH
def test_copy_is_independent(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    model = spec.make().train(modes[-1])
    cut = truncate(model, f"{path}:{call}", copy=True, live=True)
    with torch.no_grad():
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            tensor.zero_()
    assert equal(run(cut, spec), run_until(spec.make().train(modes[-1]), spec, path, call))


@ONE_PLACE_EACH
def test_a_cut_can_be_cut_again(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    """A cut is an ordinary module, also for this library."""
    cut = cut_at(spec, f"{path}:{call}", modes[-1])
    for inner in [name for name in trace(copy.deepcopy(cut), spec) if name][:2]:
        expected = run_until(copy.deepcopy(cut), spec, inner, 0)
        assert equal(run(truncate(copy.deepcopy(cut), f"{inner}:0", live=True), spec), expected)


# -- several places at once ------------------------------------------------------------------------------------------


@BOTH_MODES
@pytest.mark.parametrize("seed", range(2))
@EVERY_MODEL
def test_several_places_at_once(spec: Specimen, seed: int, training: bool) -> None:
    """Random places in random order, some of them twice, with the model's own output, in every container."""
    seen = trace(spec.make().train(training), spec)
    places = [(path, call) for path in thinned(list(seen)) for call in range(len(seen[path]))]
    drawn = random.Random(seed).choices(places, k=min(5, len(places) + 1))
    upto = [f"{path}:{call}" if path else "" for path, call in drawn]
    expected = [seen[path][call] for path, call in drawn]
    keys = [f"k{i}" for i in range(len(upto))]
    for wanted in (upto, tuple(upto), dict(zip(keys, upto))):
        got = run(cut_at(spec, wanted, training), spec)
        assert type(got) is type(wanted) and len(got) == len(wanted)
        assert all(map(equal, got.values() if isinstance(got, dict) else got, expected))
        assert not isinstance(got, dict) or list(got) == keys


# -- the model itself ------------------------------------------------------------------------------------------------


def state(model: nn.Module) -> Any:
    """What a cut, and a call of it, might disturb beside what the forward itself changes in shared tensors."""
    modules = list(model.modules())
    attributes = [{name: id(value) for name, value in vars(module).items()} for module in modules]
    return attributes, [type(module) for module in modules], [len(m._forward_hooks) for m in modules]


@EVERY_MODEL
def test_leaves_the_model_untouched(spec: Specimen) -> None:
    """Also when it ends in an error."""
    model = spec.make()
    before, random_before = state(model), torch.random.get_rng_state()
    paths = thinned([path for path, _ in model.named_modules(remove_duplicate=False) if path])
    for upto in [*paths, paths, "nowhere", *(f"{path}:99" for path in paths)]:
        with contextlib.suppress(TruncateError):
            truncate(model, upto, live=True)
        assert state(model) == before
    assert torch.equal(torch.random.get_rng_state(), random_before)


# -- other compilers -------------------------------------------------------------------------------------------------


@ONE_PLACE_EACH
def test_exports_wherever_the_model_does(spec: Specimen, path: str, call: int, modes: tuple[bool, ...]) -> None:
    args, kwargs = spec.inputs()
    try:
        whole = torch.export.export(spec.make().train(modes[0]), args, kwargs, strict=False).module()
        wholesome = equal(run(whole, spec), run(spec.make().train(modes[0]), spec))
    except Exception:
        wholesome = False
    if not wholesome:  # random numbers of Python's, say, become constants
        pytest.skip("the whole model does not export")
    args, kwargs = spec.inputs()
    program = torch.export.export(cut_at(spec, f"{path}:{call}", modes[0]), args, kwargs, strict=False)
    assert equal(run(program.module(), spec), run_until(spec.make().train(modes[0]), spec, path, call))
