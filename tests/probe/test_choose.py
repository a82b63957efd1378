"""Which layers are probed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tiny
import torch
from torch import nn
from torchvision import models

from truncate import TruncateError, UnknownTargetError, layers
from truncate._probe.choose import chosen
from truncate._sandbox import example_of


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(self.conv(x)).relu()


class Blocks(nn.Module):
    """Two blocks in a list, one that runs under two names, a head, and blocks that do not run in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)  # registered first, and run last
        self.stem = nn.Conv2d(3, 4, 3)
        self.body = nn.Sequential(nn.Sequential(Block(), Block()), Block())
        self.unused, self.only_in_training = Block(), Block()
        self.again = self.body[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.body(self.stem(x)))
        if self.training:
            self.only_in_training(x)
        return self.head(x.mean((2, 3)))


class Plain(nn.Module):
    """No blocks at all."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.norm(self.b(self.a(x).relu()).relu()))


def names(model: nn.Module, at: Any = None) -> list[str]:
    return list(chosen(model.eval(), at, layers(model)))


def test_blocks_and_what_the_head_is_given() -> None:
    assert names(Blocks()) == ["body.0.0", "body.0.1", "body.1", "before head"]


def test_without_blocks_each_layer_with_weights() -> None:
    assert names(Plain()) == ["a", "b", "before c"]


def test_a_list_of_layers_is_divided_before_each_one_with_weights() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(4, 2))
    assert names(model) == ["2", "before 6"]  # what 5 returns is what 6 is given


def test_a_model_without_head_ends_with_its_last_block() -> None:
    assert names(nn.Sequential(Block(), Block())) == ["0", "1"]


@pytest.mark.parametrize(
    ("name", "first", "last", "count"),
    [
        ("alexnet", "features.2", "before classifier.6", 7),
        ("resnet18", "layer1.0", "before fc", 9),
        ("vit_b_16", "encoder.layers.encoder_layer_0", "before heads.head", 13),
        ("efficientnet_b0", "features.0", "before classifier.1", 19),
        ("densenet121", "features.pool0", "before classifier", 9),
        ("swin_t", "features.0", "before head", 17),
    ],
)
def test_models_of_torchvision(name: str, first: str, last: str, count: int) -> None:
    with torch.device("meta"):
        model = models.get_model(name).eval()
    found = names(model)
    assert (found[0], found[-1], len(found)) == (first, last, count)


def test_what_a_user_may_ask_for() -> None:
    model = Blocks()
    assert names(model, "stem") == ["stem"]
    assert names(model, ["body.*.conv", "before head"]) == [
        "body.0.0.conv",
        "body.0.1.conv",
        "body.1.conv",
        "before head",
    ]
    assert names(model, "before body[0].*.conv") == ["before body.0.0.conv", "before body.0.1.conv"]
    assert names(model, "ste?:0") == ["stem:0"]
    assert names(model, nn.Conv2d) == ["stem", "body.0.0.conv", "body.0.1.conv", "body.1.conv"]
    assert names(model, [model.body[1], Block, "mean"]) == ["body.1", "body.0.0", "body.0.1", "mean"]
    found = chosen(model, ["before head", "head"], layers(model))
    assert [target.before for target in found.values()] == [True, False]


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ([], "nothing to probe: at=[] holds no target"),
        ("blocks.*", "at='blocks.*': no layer or operation has such a path. print(layers(model)) lists all of them"),
        (nn.LSTM, "at=LSTM: the model runs no layer of this type; it runs: BatchNorm2d, Block, Conv2d, Linear"),
        (3, "at=3: a layer to probe is a path ('layer1'), a pattern ('layer*'), 'before ' and a path"),
        ("before ", "before='' stops at what the model itself is given, where nothing has been computed yet"),
    ],
)
def test_errors(at: Any, said: str) -> None:
    with pytest.raises(TruncateError, match=re.escape(said)):
        names(Blocks(), at)


def test_a_misspelled_layer() -> None:
    with pytest.raises(UnknownTargetError, match="Did you mean 'body'"):
        names(Blocks(), ["boddy.0"])


def test_nothing_with_weights() -> None:
    with pytest.raises(TruncateError, match="no block and no layer with weights was found in this ReLU: name the lay"):
        names(nn.ReLU())


def test_the_last_layer_and_one_item() -> None:
    assert names(Blocks(), ["last", "before last", "body[-1]"]) == ["last", "before last", "body[-1]"]
    model = tiny.Branching().eval()
    example = example_of(model, (torch.ones(2, 3, 8, 8),), None)
    assert chosen(model, "last", layers(model), example)["last"].path == "head"
