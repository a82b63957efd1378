"""What torchvision tests its own extractor with: ten places at once, drawn at any depth, forward and backward."""

from __future__ import annotations

import copy
import random
import warnings
from typing import Any

import pytest
import torch
import torchvision
from oracle import equal, hooked, randomize, tensors_in
from rebuilt import truncate
from torch import nn

from truncate import layers

models = torchvision.models

# Chosen for being quick; all others are marked.
SMALL = """
    alexnet googlenet mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf resnet18
    shufflenet_v2_x0_5 squeezenet1_1
"""
HUGE = "vit_h_14 regnet_y_128gf"  # 600 million parameters
NAMES = [name for name in models.list_models(module=models) if name not in HUGE.split()]


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The model in training, small, without the drop of whole samples, and an input for it."""
    options: dict[str, Any] = {"weights": None, "num_classes": 10}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    # The size of the pictures that it is made for, where smaller ones do not do.
    size = 224 if name.startswith(("vit", "maxvit")) else 299 if name == "inception_v3" else 64
    torch.manual_seed(0)
    model = randomize(models.get_model(name, **options)).train()
    for module in model.modules():  # what is left out before a place would shift the random numbers after it
        for option in ("p", "dropout", "attention_dropout"):
            if isinstance(getattr(module, option, None), float):
                setattr(module, option, 0.0)
    return model, torch.randn(2, 3, size, size)


def drawn(model: nn.Module, seed: str) -> list[str]:
    """Ten of all modules and operations that training runs."""
    places = [place for place in layers(model) if place.after is None and not place.mode and place.calls]
    return [place.path for place in random.Random(seed).sample(list(places), min(10, len(places)))]


def gradients(model: nn.Module, outputs: list[Any]) -> dict[str, torch.Tensor | None]:
    model.zero_grad()
    values = [tensor for output in outputs for tensor in tensors_in(output) if tensor.requires_grad]
    if values:
        sum(value.float().mean() for value in values).backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def close(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    """What comes back from ten places is summed up in another order."""
    assert other is not None
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * max(1e-3, float(other.abs().max())))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SMALL.split() else pytest.mark.zoo) for name in NAMES]
)
def test_ten_places(name: str) -> None:
    model, x = make(name)
    places = drawn(model, name)
    whole, twin = copy.deepcopy(model), copy.deepcopy(model)
    modules = {path: whole.get_submodule(path) for path in places if _is_module(whole, path)}
    with hooked(modules) as seen:
        whole(x.clone())
    cut = truncate(model, places)
    outputs = cut(x.clone())
    assert len(outputs) == len(places)
    for path, output in zip(places, outputs):
        if path in modules:
            assert equal(output, seen[path][-1]), path
        else:  # alone, the operation gives the same
            assert equal(output, truncate(copy.deepcopy(twin), path)(x.clone())), path
    found = gradients(model, outputs)
    if len(modules) == len(places):
        expected = gradients(whole, [seen[path][-1] for path in places])
        assert found.keys() == expected.keys()
        assert all(close(gradient, expected[key]) for key, gradient in found.items() if gradient is not None)
    else:
        assert any(gradient is not None for gradient in found.values())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(copy.deepcopy(twin))
    except Exception:  # whatever TorchScript says no to, it says so to the whole model
        return
    script = torch.jit.script(truncate(copy.deepcopy(twin), places))
    again = script(x.clone())
    assert all(map(equal, again, outputs))
    gradients(script, again)


def _is_module(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True
