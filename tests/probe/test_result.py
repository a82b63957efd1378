"""The table of a probe: what it says, draws and makes."""

from __future__ import annotations

import copy
import dataclasses
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from truncate import Probes, TruncateError, extract, probe


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())
        self.fc = nn.Linear(6 * 4 * 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.block2(self.block1(images)).flatten(1))


DIGITS, LABELS = load_digits(n_class=3, return_X_y=True)
IMAGES = torch.tensor(DIGITS[:150], dtype=torch.float32).view(-1, 1, 8, 8) / 16
LABELS = LABELS[:150]


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().train()


@pytest.fixture(scope="module")
def result(net: Net) -> Probes:
    return probe(net, IMAGES.split(40), LABELS)


@pytest.fixture(scope="module")
def unlabelled(net: Net) -> Probes:
    return probe(net, IMAGES.split(40))


def with_scores(result: Probes, *scores: tuple[float, float]) -> Probes:
    """The same table with other scores and spreads."""
    changed: Any = copy.copy(result)
    pairs = zip(result, scores, strict=True)
    changed._rows = tuple(dataclasses.replace(row, score=score, spread=spread) for row, (score, spread) in pairs)
    return changed


def test_best_and_the_cheapest_within_its_error(result: Probes) -> None:
    near = with_scores(result, (0.885, 0.0), (0.90, 0.02), (0.87, 0.5))
    assert (near.best, near.cheapest) == (near[1], near[0])
    far = with_scores(result, (0.87, 0.5), (0.90, 0.02), (0.885, 0.0))
    assert (far.best, far.cheapest) == (far[1], far[1])
    equal = with_scores(result, (0.5, 0.0), (0.9, 0.0), (0.9, 0.0))
    assert equal.best is equal[1]
    assert "within its ±: 2 of 3, cheapest: block1 (avg)" in str(near)
    assert "the last row, before fc, is 0.030 below the best, more than its ±" in str(near)
    assert "the last row, before fc, is 0.015 below the best, within its ±" in str(far)
    assert "the last row" not in str(with_scores(result, (0.5, 0.1), (0.6, 0.1), (0.7, 0.01)))


def test_it_prints_as_a_table(result: Probes) -> None:
    lines = str(result).splitlines()
    assert lines[0] == "Net on 150 examples, 3 classes: accuracy in 5 folds"
    assert lines[1].split() == "layer pool dimension score parameters multiply-adds share ms".split()
    rows = [re.split(r" {2,}", line.strip()) for line in lines[2:5]]
    assert [row[0] for row in rows] == ["block1", "block2", "before fc"]
    assert rows[0][1:3] == ["avg", "4"] and rows[0][4:7] == ["40", "1,296", "25.7 %"]
    assert rows[0][3] == f"{result[0].score:.3f} ± {result[0].spread:.3f}"
    assert any(row[-1] in ("best", "cheapest", "best, cheapest") for row in rows)
    assert lines[5] == "± is the standard error over the 5 folds, the same for each layer"
    assert repr(result) == "<3 probed layers of Net>"


def test_it_is_a_frame_of_pandas(result: Probes, unlabelled: Probes) -> None:
    frame = pandas.DataFrame(list(result))
    assert list(frame.columns) == [field.name for field in dataclasses.fields(result[0])]
    assert frame["score"].tolist() == [row.score for row in result]
    assert pandas.DataFrame(list(unlabelled))["effective_rank"].notna().all()


def test_without_labels(unlabelled: Probes, net: Net) -> None:
    assert unlabelled.title == "Net on 150 examples, without labels"
    assert "intrinsic dimension  effective rank  agreement" in str(unlabelled)
    assert unlabelled[-1].agreement == 1 and unlabelled.agreement.shape == (3, 3)
    assert unlabelled[0].agreement == unlabelled.agreement[0, 2] < 1
    assert unlabelled[0].score is None and unlabelled[0].scores == ()
    for ask in (lambda: unlabelled.best, lambda: unlabelled.cut(), lambda: unlabelled.pipeline(0)):
        with pytest.raises(TruncateError, match="without labels no layer is better than another: give labels=, or"):
            ask()
    assert unlabelled.cut("block1")(IMAGES[:2]).shape == (2, 4)


# -- modules ---------------------------------------------------------------------------------------------------------


def test_the_cut_gives_the_vectors_of_the_table(result: Probes, net: Net) -> None:
    for number, row in enumerate(result):
        cut = result.cut(row)
        assert np.array_equal(extract(cut, IMAGES.split(40)).features, result.features[number])
        assert not any(module.training for module in cut.modules())
    assert all(module.training for module in net.modules())
    cut = result.cut("block1")
    cut.block1[0].weight.data.zero_()
    assert net.block1[0].weight.abs().sum() > 0
    assert torch.equal(result.cut()(IMAGES), result.cut(result.cheapest)(IMAGES))


def test_several_poolings_of_a_layer() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    found = probe(nn.Sequential(layer, nn.Linear(8, 2)), IMAGES[:, 0].split(40), LABELS, at="0")
    assert [row.pool for row in found] == ["cls", "mean"]
    for row, vectors in zip(found, found.features):
        assert np.allclose(found.cut(row)(IMAGES[:, 0]).detach().numpy(), vectors, atol=1e-6)
    assert torch.equal(found.cut("0")(IMAGES[:, 0]), found.cut(found.best)(IMAGES[:, 0]))


