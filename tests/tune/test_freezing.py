"""Freezing: exactly what the target depends on, in evaluation through whatever is done to the model, and back."""

from __future__ import annotations

import copy
import dataclasses
import gc
import io
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from oracle import capture, equal, parameters_needed, randomize
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F

from truncate import TruncateError, UnknownTargetError, freeze, truncate, unfreeze


class Stage(nn.Module):
    """Has a dropout that is no module."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.norm(self.conv(x))))
        if self.training:
            x = x + 1
        return F.dropout(x, 0.5, self.training)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.first = Stage()
        self.second = nn.Sequential(Stage(), Stage())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x) * self.scale)
        x = self.flat(self.pool(self.second(x)))
        return self.head(F.dropout(self.norm(x), 0.1, self.training))


class Sizes(nn.Module):
    """Needs an example: it loops as often as a size says."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(x.shape[-1]):
            x = self.layers[i](x)
        return x


def small_vit() -> nn.Module:
    """Has parameters of its own in modules that hold the target, and attention that reads its mode."""
    return torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 32, 0.1, 0.1)


@dataclasses.dataclass(frozen=True)
class Case:
    kind: Callable[[], nn.Module]
    path: str
    size: int = 32

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return randomize(self.kind()).eval()

    def inputs(self, batch: int = 4) -> Tensor:
        return torch.randn(batch, 3, self.size, self.size, generator=torch.Generator().manual_seed(batch))


