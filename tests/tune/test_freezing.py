"""Freezing: exactly what the target depends on, in evaluation through whatever is done to the model, and back."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torchvision
from freezable import CASES, EACH, Case, Drops, Net, Sizes, Stage, frozen_names, train, value_at
from oracle import equal, parameters_needed
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F

from truncate import TruncateError, UnknownTargetError, freeze, truncate, unfreeze

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


def test_a_mode_that_the_target_depends_on() -> None:
    model = nn.Sequential(nn.ModuleDict({"part": Drops(True)})["part"], nn.Linear(4, 2))
    with pytest.warns(UserWarning) as caught:
        freeze(model, "0.layer")
    assert [str(warning.message) for warning in caught] == [
        "'0.layer' depends on the mode of 0, which also holds modules that are not frozen, so it follows .train(). To "
        "keep it in evaluation, freeze 0 as a whole, or cut first: freeze(truncate(model, '0.layer'))"
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
    with pytest.raises(UnknownTargetError, match="no target 'third'"):
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
    with pytest.raises(TruncateError, match=r"ParametrizedLinear, so its own .*parametrize makes .*, then unfreeze$"):
        unfreeze(layer)
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert type(unfreeze(layer)) is nn.Linear