def test_the_pipeline_says_what_the_probe_says(result: Probes) -> None:
    pipeline = result.pipeline("before fc")
    learner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(result.features[2], LABELS)
    logits = pipeline(IMAGES)
    assert logits.shape == (150, 3) and result.classes == [0, 1, 2]
    expected = learner.predict_proba(result.features[2])
    assert np.allclose(logits.softmax(1).detach().numpy(), expected, atol=1e-4)
    assert [name for name, _ in pipeline.named_children()] == ["backbone", "head"]


def test_the_pipeline_of_two_classes(net: Net) -> None:
    two = IMAGES[LABELS < 2]
    found = probe(net, [two], LABELS[LABELS < 2] == 1, at="block2")
    learner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(
        found.features[0], LABELS[LABELS < 2]
    )
    shares = found.pipeline()(two).softmax(1).detach().numpy()
    assert found.classes == [False, True] and np.allclose(shares, learner.predict_proba(found.features[0]), atol=1e-4)


def test_the_pipeline_of_numbers(net: Net) -> None:
    ink = IMAGES.mean((1, 2, 3))
    found = probe(net, [IMAGES], ink)
    learner = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 5, 9))).fit(found.features[2], ink)
    predicted = found.pipeline("before fc")(IMAGES).detach().numpy()
    assert predicted.shape == (150, 1)
    assert np.allclose(predicted[:, 0], learner.predict(found.features[2]), atol=1e-5)


def test_the_pipeline_is_exported_and_scripted(result: Probes, tmp_path: Path) -> None:
    pipeline = result.pipeline()
    batch = torch.export.Dim("batch")
    file = io.BytesIO()
    torch.export.save(torch.export.export(pipeline, (IMAGES[:4],), dynamic_shapes=({0: batch},)), file)
    file.seek(0)
    assert torch.equal(torch.export.load(file).module()(IMAGES), pipeline(IMAGES))
    assert torch.equal(torch.jit.script(pipeline)(IMAGES), pipeline(IMAGES))


def test_a_row_that_is_not_there(result: Probes) -> None:
    for layer in ("block3", 3, -4):
        said = f"layer={layer!r} is no row of the 3 of this table; its layers: block1, block2, before fc"
        with pytest.raises(TruncateError, match=re.escape(said)):
            result.cut(layer)
    assert torch.equal(result.cut(-1)(IMAGES), result.cut(2)(IMAGES))


# -- drawings --------------------------------------------------------------------------------------------------------


def test_the_curve(result: Probes, unlabelled: Probes, tmp_path: Path) -> None:
    path = tmp_path / "curve.svg"
    drawn = result.draw(to=path)
    assert path.read_text() == drawn
    root = ElementTree.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    points = {group[0].text.partition(":")[0]: group.find(f"{space}circle") for group in root.iter(f"{space}g")}
    assert set(points) == {"block1 (avg)", "block2 (avg)", "before fc"}
    across = [float(points[name].get("cx")) for name in ("block1 (avg)", "block2 (avg)")]
    assert across == pytest.approx([72 + 620 * row.share for row in result[:2]], abs=0.1)
    ordered = sorted(zip(result, points.values()), key=lambda pair: pair[0].score)
    by_name = {
        row.layer: float(points[f"{row.layer} ({row.pool})" if row.pool else row.layer].get("cy")) for row in result
    }
    heights = [by_name[row.layer] for row, _ in ordered]
    assert heights == sorted(heights, reverse=True)  # the better, the higher
    first, last = result[0], result[2]
    scale = (by_name["block1"] - by_name["before fc"]) / (last.score - first.score)  # how many units a score of 1 is
    bars = {group[0].text.partition(":")[0]: group.find(f"{space}path").get("d") for group in root.iter(f"{space}g")}
    top, bottom = map(float, re.split("[ V]", bars["block1 (avg)"])[1:])
    assert bottom - top == pytest.approx(2 * first.spread * scale, abs=0.3) and first.spread > 0
    assert "share of the multiply-adds" in drawn and ">accuracy<" in drawn
    assert ">intrinsic dimension<" in unlabelled.draw()


def test_a_curve_of_many_layers_leaves_names_out_and_no_points(result: Probes) -> None:
    many: Any = copy.copy(result)
    many._rows = tuple(dataclasses.replace(row, share=0.5) for row in result) * 30
    drawn = many.draw()
    assert drawn.count("<circle") == 90 and drawn.count("<text") < 60


def test_errors_of_the_curve(result: Probes, tmp_path: Path) -> None:
    with pytest.raises(TruncateError, match=r"a curve is written as \.svg, and 'curve.png' ends otherwise"):
        result.draw(to="curve.png")
    with pytest.raises(TruncateError, match="Nothing was written; give another path to `to`"):
        result.draw(to=tmp_path / "none" / "curve.svg")


def test_a_notebook_shows_table_and_curve(result: Probes) -> None:
    shown = result._repr_html_()
    root = ElementTree.fromstring(f"<div>{shown}</div>")
    table = root.find("table")
    assert [cell.text for cell in table[1]][:3] == ["block1", "avg", "4"] and len(table) == 4
    assert "<svg" in shown


def test_names_from_a_model_do_nothing() -> None:
    model = nn.Sequential()
    model.add_module("<b>\x1b", nn.Linear(4, 3))
    model.add_module("head", nn.Linear(3, 2))
    found = probe(model, [torch.randn(40, 4)], at="<b>\x1b")
    for shown in (found._repr_html_(), found.draw(), str(found)):
        assert "\x1b" not in shown and r"\x1b" in shown
    assert "<b>" not in found._repr_html_()
