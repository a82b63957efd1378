"""The collection, by library."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.wild import architectures, dynamics, sequences, vision
from benchmarks.wild.made import Make

LIBRARIES: dict[str, Callable[[], dict[str, Make]]] = {
    "diffusers": vision.diffusers,
    "monai": vision.monai,
    "ultralytics": vision.ultralytics,
    "kornia": vision.kornia,
    "vit-pytorch": vision.vit_pytorch,
    "segmentation-models-pytorch": vision.segmentation,
    "open-clip": vision.open_clip,
    "classifiers": vision.classifiers,
    "x-transformers": sequences.x_transformers,
    "lucidrains": sequences.lucidrains,
    "speechbrain": sequences.speechbrain,
    "sound": sequences.sound,
    "language": sequences.language,
    "torch-geometric": dynamics.torch_geometric,
    "flows": dynamics.flows,
    "equations": dynamics.equations,
    "spikes": dynamics.spikes,
    "fields": dynamics.fields,
    "tables": dynamics.tables,
    "transformers": architectures.entries,
}
DISTRIBUTIONS = {
    name: [name] for name in ("transformers", "diffusers", "monai", "ultralytics", "kornia", "speechbrain")
}
LEFT_OUT: dict[str, str] = {}
