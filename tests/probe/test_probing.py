"""One pass for all layers, scores that are those of features extracted one by one, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import make_scorer, mean_absolute_error
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from truncate import ContentWarning, TruncateError, extract, probe, truncate


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(4, 8, 3, 2), nn.Dropout(0.5), nn.ReLU())
        self.fc = nn.Linear(8 * 3 * 3, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.block2(self.block1(images)).flatten(1))


class Tokens(nn.Module):
    """Rows of an image as tokens; takes a second argument, and branches on a size."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        kinds = (
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        )
        self.blocks = nn.ModuleList(kinds)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor, scale: Tensor) -> Tensor:
        x = self.embed(images[:, 0] * scale[:, None, None])
        if x.shape[1] > 1:
            x = x - x.mean(1, keepdim=True)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


DIGITS, LABELS = load_digits(return_X_y=True)
IMAGES = torch.tensor(DIGITS[:240], dtype=torch.float32).view(-1, 1, 8, 8) / 16
LABELS = LABELS[:240]
BATCHES = IMAGES.split(50)


def test_scores_are_those_of_features_extracted_one_by_one() -> None:
    model = Convolutions()
    result = probe(model, BATCHES, LABELS)
    assert [(row.layer, row.pool, row.dimension) for row in result] == [
        ("block1", "avg", 4),
        ("block2", "avg", 8),
        ("before fc", "", 72),
    ]
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    for row, features in zip(result, result.features):
        options: Any = {"before": "fc"} if row.layer == "before fc" else {"upto": row.layer, "pool": "avg"}
        alone = extract(truncate(model, **options, flatten=True), BATCHES).features
        assert np.array_equal(features, alone) and features.dtype == np.float32
        learner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        expected = cross_val_score(learner, alone, LABELS, cv=folds)
        assert row.scores == tuple(expected)
        assert row.score == pytest.approx(expected.mean())
        assert row.spread == pytest.approx(expected.std(ddof=1) / 5**0.5)


def test_the_model_runs_once() -> None:
    model = Convolutions()
    seen: list[int] = []
    model.block1[0].register_forward_hook(lambda module, args, output: seen.append(len(output)))
    read: list[int] = []

    def batches() -> Any:
        for number, batch in enumerate(BATCHES):
            read.append(number)
            yield batch

    probe(model, batches(), LABELS)
    assert seen == [50, 50, 50, 50, 40]
    assert read == [0, 1, 2, 3, 4]


def test_nothing_is_left_in_the_model() -> None:
    model = Convolutions().train()
    model.block2.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    probe(model, BATCHES, LABELS)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and model.block1.training and not model.block2.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_it_is_stable_under_the_seed() -> None:
    model = Convolutions()
    one, same, other = (probe(model, BATCHES, LABELS, seed=seed) for seed in (1, 1, 2))
    assert [row.scores for row in one] == [row.scores for row in same]
    assert [row.scores for row in one] != [row.scores for row in other]


def test_costs_are_those_of_the_cuts() -> None:
    model = Convolutions().eval()
    block1, block2, last = probe(model, BATCHES, LABELS)
    counted = [sum(p.numel() for p in truncate(model, layer).parameters()) for layer in ("block1", "block2")]
    assert [block1.parameters, block2.parameters, last.parameters] == [*counted, counted[1]]
    assert (block1.multiply_adds, block2.multiply_adds) == (64 * 9 * 4, 64 * 9 * 4 + 9 * 9 * 4 * 8)
    whole = 64 * 9 * 4 + 9 * 9 * 4 * 8 + 72 * 10
    assert (block1.share, last.share) == (64 * 9 * 4 / whole, last.multiply_adds / whole)
    assert 0 < block1.milliseconds < block2.milliseconds <= last.milliseconds < 1000


def test_a_share_of_the_parameters_where_work_cannot_be_counted() -> None:
    class Branching(Convolutions):
        """Reads values, which the meta device does not have, and takes no small batch, on which it could be counted."""

        def forward(self, images: Tensor) -> Tensor:
            if len(images) < 40:
                raise ValueError("too few")
            found = self.block1(images)
            return self.fc(self.block2(found if found.sum() == found.sum() else -found).flatten(1))

    model = Branching()
    result = probe(model, BATCHES, LABELS, args=(BATCHES[0],))
    whole = sum(p.numel() for p in model.parameters())
    assert [row.multiply_adds for row in result] == [None] * 3
    assert [row.share for row in result] == [row.parameters / whole for row in result]
    assert "share of the parameters" in result.draw()
    with pytest.warns(ContentWarning, match="branches on the content of a tensor"):
        cut = result.cut("block2")
    assert cut(IMAGES).shape == (240, 8)


def test_work_that_is_counted_where_values_are_read() -> None:
    class Branching(Convolutions):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images if images.sum() == images.sum() else -images)

    counted = [row.multiply_adds for row in probe(Branching(), BATCHES, LABELS)]
    assert counted == [row.multiply_adds for row in probe(Convolutions(), BATCHES, LABELS)] and all(counted)


