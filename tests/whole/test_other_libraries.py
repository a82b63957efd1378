"""What others do with a module or with a table of features, done with a cut and with what `extract` writes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import capture, randomize
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torchvision.models import resnet18

from truncate import ContentWarning, extract, truncate

# -- DuckDB ----------------------------------------------------------------------------------------------------------


def resnet() -> nn.Module:
    return randomize(resnet18()).eval()


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(4, 3, 32, 32), torch.arange(4) % 2) for _ in range(3)]


@pytest.mark.parametrize("to", ["features.parquet", "features"], ids=["file", "folder"])
def test_duckdb_reads_what_extract_writes(tmp_path: Path, to: str) -> None:
    duckdb = pytest.importorskip("duckdb")
    cut, data = truncate(resnet(), upto={"map": "layer1", "vector": "flatten"}), batches()
    names = [f"image {number}" for number in range(12)]
    features, labels, _ = extract(cut, data, progress=False)
    path = extract(cut, data, keys=names, to=tmp_path / to, progress=False)
    table = f"'{path}'" if path.is_file() else f"'{path}/shards/*.parquet'"

    with duckdb.connect() as database:
        columns = {name: str(kind) for name, kind, *_ in database.execute(f"describe from {table}").fetchall()}
        rows = database.execute(f"select key, label, vector, map from {table} order by key").fetchnumpy()
    assert columns["vector"] in ("FLOAT[]", "FLOAT[512]") and columns["label"] == "BIGINT"
    order = np.argsort(names)
    assert rows["key"].tolist() == sorted(names)
    assert np.array_equal(rows["label"], labels[order])
    assert np.array_equal(np.stack(rows["vector"]), features["vector"][order])
    assert np.array_equal(np.stack(rows["map"]), features["map"][order].reshape(12, -1))


def test_duckdb_finds_neighbours_in_it(tmp_path: Path) -> None:
    """The same as those that numpy finds, by the cosine of their angle."""
    duckdb = pytest.importorskip("duckdb")
    cut, data = truncate(resnet(), upto="layer2", pool="avg", flatten=True), batches()
    vectors = extract(cut, data, progress=False).features.astype(np.float64)
    path = extract(cut, data, keys=list(range(12)), to=tmp_path / "features.parquet", progress=False)
    query = f"""
        select a.key, arg_max(b.key, list_cosine_similarity(a.features::double[], b.features::double[]))
        from '{path}' a join '{path}' b on a.key != b.key group by a.key order by a.key
    """
    with duckdb.connect() as database:
        found = [neighbour for _, neighbour in database.execute(query).fetchall()]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert found == (unit @ unit.T - 2 * np.eye(12)).argmax(1).tolist()
    assert len(set(found)) > 1


# -- captum ----------------------------------------------------------------------------------------------------------


def captum() -> Any:
    pytest.importorskip("matplotlib")  # it asks for that where it is imported
    return pytest.importorskip("captum.attr")


class Hooked(nn.Module):
    """The whole model, and the mean of what a layer of it returns: what captum is given without a cut."""

    def __init__(self, model: nn.Module, path: str) -> None:
        super().__init__()
        self.model, self.path = model, path

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = self.model.get_submodule(self.path).register_forward_hook(lambda m, args, out: seen.append(out))
        self.model(x)
        handle.remove()
        return seen[-1].mean((2, 3))


def test_captum_explains_a_feature() -> None:
    """By gradients of one channel: the same as with a hook, and complete."""
    attr = captum()
    model, x = resnet(), torch.randn(2, 3, 32, 32, requires_grad=True)
    cut, whole = truncate(model, upto="layer3", pool="avg", flatten=True), Hooked(model, "layer3")
    saliency = attr.Saliency(cut).attribute(x, target=5)
    assert torch.allclose(saliency, attr.Saliency(whole).attribute(x, target=5), rtol=1e-3, atol=1e-7)
    assert saliency.max() > 0
    parts, missed = attr.IntegratedGradients(cut).attribute(x, target=5, return_convergence_delta=True)
    with torch.no_grad():
        difference = (cut(x) - cut(torch.zeros_like(x)))[:, 5]
    assert torch.allclose(parts.sum((1, 2, 3)), difference, atol=0.05 * difference.abs().max().item())
    assert missed.abs().max() < 0.05 * difference.abs().max()


def test_captum_looks_into_a_cut() -> None:
    """Grad-CAM at a layer of a cut that ends in the logits is that of the model."""
    attr = captum()
    model, x = resnet(), torch.randn(2, 3, 64, 64)
    cut = truncate(model, upto={"logits": ""})

    def logits(x: Tensor) -> Tensor:
        return cut(x)["logits"]

    of_cut = attr.LayerGradCam(logits, cut.layer4).attribute(x, target=3)
    of_model = attr.LayerGradCam(model, model.layer4).attribute(x, target=3)
    assert torch.equal(of_cut, of_model)
    assert of_cut.abs().max() > 0


# -- torch.func ------------------------------------------------------------------------------------------------------


class Branching(nn.Module):
    """Decides by a value, so it is recorded on an example or stays live."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if x.shape[0] > 0 and x.abs().max() < 1000:
            x = x.tanh()
        return self.head(self.second(x))


