"""What the README says of torchvision's own extractor is so, in the version installed."""

from __future__ import annotations

import pytest
import torch
from oracle import capture
from rebuilt import truncate
from torch import Tensor, nn
from torchvision.models import resnet18, vit_b_16
from torchvision.models.feature_extraction import create_feature_extractor


def held(model: nn.Module) -> float:
    """Millions of parameters, as one writes them."""
    return round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1)


def test_half_a_vision_transformer() -> None:
    with torch.device("meta"):
        model = vit_b_16().eval()
    place = "encoder.layers.encoder_layer_5"
    sizes = held(model), held(create_feature_extractor(model, [place])), held(truncate(model, place))
    assert sizes == (86.6, 78.7, 43.3)


def test_an_activation_in_place() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    x = torch.randn(1, 3, 8, 8)
    expected = capture(model, ["0"], x)["0"][-1]
    assert not torch.equal(create_feature_extractor(model, ["0", "1"])(x)["0"], expected)
    assert torch.equal(truncate(model, ["0", "1"])(x)[0], expected)


def test_names_that_end_in_a_number() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.conv_1 = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv_1(self.conv(self.conv(x)))

    model, x = Net(), torch.randn(1, 3, 8, 8)
    seen = capture(model, ["conv", "conv_1"], x)
    assert torch.equal(create_feature_extractor(model, ["conv_1"])(x)["conv_1"], seen["conv"][1])
    assert torch.equal(truncate(model, "conv_1")(x), seen["conv_1"][0])


def test_a_frozen_batch_norm() -> None:
    model = resnet18()
    model.bn1.eval()
    assert not truncate(model, "layer1").bn1.training
    assert not model.bn1.training
    assert create_feature_extractor(model, ["layer1"]).bn1.training
    assert model.bn1.training


def test_a_branch_behind_the_target() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 4)
            self.head = Head()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x))

    class Head(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    model, x = Net(), torch.randn(2, 4)
    with pytest.raises(torch.fx.proxy.TraceError):
        create_feature_extractor(model, ["stem"])
    assert torch.equal(truncate(model, "stem")(x), model.stem(x))