def test_an_exported_program_of_one_batch_size() -> None:
    program = torch.export.export(Convolutions().eval(), (IMAGES[:60],))
    result = probe(program, IMAGES.split(60), LABELS, ["block1", "before fc"], args=(IMAGES[:60],))
    assert [row.dimension for row in result] == [4, 72]
    assert result.features[1].shape == (240, 72)


def test_tokens_are_pooled_in_two_ways_and_arguments_are_passed() -> None:
    batches = [
        {"images": part, "scale": torch.ones(len(part)), "labels": LABELS[i * 50 : i * 50 + 50]}
        for i, part in enumerate(BATCHES)
    ]
    model = Tokens().eval()
    result = probe(model, batches)
    blocks = [("blocks.0", "cls"), ("blocks.0", "mean"), ("blocks.1", "cls"), ("blocks.1", "mean")]
    assert [(row.layer, row.pool) for row in result] == [*blocks, ("before head", "")]
    assert result.classes == list(range(10))
    hidden = extract(
        truncate(model, "blocks.0", kwargs={"images": IMAGES[:2], "scale": torch.ones(2)}), batches
    ).features
    assert np.array_equal(result.features[0], hidden[:, 0])
    assert np.allclose(result.features[1], hidden.mean(1), atol=1e-6)
    pipeline = result.pipeline("blocks.1")
    assert pipeline(IMAGES[:3], torch.ones(3)).shape == (3, 10)


def test_pooling_that_is_asked_for() -> None:
    model = Convolutions()
    by_name = probe(model, BATCHES, LABELS, pool="max")
    assert [row.pool for row in by_name] == ["max", "max", ""]
    assert [row.dimension for row in probe(model, BATCHES, LABELS, ["block1", "block2"], pool=None)] == [256, 72]
    each = probe(model, BATCHES, LABELS, ["block1", "block2"], pool={"block2": nn.AdaptiveMaxPool2d(2)})
    assert [(row.pool, row.dimension) for row in each] == [("avg", 4), ("AdaptiveMaxPool2d", 32)]
    with pytest.raises(TruncateError, match="pool='maximum' is not a pooling"):
        probe(model, BATCHES, LABELS, pool="maximum")


@pytest.mark.parametrize(
    ("sizes", "pool"), [((8, 5, 5), "avg"), ((5, 5, 8), "mean"), ((8, 8, 8), "avg"), ((9, 7, 5), "avg")]
)
def test_maps_with_channels_first_or_last(sizes: tuple[int, ...], pool: str) -> None:
    model = nn.Sequential(
        nn.Linear(4, 8 * 8 * 9), nn.Flatten(), nn.Linear(8 * 8 * 9, np.prod(sizes)), nn.Unflatten(1, sizes)
    )
    (row,) = probe(model, [torch.randn(20, 4)], at="3")
    assert row.pool == pool and row.dimension == sizes[0 if pool == "avg" else -1]


def test_what_gives_no_vector_is_left_out_and_said() -> None:
    class Strange(Convolutions):
        def forward(self, images: Tensor) -> Any:
            found = self.block1(images)
            pair = found.max(3)
            return pair[1], found.argmax(1), found.sum(0), self.block2(found)

    result = probe(Strange(), BATCHES, LABELS, ["max", "argmax", "sum", "block2"])
    assert [row.layer for row in result] == ["block2"]
    assert result.left_out["argmax"] == "returns int64"
    assert result.left_out["sum"] == "returns 4×8×8, which is not one vector or map for each of 50 examples"
    assert "left out: argmax, which returns int64" in str(result)
    with pytest.raises(TruncateError, match="none of the layers gives a vector for each example: argmax returns int64"):
        probe(Strange(), BATCHES, LABELS, "argmax")


# -- kinds of labels -------------------------------------------------------------------------------------------------


def test_labels_in_the_batches_and_as_strings() -> None:
    model = Convolutions()
    given = probe(model, BATCHES, LABELS)
    inside = probe(model, list(zip(BATCHES, torch.tensor(LABELS).split(50))))
    strings = probe(model, BATCHES, [f"digit {label}" for label in LABELS])
    series = probe(model, BATCHES, pandas.Series([f"digit {label}" for label in LABELS]))
    assert [row.scores for row in inside] == [row.scores for row in given]
    assert strings.classes == series.classes == [f"digit {label}" for label in range(10)]
    assert [row.scores for row in strings] == [row.scores for row in series]


