"""The ways to a layer's output that are compared, each used as its documentation advises.

An extractor takes a model, a place and an example call, and returns a module whose output holds the layer's tensors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from truncate import truncate

Example = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """A module of the model, and how often the model runs it; the last time counts."""

    path: str
    calls: int


@dataclass(frozen=True)
class Extractor:
    name: str
    extract: Callable[[nn.Module, Place, Example], nn.Module]
    applies: Callable[[nn.Module, Place], bool] = lambda model, place: True


def by_torchvision(model: nn.Module, place: Place, example: Example) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor

    return _traced(create_feature_extractor, model, place, example)


def by_timm(model: nn.Module, place: Place, example: Example) -> nn.Module:
    from timm.layers import create_feature_extractor

    return _traced(create_feature_extractor, model, place, example)


def _traced(create: Callable[..., nn.Module], model: nn.Module, place: Place, example: Example) -> nn.Module:
    """These name the later calls of a layer by number, and are told by `concrete_args` what is no input."""
    leaf = not list(model.get_submodule(place.path).children())
    name = f"{place.path}_{place.calls - 1}" if leaf and place.calls > 1 else place.path
    try:
        return create(model, [name])
    except Exception:
        signature = inspect.signature(model.forward)
        given = signature.bind_partial(*example[0], **example[1]).arguments
        rest = {
            key: parameter.default
            for key, parameter in signature.parameters.items()
            if key not in given and parameter.default is not parameter.empty
        }
        if not rest:
            raise
        return create(model, [name], concrete_args=rest)


def feature_places(model: nn.Module) -> list[str]:
    """The places that timm lists as features of a model."""
    info = getattr(model, "feature_info", [])
    return [item["module"] for item in getattr(info, "info", info)]


def by_features_only(model: nn.Module, place: Place, example: Example) -> nn.Module:
    """What timm makes of the model's name, given the tensors of this model."""
    import timm

    index = feature_places(model).index(place.path)
    made = timm.create_model(model.default_cfg["architecture"], features_only=True, out_indices=(index,))
    tensors = {path.replace(".", "_"): (holder, name) for path, holder, name in _tensors(model)}
    for path, holder, name in list(_tensors(made)):
        owner, _ = tensors[path.removeprefix("model.").replace(".", "_")]
        for kind in ("_parameters", "_buffers"):
            if name in getattr(owner, kind):
                getattr(holder, kind)[name] = getattr(owner, kind)[name]
    return made.train(model.training)


def _tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Each parameter and buffer: its path, the module that holds it, its name there."""
    for path, module in model.named_modules():
        for name in [*module._parameters, *module._buffers]:
            yield f"{path}.{name}" if path else name, module, name


def by_slicing(model: nn.Module, place: Place, example: Example) -> nn.Module:
    """``nn.Sequential(*list(model.children())[:-1])``, as tutorials write it."""
    names = [name for name, _ in model.named_children()]
    return nn.Sequential(*list(model.children())[: names.index(place.path) + 1]).train(model.training)


class _Second(nn.Module):
    """The second of the two things that a module returns: not the model's own output, but what was asked for."""

    def __init__(self, made: nn.Module) -> None:
        super().__init__()
        self.made = made

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.made(*args, **kwargs)[1]


def by_surgeon_extract(model: nn.Module, place: Place, example: Example) -> nn.Module:
    """``surgeon_pytorch.Extract``, which traces; told to share the modules, as truncate does.

    It knows operations and no blocks: of a block it is given the last operation inside.
    """
    from surgeon_pytorch import Extract, get_nodes

    nodes = get_nodes(model)
    inside = [node for node in nodes if node.startswith(f"{place.path}.")]
    return Extract(model, node_out=place.path if place.path in nodes or not inside else inside[-1], share_modules=True)


def by_surgeon_inspect(model: nn.Module, place: Place, example: Example) -> nn.Module:
    """``surgeon_pytorch.Inspect``, which hooks."""
    from surgeon_pytorch import Inspect

    return Inspect(model, layer=place.path, keep_output=False)


def by_torchextractor(model: nn.Module, place: Place, example: Example) -> nn.Module:
    from torchextractor import Extractor as Extracts

    return _Second(Extracts(model, [place.path]))


class Hooked(nn.Module):
    """A model with a hook that keeps what one layer returned."""

    def __init__(self, model: nn.Module, path: str) -> None:
        super().__init__()
        self.model = model
        model.get_submodule(path).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self.kept = output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.model(*args, **kwargs)
        return self.kept


PLAIN = Extractor("truncate", lambda model, place, example: truncate(model, place.path))
ON_EXAMPLE = Extractor(
    "truncate, where it asks for an example", lambda model, place, example: truncate(model, place.path, *example)
)
PEERS = (
    Extractor("torchvision create_feature_extractor", by_torchvision),
    Extractor("timm create_feature_extractor", by_timm, lambda model, place: hasattr(model, "default_cfg")),
    Extractor("timm features_only", by_features_only, lambda model, place: place.path in feature_places(model)),
    Extractor("surgeon-pytorch Extract", by_surgeon_extract),
    Extractor("surgeon-pytorch Inspect", by_surgeon_inspect),
    Extractor("torchextractor", by_torchextractor),
    Extractor("a forward hook", lambda model, place, example: Hooked(model, place.path)),
    Extractor("nn.Sequential of children", by_slicing, lambda model, place: place.path in dict(model.named_children())),
)
EXTRACTORS = (PLAIN, ON_EXAMPLE, *PEERS)
