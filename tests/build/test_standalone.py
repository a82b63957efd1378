"""Modules as Python source that stands by itself: executed with the state dict, it gives what the module gives."""

from __future__ import annotations

import builtins
import re
from typing import Any

import pytest
import torch
import torchvision
from gallery import GALLERY
from oracle import equal, randomize, tensors_in
from places import prepared
from torch import Tensor, nn

from truncate import CannotFollowError, FixedArgumentError, TruncateError, source, split, truncate


def executed(text: str) -> nn.Module:
    """Where this library cannot be imported."""

    def imported(name: str, *how: Any) -> Any:
        assert name.partition(".")[0] != "truncate"
        return __import__(name, *how)

    names: dict[str, Any] = {"__builtins__": {**vars(builtins), "__import__": imported}}
    exec(text, names)
    model: nn.Module = names["model"]
    return model


def same_again(module: nn.Module, *args: Any, **kwargs: Any) -> str:
    text = source(module, args, kwargs)
    twin = executed(text)
    twin.load_state_dict(module.state_dict())
    for training in (False, True):
        torch.manual_seed(0)
        expected = module.train(training)(*args, **kwargs)
        torch.manual_seed(0)
        assert equal(list(tensors_in(twin.train(training)(*args, **kwargs))), list(tensors_in(expected)))
    return text


def test_alexnet() -> None:
    text = same_again(truncate(torchvision.models.alexnet(), "classifier.5"), torch.randn(2, 3, 96, 96))
    assert (
        text
        == """import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TruncatedAlexNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(9216, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor):
        x = self.features(x)
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        return self.classifier(x)


model = TruncatedAlexNet()
"""
    )


def test_resnet() -> None:
    model = randomize(torchvision.models.resnet18(num_classes=10))
    text = same_again(truncate(model, {"c2": "layer2.0.conv2", "c3": "layer3"}), torch.randn(2, 3, 64, 64))
    assert text.count("class ") == 5  # the model, its stage, three kinds of blocks
    assert "for _ in range(2)" in text  # two equal blocks


def test_resnet_behind_a_cut() -> None:
    back = split(randomize(torchvision.models.resnet18(num_classes=10)), "layer3.0.conv1", crossing="pass")[1]
    same_again(back, (torch.randn(2, 256, 4, 4), torch.randn(2, 128, 8, 8)))


def test_vit() -> None:
    vit = torchvision.models.VisionTransformer(32, 8, 3, 4, 24, 48, num_classes=5)
    text = same_again(truncate(randomize(vit), "encoder.layers.encoder_layer_1"), torch.randn(2, 3, 32, 32))
    assert "nn.MultiheadAttention(24, 4, " in text


def test_bert() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48
    )
    bert = transformers.BertModel(config)
    tokens = torch.randint(99, (2, 12))
    with torch.no_grad():
        cut = truncate(bert, "encoder.layer.1", args=(tokens,))
    text = same_again(cut, tokens)
    assert "class BertSelfAttention(nn.Module):" in text
    with pytest.raises(CannotFollowError):
        source(cut)


# What has no source that stands by itself, and the words that say why.
REFUSED = {
    "HookedChildren": "'inner.aside' (Linear) has hooks",
    "HookedItself": "'inner' (HookedItself) has hooks",
    "HookedSharedBlock": "'inner.block' (Residual) has hooks",
    "OldWeightNorm": "has hooks",
    "Parametrized": "cannot follow the forward of 'inner.out.parametrizations.weight.0' (_SpectralNorm)",
    "PlainTensors": "'inner' (PlainTensors) holds tensors in the attribute 'anchors'",
    "ReadsAttributeOfDeadCall": "'inner.attention' (Remembers) holds tensors in the attribute 'weights'",
    "ScriptedChild": "'inner.scripted' (RecursiveScriptModule) was compiled by TorchScript",
    "UnregisteredModule": "reads or sets 'constant_0', which is neither a parameter nor a buffer",
}


@pytest.mark.parametrize("name", sorted(GALLERY))
def test_gallery(name: str) -> None:
    spec = GALLERY[name]
    holder = Holder(spec.make())
    if name in REFUSED:
        with pytest.raises(TruncateError, match=re.escape(REFUSED[name])):
            source(holder)
        return
    twin = executed(source(holder))
    twin.load_state_dict(holder.state_dict())
    for training in (False, True):
        args, kwargs = prepared(spec)
        expected = holder.inner.train(training)(*args, **kwargs)
        args, kwargs = prepared(spec)
        assert equal(twin.inner.train(training)(*args, **kwargs), expected)


class Scales(nn.Module):
    """Returns what a later operation overwrites, as a dict, in training otherwise; one argument may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, scale: float = 1.0, mask: Tensor | None = None) -> Any:
        x = self.a(x)
        if self.training:
            x = x + 1
        if mask is not None:
            x = x * mask
        y = {"y": x * scale}
        x.add_(1)
        return self.b(x) + y["y"]


@pytest.mark.parametrize("upto", ["a", "b", {"a": "a", "sum": "add:-1"}])
@pytest.mark.parametrize("example", [False, True])
def test_an_optional_argument(upto: Any, example: bool) -> None:
    model, x = Scales(), torch.randn(2, 4)
    cut = truncate(model, upto, args=(x,)) if example else truncate(model, upto)
    twin = executed(same_again(cut, x))
    for error in (FixedArgumentError, TypeError):
        with pytest.raises(error, match="this module was cut with scale = 1.0"):
            (cut if error is FixedArgumentError else twin)(x, 2.0)
    with pytest.raises(Exception, match="this module was cut with mask = None"):
        twin(x, 1.0, x)


def test_what_is_no_module() -> None:
    with pytest.raises(TruncateError, match="source takes a torch.nn.Module, but got 'alexnet' of type str"):
        source("alexnet")  # type: ignore[arg-type]


class Holder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Tensor, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)
