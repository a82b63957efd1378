"""Cuts with several outputs as backbones of torchvision's detection and segmentation models, one training step each."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from oracle import capture, equal, parameters_needed, randomize, unexpected_parameters
from rebuilt import truncate
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small, resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.segmentation import DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from truncate import layers

FAMILIES = {
    "resnet18": (resnet18, {"0": "layer1", "1": "layer2", "2": "layer3"}),
    "mobilenet_v3_small": (mobilenet_v3_small, {"0": "features.1", "1": "features.3", "2": "features.8"}),
}
family = pytest.mark.parametrize(("make", "places"), FAMILIES.values(), ids=FAMILIES)
IMAGES = (2, 3, 64, 64)


class Pyramid(nn.Module):
    """What torchvision's BackboneWithFPN is, around a cut."""

    def __init__(self, body: nn.Module, in_channels: list[int], out_channels: int = 16) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(in_channels, out_channels, LastLevelMaxPool())
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(images))


def channels(model: nn.Module, places: dict[str, str]) -> list[int]:
    shapes = {place.path: place.shape for place in layers(model, args=(torch.zeros(IMAGES),))}
    return [shapes[path][1] for path in places.values()]


def detector(backbone: nn.Module, levels: int) -> FasterRCNN:
    anchors = AnchorGenerator(tuple((8 * 2**level,) for level in range(levels)), ((0.5, 1.0, 2.0),) * levels)
    return FasterRCNN(backbone, num_classes=3, rpn_anchor_generator=anchors, min_size=64, max_size=64)


def step(model: nn.Module, loss: Tensor) -> None:
    """One step of training, in which the loss reaches every parameter and moves each of the backbone's convolutions."""
    assert loss.isfinite()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    optimizer.zero_grad()
    loss.backward()
    missed = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missed
    weights = [module.weight for module in model.backbone.modules() if isinstance(module, nn.Conv2d)]
    before = [weight.detach().clone() for weight in weights]
    optimizer.step()
    assert len(weights) > 5 and not any(map(torch.equal, before, weights))


def check_cut(model: nn.Module, body: nn.Module, places: dict[str, str], deepest: str) -> None:
    """That the cut holds no more than is needed, and returns what hooks on the model capture, in the order asked."""
    images = torch.randn(IMAGES)
    needed = parameters_needed(model, deepest, images)
    assert unexpected_parameters(model, body, needed, deepest) == []
    assert len(list(body.modules())) < len(list(model.modules()))
    untouched = copy.deepcopy(model).eval()
    with torch.no_grad():
        seen = capture(untouched, list(places.values()), images)
        features = body.eval()(images)
    assert list(features) == list(places)
    assert all(equal(features[key], seen[path][-1]) for key, path in places.items())
    body.train()


@family
def test_faster_rcnn(make, places) -> None:
    model = randomize(make())
    body = truncate(model, upto=places)
    check_cut(model, body, places, places["2"])
    detect = detector(Pyramid(body, channels(model, places)), levels=4)
    corners = torch.rand(2, 3, 2) * 30
    targets = [
        {"boxes": torch.cat([corner, corner + 5 + torch.rand(3, 2) * 25], 1), "labels": torch.tensor([1, 2, 1])}
        for corner in corners
    ]
    detect.train()
    losses = detect(list(torch.rand(IMAGES)), targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    step(detect, sum(losses.values()))


@family
def test_deeplab(make, places) -> None:
    places = {"out": places["2"], "aux": places["1"]}  # the deeper one first
    model = randomize(make())
    body = truncate(model, upto=places)
    check_cut(model, body, places, places["out"])
    out, aux = channels(model, places)
    segment = DeepLabV3(body, DeepLabHead(out, 4), FCNHead(aux, 4)).train()
    masks = torch.randint(4, (2, 64, 64))
    scores = segment(torch.randn(IMAGES))
    assert scores["out"].shape == scores["aux"].shape == (2, 4, 64, 64)
    step(segment, F.cross_entropy(scores["out"], masks) + 0.5 * F.cross_entropy(scores["aux"], masks))


@family
def test_feature_pyramid(make, places) -> None:
    model = randomize(make())
    pyramid = Pyramid(truncate(model, upto=places), channels(model, places)).train()
    maps = pyramid(torch.randn(IMAGES))
    assert list(maps) == ["0", "1", "2", "pool"]
    holder = nn.Module()
    holder.backbone = pyramid
    step(holder, sum(features.square().mean() for features in maps.values()))


def test_what_torchvision_finds_with_its_own_backbone() -> None:
    """The same maps, and the same boxes."""
    make, places = FAMILIES["resnet18"]
    model = randomize(make()).eval()
    theirs = BackboneWithFPN(model, {path: key for key, path in places.items()}, channels(model, places), 16).eval()
    ours = Pyramid(truncate(model, upto=places), channels(model, places)).eval()
    ours.fpn = theirs.fpn
    images = torch.rand(IMAGES)
    with torch.no_grad():
        assert list(ours(images)) == list(theirs(images)) and equal(ours(images), theirs(images))
        detect = detector(ours, levels=4).eval()
        found = detect(list(images))
        detect.backbone = theirs
        assert equal(found, detect(list(images))) and sum(map(len, (each["boxes"] for each in found)))


@pytest.mark.filterwarnings("ignore:RCNN always returns a:UserWarning")
def test_backbones_script() -> None:
    make, places = FAMILIES["resnet18"]
    model = randomize(make()).eval()
    pyramid = Pyramid(truncate(model, upto=places), channels(model, places)).eval()
    segment = DeepLabV3(truncate(model, upto={"out": "layer3"}), DeepLabHead(256, 4)).eval()
    images = torch.rand(IMAGES)
    with torch.no_grad():
        for backbone in (pyramid, segment):
            assert equal(torch.jit.script(backbone)(images), backbone(images))
        detect = detector(pyramid, levels=4).eval()
        _, found = torch.jit.script(detect)(list(images))
        assert equal(found, detect(list(images)))


def test_an_ordered_dict_is_asked_for_in_the_same_way() -> None:
    model = resnet18().eval()
    ordered = truncate(model, upto=OrderedDict([("deep", "layer2"), ("shallow", "layer1")]))
    assert list(ordered(torch.randn(IMAGES))) == ["deep", "shallow"]