class Plain(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).tanh()))


def cut_of(kind: type[nn.Module], **options: Any) -> Callable[[], tuple[nn.Module, nn.Module]]:
    def make() -> tuple[nn.Module, nn.Module]:
        model = kind().eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ContentWarning)
            return model, truncate(model, "second", **options)

    return make


WAYS = {
    "followed": cut_of(Plain),
    "recorded": cut_of(Branching, args=(torch.ones(2, 4),), live=False),
    "live": cut_of(Branching, live=True),
}
EACH = pytest.mark.parametrize("make", WAYS.values(), ids=list(WAYS))


@EACH
def test_functional_call(make: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    """With the weights of another model: what a hook on that one captures; those of the cut stay."""
    model, cut = make()
    other, x = type(model)(), torch.randn(3, 4)
    before = {name: value.clone() for name, value in cut.state_dict().items()}
    weights = {name: value for name, value in other.state_dict().items() if name in before}
    given = functional_call(cut, weights, (x,))
    assert torch.equal(given, capture(other, ["second"], x)["second"][-1])
    assert torch.equal(cut(x), capture(model, ["second"], x)["second"][-1])
    assert not torch.equal(given, cut(x))
    assert all(torch.equal(value, before[name]) for name, value in cut.state_dict().items())


@EACH
def test_gradients_of_functional_call(make: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    model, cut = make()
    x = torch.randn(3, 4)
    weights = {name: value.detach() for name, value in cut.named_parameters()}
    found = grad(lambda weights: functional_call(cut, weights, (x,)).square().sum())(weights)
    model.second.register_forward_hook(lambda m, args, out: out.square().sum().backward())
    model(x)
    assert found.keys() == weights.keys()
    for name, value in found.items():
        expected = model.get_parameter(name).grad
        if expected is None:  # what follows the target, which a live cut without an example holds all the same
            assert name.startswith("head.") and not value.any()
        else:
            assert torch.allclose(value, expected, rtol=1e-4) and value.any(), name


def test_an_ensemble_of_cuts() -> None:
    """Several cuts in one pass of `vmap`, and the gradient of each example by itself."""
    models, (_, base) = [Plain() for _ in range(3)], WAYS["followed"]()
    x, names = torch.randn(5, 4), base.state_dict().keys()
    # By hand, since stack_module_state wants one class, and each cut has one of its own, as each fx.GraphModule has.
    weights = {name: torch.stack([model.get_parameter(name) for model in models]) for name in names}
    values = vmap(lambda weights: functional_call(base, weights, (x,)))(weights)
    for value, model in zip(values, models, strict=True):
        assert torch.allclose(value, capture(model, ["second"], x)["second"][-1], atol=1e-6)

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(base, weights, (row[None],)).square().sum()

    own = {name: value.detach() for name, value in base.named_parameters()}
    each = vmap(grad(loss), (None, 0))(own, x)
    total = grad(lambda weights: functional_call(base, weights, (x,)).square().sum())(own)
    assert all(torch.allclose(value.sum(0), total[name], rtol=1e-3, atol=1e-5) for name, value in each.items())
