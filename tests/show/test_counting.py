"""Multiply-adds are those that are published, also where torch computes with kernels that it has no formula for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from truncate._show import multiply_adds

PUBLISHED = (
    "alexnet vgg16 resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 squeezenet1_1 inception_v3 googlenet "
    "mobilenet_v2 mobilenet_v3_small shufflenet_v2_x1_0 mnasnet1_0 efficientnet_b0 convnext_tiny vit_b_16 vit_b_32 "
    "swin_t maxvit_t"
).split()


@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
@pytest.mark.parametrize("name", PUBLISHED)
def test_they_are_what_torchvision_publishes(name: str) -> None:
    weights = next(iter(models.get_model_weights(name)))
    with torch.device("meta"):
        model = models.get_model(name, weights=None).eval()
    side = weights.transforms().crop_size[0]
    counted = multiply_adds(model, [""], (torch.empty(1, 3, side, side, device="meta"),), {})
    assert counted is not None
    assert counted[""] / 1e9 == pytest.approx(weights.meta["_ops"], abs=0.001)


class Branching(nn.Module):
    """Does not run on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x if x.sum() == x.sum() else -x)


def test_what_branches_on_values_is_counted_while_it_runs() -> None:
    model, x = Branching().eval(), torch.randn(1, 5, 8)
    assert multiply_adds(model, [""], (x,), {}) is None
    counted = multiply_adds(model, ["", "layer.linear1"], (x,), {}, run=True)
    # in and out of attention, its two products, and two linear layers
    assert counted == {"": 5 * 8 * (3 * 8 + 8) + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16, "layer.linear1": 5 * 8 * 16}
    assert torch.backends.mha.get_fastpath_enabled()
