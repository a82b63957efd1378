"""Models of Hugging Face's transformers, from a local folder or from what its cache has. Nothing is downloaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from truncate._cli import models
from truncate._errors import NotUsable, explained, need

_RANDOM = "random weights"
_TOKENS = 12  # in the example of a text
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def build(name: str, weights: str | None) -> models.Built:
    """The model that a folder or a name means, with the weights that are there, or else random ones."""
    if weights is not None:
        raise NotUsable(
            f"hf:{name} uses the weights of its folder, or those in the cache: leave out --weights {weights}. "
            f"{models.LOCAL}"
        )
    transformers = need("transformers", "a model of Hugging Face", "transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = _folder(name)
    here = {"local_files_only": True, "trust_remote_code": False}
    torch.manual_seed(0)  # the import may have drawn random numbers
    with explained(f"cannot build hf:{name}"):
        if any(Path(folder, file).exists() for file in _WEIGHTS):
            options = {**here, "dtype": torch.float32, "output_loading_info": True}
            model, info = transformers.AutoModel.from_pretrained(folder, **options)
            untrained, told = frozenset(info["missing_keys"]), f"the weights in {name}"
        else:
            config = transformers.AutoConfig.from_pretrained(folder, **here)
            model = transformers.AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
            untrained, told = frozenset(model.state_dict()), _RANDOM
    trained_by = _trained_by(name) if told == _RANDOM else "its checkpoint holds none of these"
    built = models.Built(model, told, _example(model, name), None, untrained, trained_by)
    built.no_images = f"hf:{name} takes {model.main_input_name} and not images; in Python, extract() takes any batches"
    if model.main_input_name == "pixel_values":
        built.no_images = (
            f"{name} holds no preprocessor_config.json, which says how its images are prepared: copy it from the "
            "source of the weights"
        )
        if Path(folder, "preprocessor_config.json").exists():
            with explained(f"cannot prepare images for hf:{name}"):
                built.transform = Prepared(transformers.AutoImageProcessor.from_pretrained(folder, **here))
        elif told == _RANDOM:  # for which all ways are the same
            built.transform = models.imagenet(_sides(model.config)[0])
    return built


def _folder(name: str) -> str:
    """The folder that is meant, or that the cache has for a name. It holds a configuration."""
    path = Path(name)
    if not name or (not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1)):
        raise NotUsable(f"no folder {name!r}: after hf: comes a folder that holds config.json, or a name such as gpt2")
    if path.is_file():
        raise NotUsable(f"hf:{name} is a file: name its folder, hf:{path.parent}")
    if path.is_dir():
        if not (path / "config.json").is_file():
            held = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
            raise NotUsable(f"hf:{name} is a folder without config.json, so it is not a model (it holds {held})")
        return name
    from huggingface_hub import try_to_load_from_cache

    with explained(f"not the name of a model: {name!r}"):
        cached = try_to_load_from_cache(name, "config.json")
    if not isinstance(cached, str):
        raise NotUsable(
            f"hf:{name} is neither a folder here nor in the cache of Hugging Face, and nothing is downloaded here. "
            f"`hf download {name}` downloads it, once; or name the folder where it is: hf:path/to/{path.name}"
        )
    return str(Path(cached).parent)  # by its name, transformers asks the network for more


def _trained_by(name: str) -> str:
    if Path(name).is_dir():
        return f"{_WEIGHTS[0]} next to {Path(name, 'config.json')} would provide trained ones"
    return f"`hf download {name}` downloads trained ones"


class Prepared:
    """An image as the model's own processor prepares it."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, image: Any) -> Tensor:
        prepared: Tensor = self._processor(images=image, return_tensors="pt")["pixel_values"][0]
        return prepared

    def __repr__(self) -> str:
        return str(self._processor)


# -- the example -----------------------------------------------------------------------------------------------------


def _example(model: Any, name: str) -> tuple[Any, ...]:
    """Random inputs of the sizes in the configuration: the main one, and what goes with it, as positional arguments."""
    config = model.config
    known: dict[str, Callable[[], Tensor]] = {
        "input_ids": lambda: _tokens(config),
        "decoder_input_ids": lambda: _tokens(config),
        "pixel_values": lambda: models.random_numbers(1, _size(config, "num_channels", 3), *_sides(config)),
        "input_values": lambda: models.random_numbers(1, 16_000),  # a second of sound
        "input_features": lambda: models.random_numbers(
            1, _size(config, "num_mel_bins", 80), 2 * _size(config, "max_source_positions", 1500)
        ),
    }
    main = model.main_input_name
    if main not in known:
        raise NotUsable(
            f"hf:{name} takes {main}, and the command line has no example of that: cut it in Python, with "
            "truncate(model, upto, args=...)"
        )
    wanted = {main}
    wanted |= {"decoder_input_ids"} if getattr(config, "is_encoder_decoder", False) else set()
    wanted |= {"pixel_values"} if hasattr(config, "vision_config") else set()
    signature = inspect.signature(model.forward)
    names = [parameter for parameter in signature.parameters if parameter in wanted]
    given = {parameter: known[parameter]() for parameter in names}
    args = [given.get(parameter) for parameter in signature.parameters]
    while args[-1] is None:
        args.pop()
    return tuple(args)


def _tokens(config: Any) -> Tensor:
    most = _size(config, "vocab_size", 100)
    return torch.randint(most, (1, _TOKENS), generator=torch.Generator().manual_seed(0), device="cpu")


def _sides(config: Any) -> tuple[int, int]:
    size = _size(config, "image_size", 224)
    return (size[0], size[-1]) if isinstance(size, (list, tuple)) else (size, size)


def _size(config: Any, name: str, otherwise: int) -> Any:
    """A number of a configuration, or of one of those in it."""
    inside = [getattr(config, part, None) for part in getattr(config, "sub_configs", {})]
    found = [getattr(part, name, None) for part in (config, *inside)]
    return next((size for size in found if size is not None), otherwise)
