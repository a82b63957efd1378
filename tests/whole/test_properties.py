"""Random networks, written as Python, cut at random sets of places and compared with hooks on the untouched network."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, note, settings
from hypothesis import strategies as st
from networks import BY_VALUE, IN_PLACE, PURE, network, paragraphs
from oracle import cloned, equal, hooked
from rebuilt import truncate
from torch import nn

from truncate import CannotFollowError, CrossingError, NotReachedError, TruncateError, split

# -- running them ----------------------------------------------------------------------------------------------------

Arguments = dict[str, Any]


def inputs(batch: int, length: int, optional: bool) -> Arguments:
    generator = torch.Generator().manual_seed(10 * batch + length)
    made = {"x": torch.randn(batch, length, 4, generator=generator)}
    return {**made, "y": torch.randn(batch, length, 4, generator=generator)} if optional else made


def outputs(model: nn.Module, arguments: Arguments) -> dict[str, list[Any]] | None:
    """What each call of each module returns; nothing if the model itself cannot be run on this."""
    with hooked(dict(model.named_modules())) as seen:
        try:
            model(**cloned(arguments))
        except (RuntimeError, ValueError, IndexError, AttributeError):
            return None
    return {path: calls for path, calls in seen.items() if calls}


@torch.no_grad()
def check(model: nn.Module, data: st.DataObject, with_example: bool, may_refuse: bool) -> None:
    """Cut in one mode, run in both and on several sizes: each time equal, or refused where that is allowed."""
    draw = lambda items: data.draw(st.sampled_from(items))  # noqa: E731
    # Without an example, an input that may be left out is left out for good.
    optional, training = with_example and draw([False, True]), draw([False, True])
    example = inputs(2, 3, optional)
    seen = outputs(copy.deepcopy(model).train(training), example)
    if seen is None:
        return
    places = [(path, call) for path, calls in seen.items() for call in (*range(len(calls)), -1)]
    wanted = [draw(places) for _ in range(draw([1, 1, 2, 4]))]
    upto = [path and f"{path}:{call}" for path, call in wanted]
    note(f"{upto=} {optional=} {training=}")
    model.train(training)
    try:
        cut = truncate(copy.deepcopy(model), upto, kwargs=cloned(example) if with_example else None)
    except CannotFollowError as error:
        # Whether an optional output is None may be known only when it is there.
        if not with_example and (may_refuse or any(text in str(error) for text in UNFOLLOWED)):
            return
        raise
    except NotReachedError as error:
        assert "depending on its mode" in str(error)
        return
    for mode, (batch, length) in itertools.product((training, not training), ((2, 3), (3, 3), (2, 5), (1, 1))):
        arguments = inputs(batch, length, optional)
        expected = outputs(copy.deepcopy(model).train(mode), arguments)
        if expected is None:
            continue
        reached = all(-len(expected.get(path, ())) <= call < len(expected.get(path, ())) for path, call in wanted)
        try:
            got = copy.deepcopy(cut).train(mode)(**arguments)
        except NotReachedError:
            assert not reached or may_refuse, (mode, batch, length)
        except (TruncateError, AssertionError):
            assert may_refuse and with_example and (batch, length, mode) != (2, 3, training), (mode, batch, length)
        else:
            assert reached, (mode, batch, length)
            for place, value in zip(wanted, got):
                assert equal(value, expected[place[0]][place[1]]), (place, mode, batch, length)


MANY = settings(
    deadline=None,
    max_examples=250,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),  # add Phase.shrink to make a failing network small, in minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@MANY
@given(st.data())
def test_pure(data: st.DataObject) -> None:
    check(network(lambda items: data.draw(st.sampled_from(items)), paragraphs(PURE)), data, False, False)


@MANY
@given(st.data())
def test_in_place(data: st.DataObject) -> None:
    operations = paragraphs(PURE)[:8] + paragraphs(IN_PLACE)
    check(network(lambda items: data.draw(st.sampled_from(items)), operations), data, False, False)


# A branch on the content of a tensor warns, and these networks are full of them.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("with_example", [False, True], ids=["", "on-an-example"])
@MANY
@given(data=st.data())
def test_by_value(data: st.DataObject, with_example: bool) -> None:
    operations = paragraphs(PURE)[:8] + paragraphs(IN_PLACE)[:8] + paragraphs(BY_VALUE)
    check(network(lambda items: data.draw(st.sampled_from(items)), operations), data, with_example, True)


@torch.no_grad()
def check_division(model: nn.Module, data: st.DataObject) -> None:
    """Divided at one place or two, all that crosses handed on: each time equal, or refused.

    What calls that nobody reads would change is left out with them, so statistics are compared on the gallery only.
    """
    draw = lambda items: data.draw(st.sampled_from(items))  # noqa: E731
    training = draw([False, True])
    seen = outputs(copy.deepcopy(model).train(training), inputs(2, 3, False))
    places = [(path, call) for path, calls in (seen or {}).items() for call in range(len(calls)) if path]
    if not places:
        return
    wanted = [draw(places) for _ in range(draw([1, 1, 2]))]
    at = [f"{path}:{call}" for path, call in wanted]
    note(f"{at=} {training=}")
    try:
        pieces = split(copy.deepcopy(model).train(training), at, crossing="pass")
    except CrossingError:
        event("refused: what crosses")
        return
    except TruncateError as error:
        assert any(text in str(error) for text in UNDIVIDED), error
        event("refused: order, mode or nothing crosses")
        return
    event(f"divided in {len(pieces)}")
    for mode, (batch, length) in itertools.product((training, not training), ((2, 3), (3, 5))):
        arguments = inputs(batch, length, False)
        whole, parts = copy.deepcopy(model).train(mode), copy.deepcopy(pieces)
        expected = outputs(whole, arguments)
        if expected is None:
            continue
        reached = all(call < len(expected.get(path, ())) for path, call in wanted)
        try:
            value = parts[0].train(mode)(**arguments)
            for part in parts[1:]:
                value = part.train(mode)(value)
        except NotReachedError as error:
            assert not reached or any(text in str(error) for text in UNDIVIDED), error
            continue
        assert equal(value, expected[""][-1]), (mode, batch, length)


UNFOLLOWED = ("asks whether a value that another module returns is None", "gets one tensor as several arguments")

UNDIVIDED = (
    "does not run after the layer where this module begins",
    "nothing after",
    "depending on its mode",
    "asks whether a value that another module returns is None",
    "asks whether a value that is a part of an argument is None",
    "is set by a forward that would be cut, and read outside of it",
    "share memory",
    "changes in place what it is given",
    "is also needed whole",
    "is assigned again in each call",
    "gets one tensor as several arguments",
)


@MANY
@given(st.data())
def test_divided(data: st.DataObject) -> None:
    operations = paragraphs(PURE) + paragraphs(IN_PLACE)
    check_division(network(lambda items: data.draw(st.sampled_from(items)), operations), data)