CASES = {
    "net": Case(Net, "second.0", 8),
    "resnet": Case(torchvision.models.resnet18, "layer3.0.conv2"),
    "mobilenet": Case(torchvision.models.mobilenet_v3_small, "features.5"),
    "densenet": Case(lambda: torchvision.models.densenet121(drop_rate=0.2), "features.denseblock2.denselayer4.conv1"),
    "dense": Case(
        lambda: torchvision.models.DenseNet(8, (2, 3, 2, 2), 8, drop_rate=0.2), "features.denseblock2.denselayer2.conv1"
    ),
    "convnext": Case(torchvision.models.convnext_tiny, "features.5.1"),
    "vit": Case(small_vit, "encoder.layers.encoder_layer_1.mlp"),
    "timm": Case(lambda: timm.create_model("test_efficientnet", drop_path_rate=0.2), "blocks.2"),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def frozen_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@torch.no_grad()  # with gradients, torch computes attention in another way, and other last bits
def value_at(model: nn.Module, path: str, x: Tensor) -> Any:
    return capture(model, [path], x)[path][-1]


def train(model: nn.Module, x: Tensor, steps: int = 2) -> None:
    """An ordinary loop: the whole model is set to training before each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        output = model(x)
        (output * torch.randn_like(output)).sum().backward()
        optimizer.step()


# -- what is frozen --------------------------------------------------------------------------------------------------


@EACH
def test_exactly_what_autograd_finds(case: Case) -> None:
    model = case.model()
    assert freeze(model, case.path) is model
    assert frozen_names(model) == parameters_needed(model, case.path, case.inputs())


@EACH
def test_through_training(case: Case) -> None:
    """The value there stays what it was in evaluation, and so does all state; the rest of the model is trained."""
    model, x = case.model(), case.inputs()
    expected = value_at(model, case.path, x)
    freeze(model, case.path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, x)
    assert equal(value_at(model, case.path, x), expected)
    assert equal(truncate(model, case.path)(x), expected)
    frozen = {f"{path}." if path else "" for path, m in model.named_modules() if "Frozen" in m._get_name()}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed.isdisjoint(frozen_names(model))
    assert not [name for name in changed if name.rpartition(".")[0] + "." in frozen]
    assert changed & {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_models_are_what_they_are_tested_for() -> None:
    assert any(isinstance(m, BatchNormAct2d) for m in CASES["timm"].model().blocks[2].modules())
    assert any(
        isinstance(m, torchvision.ops.StochasticDepth) for m in CASES["convnext"].model().features[5][1].modules()
    )


def test_what_follows_and_what_stays() -> None:
    model = freeze(Net(), "second.0").train()
    training = {path for path, module in model.named_modules() if module.training}
    assert training == {
        *("", "second", "second.1", "second.1.conv", "second.1.norm", "second.1.drop", "pool", "flat", "norm", "head")
    }
    for module in model.modules():
        module.train()
        module.training = True
    assert {path for path, module in model.named_modules() if module.training} == training
    assert frozen_names(model) == {
        name for name, _ in Net().named_parameters() if name.startswith(("stem.", "scale", "first.", "second.0."))
    }


def test_the_whole_module() -> None:
    """With the dropout in its own forward."""
    stage, x = Stage().eval(), torch.randn(2, 4, 5, 5)
    expected = stage(x)
    assert freeze(stage) is stage
    assert torch.equal(stage.train()(x), expected)
    assert not any(parameter.requires_grad for parameter in stage.parameters())
    assert equal(freeze(Stage(), "").state_dict().keys(), stage.state_dict().keys())


def test_a_cut() -> None:
    model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    backbone = truncate(model, "second.0")
    expected = backbone(x)
    freeze(backbone)
    assert torch.equal(backbone.train()(x), expected)
    assert not any(m.training for m in backbone.modules())
    # The model's own modules are in it, so these parts of the model are frozen too.
    model.train()
    assert torch.equal(value_at(model, "second.0", x), expected)
    assert {path for path, module in model.named_children() if not module.training} == {"stem", "first"}


def test_several_places() -> None:
    model = freeze(Net(), ["stem", "second.0"])
    assert frozen_names(model) == frozen_names(freeze(Net(), "second.0"))


def test_with_an_example() -> None:
    model = Sizes()
    freeze(model, "layers.2", args=(torch.randn(2, 4),))
    assert frozen_names(model) == {f"layers.{i}.{name}" for i in range(3) for name in ("weight", "bias")}


def test_modes_may_be_left_alone() -> None:
    model = freeze(Net(), "second.0", norm=False)
    assert all(module.training for module in model.modules())
    assert not any("Frozen" in module._get_name() for module in model.modules())
    assert frozen_names(model) == frozen_names(freeze(Net(), "second.0"))
    unfreeze(model)
    assert not frozen_names(model)


def test_what_both_sides_use() -> None:
    """A module or a parameter that is used before and after the target is one object, so it is frozen."""

    class Shares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.drop = nn.Dropout(0.5)
            self.body = nn.Linear(4, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.drop(self.body(self.drop(self.embed(x)))))

    model = freeze(Shares(), "drop:0").train()
    assert not model.drop.training and model.head.training
    assert not model.head.weight.requires_grad and model.body.weight.requires_grad
    unfreeze(model.head)  # it holds the parameter too
    assert model.embed.weight.requires_grad


def test_a_gradient_of_before_is_dropped() -> None:
    """An optimizer would apply it otherwise."""
    model, x = Net(), torch.randn(4, 3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    (model(x) * torch.randn(4, 2)).sum().backward()
    optimizer.step()
    freeze(model, "second.0")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    moved = [not torch.equal(p, old) for p, old in zip(model.parameters(), before)]
    assert [p.requires_grad for p in model.parameters()] == moved


# -- what cannot be kept in evaluation -------------------------------------------------------------------------------


class Drops(nn.Module):
    """Drops in its own forward, before and after a layer."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.before = before
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            x = F.dropout(x, 0.5, self.training)
        return self.head(F.dropout(self.layer(x), 0.5, self.training))


def test_a_mode_that_the_target_depends_on() -> None:
    model = nn.Sequential(nn.ModuleDict({"part": Drops(True)})["part"], nn.Linear(4, 2))
    with pytest.warns(UserWarning) as caught:
        freeze(model, "0.layer")
    assert [str(warning.message) for warning in caught] == [
        "'0.layer' depends on the mode of 0, which also holds what is not frozen, and so follows .train(). To keep it "
        "in evaluation, freeze 0 as a whole, or cut first: freeze(truncate(model, '0.layer'))"
    ]
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="depends on the mode of the model itself, .* freeze the model as a whole"):
        freeze(Drops(True), "layer")
    x = torch.randn(2, 4)
    cut = freeze(truncate(model.eval(), "0.layer")).train()  # the remedy
    assert torch.equal(cut(x), model[0].layer(x))


def test_a_mode_that_it_does_not_depend_on() -> None:
    with warnings.catch_warnings(action="error"):
        freeze(Drops(False), "layer")
        freeze(Drops(True))
        freeze(Drops(True), "layer", norm=False)


class AsksChildren(nn.Module):
    def __init__(self, runs: bool) -> None:
        super().__init__()
        self.runs = runs
        self.drop = nn.Dropout(0.5)
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.runs:
            x = self.drop(x)
        return self.layer(F.dropout(x, self.drop.p, self.drop.training)) + 1


