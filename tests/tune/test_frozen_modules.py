"""What is frozen is an ordinary module: it is copied, saved, compiled and cut as before."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from freezable import CASES, Drops, Net, frozen_names, small_vit, train, value_at
from oracle import equal
from torch import Tensor, nn

from truncate import freeze, truncate, unfreeze

# -- what one can do to it -------------------------------------------------------------------------------------------


def saved_and_loaded(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


DUPLICATES = pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded],
    ids=["copy", "pickle", "save"],
)


@DUPLICATES
@pytest.mark.parametrize("name", ["net", "resnet", "vit", "timm"])
def test_duplicates(name: str, duplicate: Callable[[nn.Module], nn.Module]) -> None:
    case = CASES[name]
    model, x = case.model(), case.inputs()
    expected = value_at(model, case.path, x)
    before = [(path, type(m), m.training) for path, m in model.named_modules()]
    freeze(model, case.path)
    twin = duplicate(model)
    assert frozen_names(twin) == frozen_names(model)
    assert repr(twin) == repr(model)
    train(twin, x)
    assert equal(value_at(twin, case.path, x), expected)
    unfreeze(twin)
    assert not frozen_names(twin)
    twin.eval()
    assert [(path, type(m), m.training) for path, m in twin.named_modules()] == before
    assert frozen_names(model), "a twin shares nothing with its original"


@DUPLICATES
def test_duplicates_of_a_cut(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    """Whose class nobody can import either way."""
    case = CASES["densenet"]
    backbone, x = freeze(truncate(case.model(), case.path)), case.inputs()
    twin = duplicate(backbone)
    assert torch.equal(twin.train()(x), backbone(x))
    assert type(unfreeze(twin)).__name__ == "TruncatedDenseNet"
    assert not torch.equal(twin.train()(x), backbone(x))


def test_state_dict() -> None:
    model = Net()
    before = copy.deepcopy(model.state_dict())
    freeze(model, "second.0")
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    Net().load_state_dict(model.state_dict())
    model.load_state_dict(Net().state_dict())
    model.load_state_dict(Net().state_dict(), assign=True)
    assert frozen_names(model) == frozen_names(freeze(Net(), "second.0"))
    assert not frozen_names(unfreeze(model))


@pytest.mark.parametrize("name", ["net", "resnet", "mobilenet", "dense", "convnext", "vit"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_script(name: str, training: bool) -> None:
    """Scripted, and loaded from a file: the frozen part acts as in evaluation, the rest follows."""
    case = CASES[name]
    model, x = case.model(), case.inputs()
    outputs = model(x)
    scripted: Any = torch.jit.script(freeze(model, case.path).train(training))
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    torch.manual_seed(1)
    expected = copy.deepcopy(model).train()(x)
    norms = nn.modules.batchnorm._BatchNorm
    free = {path for path, m in model.named_modules() if isinstance(m, norms) and "Frozen" not in m._get_name()}
    for compiled in (
        torch.jit.load(file),
        scripted,
    ):  # in this order: the other one shares its parameters with the model
        before = {name: value.clone() for name, value in compiled.state_dict().items()}
        torch.manual_seed(1)
        assert torch.equal(compiled.train()(x), expected)
        counts = [name for name in before if name.endswith("num_batches_tracked")]
        assert {n.rpartition(".")[0] for n in counts if compiled.state_dict()[n] != before[n]} == free
        compiled.load_state_dict(before)
        assert torch.equal(compiled.eval()(x), outputs)


@pytest.mark.parametrize(
    "whole", [nn.LSTM(4, 5, 2, dropout=0.5), nn.TransformerEncoderLayer(4, 2, 8)], ids=["lstm", "mha"]
)
def test_script_of_modules_that_torch_treats_apart(whole: nn.Module) -> None:
    class Wrap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = copy.deepcopy(whole)

        def forward(self, x: Tensor) -> Tensor:
            y = self.whole(x)
            if isinstance(y, Tensor):
                return y
            return y[0]

    model, x = freeze(Wrap().eval()), torch.randn(3, 2, 4)
    expected = model(x)
    assert torch.equal(model.train()(x), expected)
    scripted = torch.jit.script(model)
    assert torch.equal(scripted.train()(x), expected)


class Annotated(nn.Module):
    """Its annotations tell TorchScript what an empty list holds."""

    __annotations__ = {"sizes": list[int]}  # the type itself: those written in this file are strings

    def __init__(self) -> None:
        super().__init__()
        self.sizes = []

    def forward(self, x: Tensor) -> Tensor:
        return x + len(self.sizes)


class AnnotatedToo(Annotated):
    pass


def test_script_reads_annotations() -> None:
    for kind in (Annotated, AnnotatedToo):
        assert torch.jit.script(freeze(kind()))(torch.ones(())) == 1


def test_export_and_compile() -> None:
    case = CASES["net"]
    model, x = case.model(), case.inputs()
    expected = value_at(model, case.path, x)
    backbone = freeze(truncate(model, case.path, copy=True)).train()
    free = ({0: torch.export.Dim.DYNAMIC},)
    assert torch.equal(torch.export.export(backbone, (x,), dynamic_shapes=free).module()(x), expected)
    torch.compiler.reset()
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    for mode in (True, False, True):
        assert torch.equal(compiled.train(mode)(x), expected)
    unfreeze(backbone)
    assert not torch.equal(compiled.train()(x), expected)
    freeze(model, case.path)
    torch.compiler.reset()
    train(torch.compile(model, fullgraph=True, backend="aot_eager"), x)
    assert model.norm.num_batches_tracked == 2
    assert equal(value_at(model, case.path, x), expected)


def test_a_cut_of_what_is_frozen() -> None:
    model, x = Net().eval(), torch.randn(4, 3, 8, 8)
    expected = value_at(model, "second.0.norm", x)
    freeze(model, "second.0")
    cut = truncate(model, "second.0.norm")
    train(nn.Sequential(cut, nn.Flatten(), nn.Linear(144, 2)), x)
    assert torch.equal(cut(x), expected)
    assert frozen_names(cut) == {name for name, _ in cut.named_parameters()}


def test_a_cut_inside_of_what_is_frozen() -> None:
    """Where the rebuilt module drops by itself, and where it holds parameters by itself."""
    model, x = nn.Sequential(Drops(True), nn.Linear(4, 2)).eval(), torch.randn(2, 4)
    expected = value_at(model, "0.layer", x)
    freeze(model, "0")
    cut = truncate(model, "0.layer")
    assert torch.equal(cut.train()(x), expected)
    vit = small_vit()
    freeze(vit, "encoder.layers.encoder_layer_1")
    cut = truncate(vit, "encoder.layers.encoder_layer_0")
    assert not frozen_names(unfreeze(cut))


def test_fx() -> None:
    """What it takes for one operation it still does, and what it made can be frozen."""
    model, x = Net().eval(), torch.randn(4, 3, 8, 8)
    graph = torch.fx.symbolic_trace(freeze(Net(), "stem"))
    assert "stem" in [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    traced = torch.fx.symbolic_trace(model)
    expected = traced(x)
    kind = type(traced)
    freeze(traced)
    for twin in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
        assert torch.equal(twin.train()(x), expected)
        assert not any(m.training for m in twin.modules())
    assert type(unfreeze(traced)) is kind


def test_the_memo_of_a_copy_knows_nothing_that_is_gone() -> None:
    """Another object would get its id, and the copy in its place."""
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    freeze(model)
    memo: dict[int, Any] = {}
    copy.deepcopy(model, memo)
    kept_alive = memo.pop(id(memo))
    assert memo.keys() <= set(map(id, kept_alive))


def test_parametrized() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    model, x = nn.Sequential(layer, nn.BatchNorm1d(3)).eval(), torch.randn(4, 3)
    expected = model(x)
    kind = type(layer)
    freeze(model)
    assert torch.equal(copy.deepcopy(model).train()(x), expected)
    assert torch.equal(model.train()(x), expected)
    assert type(unfreeze(model)[0]) is kind


# -- its classes -----------------------------------------------------------------------------------------------------


def test_it_goes_by_its_name_and_shows_that_it_is_frozen() -> None:
    norm = freeze(nn.BatchNorm2d(3))
    assert isinstance(norm, nn.BatchNorm2d)
    assert (type(norm).__name__, type(norm).__module__) == ("BatchNorm2d", "torch.nn.modules.batchnorm")
    assert repr(norm).startswith("FrozenBatchNorm2d(3, eps=")
    assert type(freeze(nn.BatchNorm2d(4))) is type(norm)


class Registered(nn.Module):
    known: list[str] = []

    def __init_subclass__(cls, key: str) -> None:
        Registered.known.append(key)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Child(Registered, key="child"):
    pass


def test_classes_that_register_their_subclasses() -> None:
    freeze(Child())
    assert Registered.known == ["child"]


def test_nothing_is_left_of_a_frozen_cut() -> None:
    cut = freeze(truncate(Net(), "stem"))
    kind = weakref.ref(type(cut))
    del cut
    gc.collect()
    assert kind() is None
