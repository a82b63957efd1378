"""One tiny model of each architecture of transformers that can be built without a download."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
from typing import Any

import torch
from torch import nn

from benchmarks.wild.calls import found
from benchmarks.wild.made import SEED, Made, Make, randomised
from benchmarks.wild.tiny import shrunk

LARGEST = 40_000_000  # parameters
# Where the generic way fails: fields that are set after shrinking. A dot goes into an inner configuration.
OVERRIDES: dict[str, dict[str, Any]] = {
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "autoformer": {"prediction_length": 8, "context_length": 16},
    "informer": {"prediction_length": 8, "context_length": 16},
    "time_series_transformer": {"prediction_length": 8, "context_length": 16},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4},
    "hy_v4_vl": {"text_config.rope_parameters.mrope_section": [2, 1, 1]},
    "hy_v4_vl_text": {"rope_parameters.mrope_section": [2, 1, 1]},
    "molmo2": {"adapter_config.vision_feature_layer": [1, 0]},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 16},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 16},
}


def entries() -> dict[str, Make]:
    """Each type of model by its base class (types that share one come once), and then those without a base class."""
    from transformers.models.auto import configuration_auto, modeling_auto

    classes = {kind: _first(name) for kind, name in modeling_auto.MODEL_MAPPING_NAMES.items()}
    once = {name: kind for kind, name in reversed(classes.items())}
    kinds = sorted(once.values(), key=list(classes).index)
    rest = [kind for kind in configuration_auto.CONFIG_MAPPING_NAMES if kind not in classes]
    return {kind: functools.partial(make, kind) for kind in kinds + rest}


def _first(name: str | tuple[str, ...]) -> str:
    return name if isinstance(name, str) else name[0]


def make(kind: str) -> Made:
    """Shrunk in width and depth, or in depth alone, or as it comes: the first that is small enough and runs."""
    import transformers

    transformers.logging.set_verbosity_error()
    logging.disable()
    default = transformers.CONFIG_MAPPING[kind]
    data = default().to_dict()
    override = OVERRIDES.get(kind, {})
    reasons = []
    for scheme in ("small", "even", "shallow", None):
        try:
            fields = _set(shrunk(data, scheme) if scheme else data, override)
            config = default.from_dict(fields) if scheme or override else default()
            _fit_sections(config)
            model = _built(kind, config, small=scheme in ("small", "even"))
            call, others = found(model, config)
            return Made(model, *call, others)
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {error}"[:600])
    raise ValueError(" // ".join(reasons[:2]))


def _set(fields: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    for path, value in override.items():
        *outer, name = path.split(".")
        inner = functools.reduce(lambda inner, key: inner[key], outer, fields)
        inner[name] = value
    return fields


def _fit_sections(config: Any) -> None:
    """Divides rotary embeddings of several axes anew, as heads have become smaller."""
    for inner in [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]:
        rope = getattr(inner, "rope_parameters", None)
        if rope is not None and "mrope_section" in (getattr(inner, "ignore_keys_at_rope_validation", None) or ()):
            size = getattr(inner, "head_dim", None) or inner.hidden_size // inner.num_attention_heads
            half = int(size * rope.get("partial_rotary_factor", 1)) // 2
            rope["mrope_section"] = [half - half // 4 * 2, half // 4, half // 4]


def _built(kind: str, config: Any, small: bool) -> nn.Module:
    build = _class(kind, config)
    with torch.device("meta"):
        try:
            size = sum(parameter.numel() for parameter in build(config).parameters())
        except Exception:  # not all of them can be built there
            if not small:
                raise
            size = 0
    if size > LARGEST:
        raise ValueError(f"{size / 1e6:.0f} million parameters")
    torch.manual_seed(SEED)
    return randomised(build(config).float().eval())


def _class(kind: str, config: Any) -> Any:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    if kind in MODEL_MAPPING_NAMES:
        return getattr(transformers, _first(MODEL_MAPPING_NAMES[kind]))
    module = importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, transformers.PreTrainedModel)
        and value.__module__ == module.__name__
        and value.config_class is type(config)
        and not value.__name__.endswith("PreTrainedModel")
    ]
    if not own:
        raise ValueError("no model class")
    return min(own, key=lambda value: (not value.__name__.endswith("Model"), value.__name__))
