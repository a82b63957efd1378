"""Measures that need no labels, on clouds of points whose measures are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from truncate import TruncateError, probe
from truncate._probe.scores import measures

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_intrinsic_dimension_of_a_flat_cloud(dimension: int) -> None:
    cloud = RANDOM.uniform(size=(1500, dimension)) @ RANDOM.normal(size=(dimension, 12))
    (found,) = measures([cloud], seed=0).intrinsic
    assert found == pytest.approx(dimension, rel=0.12)


def test_the_intrinsic_dimension_of_a_curve_is_not_that_of_the_space() -> None:
    angle = RANDOM.uniform(0, 6, size=1000)
    found = measures([np.stack([np.cos(angle), np.sin(angle), angle], 1)], seed=0)
    assert found.intrinsic[0] == pytest.approx(1, rel=0.1)
    assert found.rank[0] > 2


def test_the_effective_rank_counts_directions() -> None:
    equal = RANDOM.normal(size=(2000, 6))
    one = RANDOM.normal(size=(2000, 1)).repeat(6, axis=1)
    constant = np.ones((2000, 6))
    found = measures([equal, one, constant], seed=0)
    assert found.rank == pytest.approx([6, 1, 1], rel=0.01)
    assert np.isnan(found.intrinsic[2])


def test_agreement_of_neighbours() -> None:
    cloud, other = RANDOM.normal(size=(500, 4)), RANDOM.normal(size=(500, 4))
    found = measures([cloud, 3 * cloud + 1, other], seed=0)
    assert found.agreement[0, 1] == found.agreement[2, 2] == 1
    assert found.agreement[0, 2] == pytest.approx(10 / 499, abs=0.02)  # that of chance
    assert np.array_equal(found.agreement, found.agreement.T)


def test_many_examples_are_measured_on_some_of_them() -> None:
    cloud = RANDOM.normal(size=(3000, 2))
    one, same, other = (measures([cloud], seed) for seed in (0, 0, 1))
    assert one.examples == 2000
    assert one.intrinsic == same.intrinsic != other.intrinsic
    result = probe(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), [torch.randn(2100, 2)])
    assert result.title == "Sequential on 2,100 examples, measured on 2,000 of them, without labels"


def test_too_few() -> None:
    with pytest.raises(TruncateError, match="there are 2 examples: without labels, three at least are needed"):
        measures([np.ones((2, 3))], seed=0)
