"""Calls that a model of transformers takes, found by the names of its forward's arguments."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from oracle import tensors_in
from torch import nn

from benchmarks.wild.made import SEED, Call
from benchmarks.wild.tiny import SIDE

TRIES = 36
LENGTHS = (12, 17)
Kwargs = dict[str, Any]


class Inputs:
    """What each argument may be given, in the order in which it is tried; of two sizes."""

    def __init__(self, config: Any, size: int) -> None:
        self.fields = dict(_fields(config.to_dict()))
        self.config, self.batch, self.length = config, 2 + size, LENGTHS[size]
        self.long = 1 + size

    def field(self, *names: str, default: Any) -> Any:
        found = next((self.fields[name] for name in names if self.fields.get(name) is not None), default)
        return found if type(found) is type(default) else found[0] if isinstance(found, list) else default

    def ids(self, length: int, special: int = 0) -> torch.Tensor:
        vocabulary = self.field("vocab_size", "encoder_vocab_size", "text_vocab_size", "codebook_size", default=99)
        low, high = (30, 76) if vocabulary > 76 else (min(4, vocabulary - 1), vocabulary)
        ids = torch.randint(low, high, (self.batch, length))
        token = next((self.fields[n] for n in ("image_token_id", "image_token_index", "audio_token_id")
                      if self.fields.get(n) is not None), None)  # fmt: skip
        if special and type(token) is int:
            ids = torch.cat([ids[:, :2], torch.full((self.batch, special), token), ids[:, 2:]], 1)
        return ids

    def images(self, *shape: int) -> torch.Tensor:
        return torch.randn(self.batch, *shape)

    def of(self, name: str, special: int = 0) -> list[Callable[[], Any]]:
        """Makers of values for the argument `name`; none if nothing is known of it."""
        b, n = self.batch, self.length
        side = self.field("image_size", default=SIDE)
        channels = self.field("num_channels", "in_channels", "in_chans", default=3)
        frames = self.field("num_frames", default=4)
        mel = self.field("num_mel_bins", "input_feat_size", "feature_size", "mel_dim", "input_dim", default=16)
        hidden = self.field("hidden_size", "d_model", "n_embd", default=64)
        positions = self.field("max_source_positions", default=30)
        patch = self.field("patch_size", default=8)
        if name in ("input_ids", "inputs_ids"):
            codebooks = self.field("num_codebooks", "n_codebooks", "num_quantizers", default=2)
            return [
                lambda: self.ids(n, special),
                lambda: torch.randint(0, 30, (b, n, codebooks)),
                lambda: torch.randint(0, 30, (b, codebooks, n)),
                lambda: torch.randint(0, 30, (b * codebooks, n)),
            ]
        if name in ("decoder_input_ids", "text_input_ids", "decoder_input_codes", "qformer_input_ids"):
            return [lambda: self.ids(n - 3)]
        if name in ("pixel_values", "pixel_values_videos", "pixel_values_images"):
            return [
                lambda: self.images(channels, side, side),
                lambda: self.images(frames, channels, side, side),
                lambda: self.images(2, channels, side, side),
                lambda: self.images(channels, frames, side, side),
                lambda: self.images(1, channels, side, side),
                lambda: torch.randn(16 * b, 2 * channels * patch**2),
                lambda: torch.randn(16 * b, channels * patch**2),
                lambda: torch.randn(16 * b, channels, patch, patch),
                lambda: self.images(16, channels * patch**2),
                lambda: self.images(channels, *self.field("image_size", "img_size", default=[side, side])),
                lambda: self.images(channels, 4 * side, 4 * side),
            ]
        if name in ("image_grid_thw", "grid_thw", "video_grid_thw"):
            return [lambda: torch.tensor([[1, 4, 4]] * b)]
        if name in ("input_values", "raw_speech", "waveform", "audio_values", "input_audio"):
            return [
                lambda: self.images(3200 * self.long),
                lambda: self.images(1, 3200 * self.long),
                lambda: self.images(self.field("max_length", default=64), mel),
                lambda: self.images(64 * self.long, mel),
            ]
        if name in ("input_features", "audio_features", "input_mel"):
            return [
                lambda: self.images(mel, 2 * positions),
                lambda: self.images(64 * self.long, mel),
                lambda: self.images(mel, 64 * self.long),
                lambda: self.images(1, 256 * self.long, mel),
                lambda: self.images(16 * self.long, self.field("feature_projection_input_dim", default=160)),
            ]
        if name == "bbox":
            corners = lambda: torch.randint(0, 30, (b, n, 2))  # noqa: E731
            return [lambda: torch.cat([corners(), corners() + 40], 2)]
        if name in ("past_values", "past_observed_mask", "past_time_features", "future_values", "future_time_features"):
            past = self.field("context_length", "prediction_length", default=24)
            lags = max(self.fields.get("lags_sequence") or [0])
            channel = self.field("num_input_channels", "input_size", default=1)
            rows = past + lags if not name.startswith("future") else self.field("prediction_length", default=24)
            times = self.field("num_time_features", default=0)
            if "time" in name:
                return [lambda: self.images(rows, times)]
            if name == "past_observed_mask":
                return [lambda: torch.ones(b, rows, channel), lambda: torch.ones(b, rows)]
            return [lambda: self.images(rows, channel), lambda: self.images(rows)]
        if name == "hidden_states" and "temporal_patch_size" in self.fields:
            return [
                lambda: torch.randn(16 * b, self.field("temporal_patch_size", default=2) * channels * patch**2),
                lambda: torch.randn(16 * b, channels * patch**2),
                lambda: self.images(n, hidden),
            ]
        if name == "encoder_hidden_states":
            return [
                lambda: self.images(n, self.field("encoder_hidden_size", default=hidden)),
                lambda: self.images(n, hidden),
            ]
        if name in ("inputs_embeds", "hidden_states", "query_embeds", "decoder_inputs_embeds"):
            return [lambda: self.images(n, hidden)]
        if name == "inputs":
            return [lambda: self.images(n, self.field("d_model", default=64)), lambda: self.ids(n)]
        if name in ("attention_mask", "input_features_mask"):
            return [lambda: torch.ones(b, n, dtype=torch.long)]
        if name == "image_sizes":
            return [lambda: torch.tensor([[side, side]] * b)]
        if name == "visual_feats":
            return [lambda: self.images(8, self.field("visual_feat_dim", "visual_embedding_dim", default=64))]
        if name == "visual_pos":
            return [lambda: torch.rand(b, 8, 4)]
        if name == "task_inputs":
            return [lambda: self.ids(n)]
        if name in ("feature_attention_mask", "padding_mask"):
            return [lambda: torch.ones(b, 64 * self.long, dtype=torch.long)]
        if name == "input_points":
            return [lambda: torch.rand(b, 1, 2, 2) * side]
        if name == "timestep":
            return [lambda: torch.rand(b)]
        return []


def _fields(data: Kwargs) -> Iterator[tuple[str, Any]]:
    """All fields; those of inner configurations first, so that those outside win."""
    for value in data.values():
        if isinstance(value, dict):
            yield from _fields(value)
    yield from ((name, value) for name, value in data.items() if not isinstance(value, dict))


PRIMARY = (
    ("input_ids", "pixel_values", "image_grid_thw"), ("input_ids", "pixel_values"), ("input_ids", "input_features"),
    ("input_ids", "input_values"), ("input_ids",), ("pixel_values", "grid_thw"), ("pixel_values",),
    ("pixel_values_videos",), ("input_features",), ("input_values",), ("audio_values",),
    ("past_values", "past_observed_mask", "past_time_features", "future_values", "future_time_features"),
    ("past_values",), ("inputs",), ("inputs_embeds",), ("hidden_states", "grid_thw"),
    ("hidden_states",), ("query_embeds",),
)  # fmt: skip


def found(model: nn.Module, config: Any) -> tuple[Call, list[Call]]:
    """The first call that runs, and others: of another size, and with a mask."""
    signature = inspect.signature(model.forward).parameters
    needed = [n for n, p in signature.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    inputs, reasons, tries = Inputs(config, 0), [], 0
    combinations = list(dict.fromkeys(_combinations(list(signature), needed)))
    for names in combinations:  # which grows: by the arguments that an error asked for
        for choice in _choices(inputs, names):
            tries += 1
            special = 0
            for _ in range(2):  # again, with as many places for an image in the text as an error asked for
                kwargs = _values(inputs, choice, special)
                reason = _fails(model, kwargs)
                if reason is None:
                    return ((), kwargs), list(_others(model, config, choice, special, kwargs, signature))
                reasons.append(f"{'+'.join(names)}: {reason}")
                asked = [n for n in re.findall(r"\w+", reason) if n in signature and n not in names and inputs.of(n)]
                if asked and len(names) < 6 and (*names, asked[0]) not in combinations:
                    combinations.append((*names, asked[0]))
                count = re.search(r"tokens: \d+, features:? (\d+)", reason)
                if special or not count:
                    break
                special = int(count[1]) // inputs.batch
            if tries >= TRIES:
                raise ValueError(f"no call found: {' | '.join(_some(reasons))}")
    raise ValueError(f"no call found: {' | '.join(_some(reasons)) or f'the forward takes {list(signature)[:6]}'}")


def _choices(inputs: Inputs, names: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """Which maker of each argument to take: beside other inputs text is plain, and with a grid pictures are patches."""
    grid = any("grid" in name for name in names)
    kinds = []
    for name in names:
        numbers = range(len(inputs.of(name)))
        if name == "input_ids" and len(names) > 1 and "attention_mask" not in names:
            numbers = numbers[:1]
        if name == "pixel_values" and len(numbers) > 6:
            numbers = numbers[5:8] if grid else [*numbers[:5], *numbers[8:]]
        kinds.append(numbers)
    for pick in itertools.product(*kinds):
        yield dict(zip(names, pick))


def _some(reasons: list[str]) -> list[str]:
    """The first reason of each combination of arguments."""
    by_names = {reason.split(":")[0]: reason[:150] for reason in reversed(reasons)}
    return list(by_names.values())[::-1][:4]


def _combinations(names: list[str], needed: list[str]) -> Iterator[tuple[str, ...]]:
    for group in PRIMARY:
        if all(name in names for name in group[:2]):
            chosen = list(dict.fromkeys([*needed, *(name for name in group if name in names)]))
            if "decoder_input_ids" in names and "decoder_input_ids" not in chosen:
                yield (*chosen, "decoder_input_ids")
            yield tuple(chosen)
    if needed:
        yield tuple(needed)


def _values(inputs: Inputs, choice: dict[str, int], special: int) -> Kwargs:
    torch.manual_seed(SEED + inputs.long)
    return {name: inputs.of(name, special)[number]() for name, number in choice.items()}


def _fails(model: nn.Module, kwargs: Kwargs) -> str | None:
    torch.manual_seed(1)
    try:
        with torch.no_grad():
            output = model(**{name: value.clone() for name, value in kwargs.items()})
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return None if tensors_in(output) else "returns no tensor"


def _others(
    model: nn.Module, config: Any, choice: dict[str, int], special: int, kwargs: Kwargs, signature: Any
) -> Iterator[Call]:
    other = _values(Inputs(config, 1), choice, special)
    if _fails(model, other) is None:
        yield (), other
    if "attention_mask" in signature and "input_ids" in kwargs:
        mask = torch.ones(kwargs["input_ids"].shape[:2], dtype=torch.long)
        mask[0, -2:] = 0
        masked = {**kwargs, "attention_mask": mask}
        if _fails(model, masked) is None:
            yield (), masked