def test_numbers() -> None:
    model, ink = Convolutions(), IMAGES.mean((1, 2, 3))
    result = probe(model, BATCHES, ink, score=None)
    assert "numbers: r2 in 5 folds" in result.title and result.classes is None
    learner = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 5, 9)))
    folds = KFold(5, shuffle=True, random_state=0)
    assert result[0].scores == tuple(cross_val_score(learner, result.features[0], ink.numpy(), cv=folds, scoring="r2"))
    two = probe(model, BATCHES, torch.stack([ink, ink.square()], 1))
    assert two.pipeline(0)(IMAGES[:7]).shape == (7, 2)


def test_groups_are_respected() -> None:
    model, groups = Convolutions(), np.arange(240) // 8
    result = probe(model, BATCHES, LABELS, groups=groups)
    learner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    splits = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    assert result[1].scores == tuple(cross_val_score(learner, result.features[1], LABELS, groups=groups, cv=splits))
    ink = IMAGES.mean((1, 2, 3))
    numbers = probe(model, BATCHES, ink, groups=torch.tensor(groups))
    learner, splits = (
        make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 5, 9))),
        GroupKFold(5, shuffle=True, random_state=0),
    )
    assert numbers[1].scores == tuple(cross_val_score(learner, numbers.features[1], ink, groups=groups, cv=splits))


def test_neighbours_other_estimators_and_scores() -> None:
    model = Convolutions()
    result = probe(model, BATCHES, LABELS, estimator="knn", folds=3, score="balanced_accuracy")
    learner, folds = (
        make_pipeline(StandardScaler(), KNeighborsClassifier()),
        StratifiedKFold(3, shuffle=True, random_state=0),
    )
    assert result[2].scores == tuple(
        cross_val_score(learner, result.features[2], LABELS, cv=folds, scoring="balanced_accuracy")
    )
    assert "balanced_accuracy in 3 folds" in str(result)
    with pytest.raises(TruncateError, match="a KNeighborsClassifier is no linear layer: probe with estimator='linear'"):
        result.pipeline()
    own = probe(model, BATCHES, LABELS, estimator=LogisticRegression(C=0.01, max_iter=1000))
    assert own.pipeline()(IMAGES[:2]).shape == (2, 10)
    error = make_scorer(mean_absolute_error, greater_is_better=False)
    assert all(row.score < 0 for row in probe(model, BATCHES, LABELS, score=error))


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": LABELS[:100]}, "there are 100 labels, and 240 examples in the batches: give one for each"),
        ({"labels": np.zeros(240, int)}, "all 240 labels are 0: a probe needs two classes to tell apart"),
        (
            {"labels": np.arange(240)},
            "the class 0 has 1 of 240 examples, and folds=5 needs 5 of each class: take fewer",
        ),
        ({"labels": np.full(240, np.nan)}, "some labels are not finite: leave out the examples that have none"),
        ({"labels": np.zeros((240, 2), int)}, "the labels are an array of int64 with shape (240, 2): they are one"),
        ({"labels": [None] * 240}, "the labels are an array of object with shape (240,)"),
        ({"groups": [0] * 240}, "folds=5 needs as many groups: there are 1"),
        ({"groups": [0]}, "the groups have shape (1,), and there are 240 examples: give one group for each"),
        ({"folds": 1}, "folds=1: the examples are divided into 2 or more parts"),
        ({"score": "acuracy"}, "score='acuracy' is no score of scikit-learn: sklearn.metrics.get_scorer_names()"),
        ({"estimator": "forest"}, "estimator='forest': it is 'linear', 'knn' or an estimator of scikit-learn"),
        ({"batches": IMAGES}, "batches are a DataLoader or another iterable of batches, but got a Tensor; a tensor of"),
        ({"batches": []}, "there are no batches (a generator that has already been used up is empty)"),
        (
            {"batches": [(IMAGES, torch.tensor(LABELS), torch.tensor(LABELS))], "labels": None},
            "the batches hold several labels (2 of them): give",
        ),
        ({"batches": [IMAGES / 0]}, "block1 gives values that are not finite, first for example 0: was the input fi"),
        ({"model": 3}, "probe takes a torch.nn.Module, but got 3"),
    ],
)
def test_errors(options: dict[str, Any], said: str) -> None:
    given = {"model": Convolutions(), "batches": BATCHES, "labels": LABELS, **options}
    with pytest.raises(TruncateError, match=re.escape(said)):
        probe(**given)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.model_selection", None)
    with pytest.raises(TruncateError, match=re.escape("pip install 'torch-truncate[probe]'")):
        probe(Convolutions(), BATCHES, LABELS)


def test_vectors_that_are_large_lie_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, labels = Convolutions().eval(), IMAGES[:60], LABELS[:60]
    expected = probe(model, inputs.split(16), labels, folds=2)
    monkeypatch.setattr("truncate._extract.rows._LARGE", 1)
    found = probe(model, inputs.split(16), labels, folds=2)
    assert all(isinstance(vectors, np.memmap) for vectors in found.features)
    assert [row.scores for row in found] == [row.scores for row in expected]
    assert not any(isinstance(vectors, np.memmap) for vectors in expected.features)
