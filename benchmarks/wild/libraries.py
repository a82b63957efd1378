"""The collection, by library."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.wild import architectures, diffusion, dynamics, fields, speech, text, vision, vit
from benchmarks.wild.made import Make

LIBRARIES: dict[str, Callable[[], dict[str, Make]]] = {
    "diffusers": diffusion.diffusers,
    "monai": vision.monai,
    "ultralytics": vision.ultralytics,
    "kornia": vision.kornia,
    "vit-pytorch": vit.vit_pytorch,
    "segmentation-models-pytorch": vision.segmentation,
    "open-clip": vision.open_clip,
    "classifiers": vit.classifiers,
    "x-transformers": text.x_transformers,
    "lucidrains": text.lucidrains,
    "speechbrain": speech.speechbrain,
    "sound": speech.sound,
    "language": text.language,
    "torch-geometric": fields.torch_geometric,
    "flows": dynamics.flows,
    "equations": dynamics.equations,
    "spikes": dynamics.spikes,
    "fields": fields.fields,
    "tables": fields.tables,
    "transformers": architectures.entries,
}
DISTRIBUTIONS = {
    name: [name] for name in ("transformers", "diffusers", "monai", "ultralytics", "kornia", "speechbrain")
}
# What was looked at and is not here.
LEFT_OUT: dict[str, str] = {
    "braindecode": "its models are imported with mne-bids, which was not installed",
    "descript-audio-codec": "asks for further packages for sound",
    "enformer-pytorch, tab-transformer-pytorch, open_clip CoCa": "install and import; their tiny sizes did not run",
    "kornia MKDDescriptor": "loads weights when it is built",
    "schnetpack": "asks for matscipy to be imported, which was not installed",
    "titans-pytorch": "asks for assoc-scan, which was not installed",
    "torchtune": "asks for torchao to be imported, which was not installed",
    "botorch, geoopt, timesfm, torch-harmonics": "install and import; no model of theirs is written down yet",
    "bitsandbytes, deepspeed, mamba-ssm": "not tried: they need a GPU",
    "escnn, fastai, torchtext, tsai": "not tried",
}
