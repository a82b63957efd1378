"""What a network holds, and what a pass takes, that computes features in one way or another."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from rich.progress import track
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

from benchmarks import report
from benchmarks.extractors import Hooked
from truncate import truncate

PLACES = {"vgg16": "features.16", "resnet50": "layer2", "vit_b_16": "encoder.layers.encoder_layer_3"}


WAYS: dict[str, Callable[[nn.Module, str], nn.Module]] = {
    "truncate": truncate,
    "create_feature_extractor": lambda model, place: create_feature_extractor(model, [place]),
    "a hook on the whole model": Hooked,
}


def peak(task: Callable[[], Any]) -> int:
    """The most bytes that tensors took while a task ran, over what they took before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        task()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


@torch.no_grad()
def memory(count: int) -> tuple[str, list[dict[str, Any]]]:
    batch = torch.randn(count, 3, 224, 224)
    rows, results = [], []
    for name, place in track(PLACES.items(), "Memory"):
        taken = {}
        for way, make in WAYS.items():
            part = make(get_model(name).eval(), place)
            part(batch)
            taken[way] = sum(t.nbytes for t in part.state_dict().values()), peak(lambda part=part: part(batch))
        for way, (weights, run) in taken.items():
            ratio = (weights + run) / sum(taken["truncate"])
            rows.append((name, f"`{place}`", way, f"{weights / 1e6:.1f}", f"{run / 1e6:.1f}", f"{ratio:.1f}"))
            results.append({"model": name, "place": place, "way": way, "weights": weights, "run": run, "ratio": ratio})
    columns = ("model", "place", "way", "weights, MB", "one pass beside them, MB", "×")
    text = f"""### Memory

What the weights take, and the most that the tensors of one pass of {count} pictures take beside them. `×` says how many
times as much both take together as with truncate.

{report.table(columns, rows)}"""
    return text, results
