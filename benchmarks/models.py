"""The models that are cut, by library. Most are those that the tests cut too, with their inputs.

All weights are random and nothing is downloaded.
"""

from __future__ import annotations

import linecache
import random
from collections.abc import Callable

import torchvision
from torch import nn
from zoo import Entry

LARGEST = 150_000_000  # parameters; the classifiers above are vit_l, vit_h, convnext_large and regnet_y_128gf
NETWORKS = 100


def classification() -> dict[str, Entry]:
    """Torchvision's classification models, the smallest first."""
    from test_zoo_vision import CLASSIFIERS, images, make, scalable

    def size(name: str) -> int:
        return torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]

    def entry(name: str) -> Entry:
        return CLASSIFIERS.get(name) or Entry(make(name), images(3, 224, 224) if "vit" in name else scalable(64))

    names = torchvision.models.list_models(module=torchvision.models)
    return {name: entry(name) for name in sorted(names, key=size) if size(name) <= LARGEST}


def segmentation() -> dict[str, Entry]:
    from test_zoo_vision import SEGMENTATION

    return SEGMENTATION


def video() -> dict[str, Entry]:
    from test_zoo_vision import VIDEO

    return VIDEO


def detection() -> dict[str, Entry]:
    """Torchvision's detection models, which take lists of pictures, and its models of optical flow, which take two."""
    from test_zoo_vision import DETECTION, FLOW

    return {**DETECTION, **FLOW}


def families() -> dict[str, Entry]:
    """A small variant of each module of timm that has one."""
    from test_zoo_vision import LARGER, SHRUNK, SMALL, family

    return {**dict(family(text, 3) for text in SMALL + LARGER), **SHRUNK}


def transformers() -> dict[str, Entry]:
    """Tiny configurations of architectures of transformers, called with keywords."""
    import transformers as hf
    from test_zoo_language import ARCHITECTURES

    hf.logging.set_verbosity_error()
    return ARCHITECTURES


def networks() -> dict[str, Entry]:
    """Networks written at random: with branches on values, in-place work, nested results, shared modules."""
    import torch

    def made(seed: int) -> nn.Module:
        import test_properties as properties

        author = properties.Author(random.Random(seed).choice, operations(properties))
        expression, _ = author.block(2)
        file = f"<network {seed}>"
        linecache.cache[file] = (len(author.source), None, author.source.splitlines(keepends=True), file)
        scope = {**vars(properties), "__name__": "drawn"}
        exec(compile(author.source, file, "exec"), scope)
        return eval(expression, scope)

    def operations(properties: object) -> list[str]:
        names = ("PURE", "IN_PLACE", "BY_VALUE")
        parts = [part for name in names for part in getattr(properties, name).strip().split("\n\n")]
        return [part for part in parts if "self.count" not in part]  # each run is to return the same

    def entry(seed: int) -> Entry:
        return Entry(lambda: made(seed), lambda size: ((), {"x": torch.randn(2 + size, 3 + size, 4)}), exact=False)

    return {f"network {seed}": entry(seed) for seed in range(NETWORKS)}


LIBRARIES: dict[str, Callable[[], dict[str, Entry]]] = {
    "torchvision": classification,
    "segmentation": segmentation,
    "video": video,
    "detection": detection,
    "timm": families,
    "transformers": transformers,
    "random": networks,
}