def test_a_mode_of_a_child() -> None:
    """One that runs before the target stays in evaluation; one that is only asked for its mode follows."""
    with warnings.catch_warnings(action="error"):
        model = freeze(AsksChildren(True), "layer").train()
    x = torch.randn(2, 4)
    assert torch.equal(model(x), model.layer(x) + 1)
    with pytest.warns(UserWarning, match="depends on the mode of drop, which"):
        freeze(AsksChildren(False), "layer")


# -- and back --------------------------------------------------------------------------------------------------------


def looks(model: nn.Module) -> list[Any]:
    """All that freezing may change."""
    return [
        (path, type(module), list(vars(module)), module.training, [p.requires_grad for p in module.parameters()])
        for path, module in model.named_modules()
    ]


@EACH
def test_unfreeze_undoes_it(case: Case) -> None:
    model = case.model()
    next(model.parameters()).requires_grad_(False)
    list(model.modules())[-2].train()
    before = looks(model)
    freeze(model, case.path)
    assert looks(model) != before
    assert unfreeze(model) is model
    assert looks(model) == before


def test_twice() -> None:
    model = Net()
    model.first.conv.bias.requires_grad_(False)
    before = looks(model)
    once = looks(freeze(model, "second.0"))
    assert looks(freeze(model, "second.0")) == once
    freeze(model, "first", norm=False)
    assert looks(model) == once
    model.first.norm.weight.requires_grad_(True)
    freeze(model)
    assert len(frozen_names(model)) == len(list(model.parameters()))
    unfreeze(model)
    assert looks(model) == before


def test_modes_asked_meanwhile() -> None:
    """Afterwards all is as if it had never been frozen."""
    model = freeze(Net().eval(), "second.0")
    model.train()
    model.first.norm.eval()
    unfreeze(model)
    assert [path for path, module in model.named_modules() if not module.training] == ["first.norm"]
    assert unfreeze(freeze(Net().eval(), "second.0").train().eval()).first.training is False


def test_a_part_is_unfrozen() -> None:
    model = freeze(Net(), "second.0").train()
    unfreeze(model.first)
    assert model.first.norm.training and not model.second[0].norm.training
    assert not any(name.startswith("first") for name in frozen_names(model))


def test_gradual_unfreezing() -> None:
    model, x = CASES["resnet"].model(), CASES["resnet"].inputs()
    for upto, free in (
        ("avgpool", {"fc"}),
        ("layer3", {"layer4", "fc"}),
        ("layer1", {"layer2", "layer3", "layer4", "fc"}),
    ):
        freeze(unfreeze(model), upto)
        before = copy.deepcopy(model.state_dict())
        train(model, x, 1)
        changed = {name.partition(".")[0] for name, v in model.state_dict().items() if not torch.equal(v, before[name])}
        assert changed == free
    assert not frozen_names(unfreeze(model))


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


# -- errors ----------------------------------------------------------------------------------------------------------


def test_compiled_by_torchscript() -> None:
    model = nn.Sequential(nn.Linear(2, 2), torch.jit.script(nn.Linear(2, 2)))
    before = looks(model)
    with pytest.raises(TruncateError, match=r"^1 was compiled by TorchScript.*Freeze the model before .*: norm=False$"):
        freeze(model)
    assert looks(model) == before
    freeze(model, norm=False)
    assert len(frozen_names(model)) == 4
    assert not frozen_names(unfreeze(model))


def test_lazy() -> None:
    with pytest.raises(TruncateError, match=r"^0 \(LazyLinear\) has no parameters yet. Run the model once"):
        freeze(nn.Sequential(nn.LazyLinear(2)))


def test_other_mistakes() -> None:
    model = Net()
    before = looks(model)
    with pytest.raises(UnknownTargetError, match="no place 'third'"):
        freeze(model, "third")
    assert looks(model) == before
    for function in (freeze, unfreeze):
        with pytest.raises(
            TruncateError, match=f"^{function.__name__} takes a torch.nn.Module, but got 3 of type int$"
        ):
            function(3)


def test_a_class_that_was_changed_since() -> None:
    layer = freeze(nn.Linear(2, 2))
    nn.utils.parametrizations.weight_norm(layer)
    with pytest.raises(TruncateError, match=r"ParametrizedLinear, so it cannot .*parametrize does .*, then unfreeze$"):
        unfreeze(layer)
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert type(unfreeze(layer)) is nn.Linear
