"""Where the embedding is in 43 families of models: ``python -m benchmarks.families``.

Each is built small and with random weights, cut, and compared bit for bit with what a hook on the whole model captures,
on inputs of two sizes. The sizes also say which dimensions are free. The table is that of ``docs/families.md``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

import click
import timm
import torch
import torchvision
import transformers
from oracle import cloned, equal, randomize, tensors_in
from torch import nn

from benchmarks import ROOT, report
from truncate import truncate

PAGE = ROOT / "docs" / "families.md"
COLUMNS = ("family", "model", "ask for", "returns")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Family:
    """A family of models, and how its embedding is asked for."""

    library: str
    name: str
    model: str  # how the one that is built is called, as the table shows it
    make: Callable[[], nn.Module]
    ask: dict[str, Any]  # what `truncate` is given
    given: Callable[[int], torch.Tensor]  # an input, 0, and one of another size, 1
    example: str = ""  # what the table calls the example, where the cut is made on one
    settings: tuple[str, ...] = ()  # of the model, which say its last dimensions; others are shown as numbers

    def cut(self, model: nn.Module) -> nn.Module:
        return truncate(model, **self.ask, **({"args": (self.given(0),)} if self.example else {}))

    def asked(self) -> str:
        """The arguments of `truncate`, as one writes them."""
        parts = [f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}" for key, value in self.ask.items()]
        return ", ".join([*parts, f"args=({self.example},)"] if self.example else parts)


# -- inputs: the example, and one with a larger batch, and longer where that is free ---------------------------------


def images(size: int) -> Callable[[int], torch.Tensor]:
    return lambda more: torch.randn(2 + more, 3, size, size)


def clips(more: int) -> torch.Tensor:
    return torch.randn(2 + more, 3, 8, 64, 64)


def tokens(more: int) -> torch.Tensor:
    return torch.randint(5, 90, (2 + more, 7 + 2 * more))


def sound(more: int) -> torch.Tensor:
    return torch.randn(2 + more, 680 + 80 * more)


def spectra(more: int) -> torch.Tensor:
    return torch.randn(2 + more, 16, 60)


# -- torchvision and timm --------------------------------------------------------------------------------------------

# Family: model: what stands before the classes: how large the images are that it is tried on.
TORCHVISION = """
    AlexNet:alexnet:classifier.6:64 VGG:vgg11:classifier.6:64 ResNet:resnet18:fc:64 DenseNet:densenet121:classifier:64
    GoogLeNet:googlenet:fc:64 Inception:inception_v3:fc:128 MobileNetV2:mobilenet_v2:classifier:64
    MobileNetV3:mobilenet_v3_small:classifier:64 EfficientNet:efficientnet_b0:classifier:64
    RegNet:regnet_y_400mf:fc:64 ShuffleNetV2:shufflenet_v2_x0_5:fc:64 ConvNeXt:convnext_tiny:classifier.2:64
    Swin:swin_t:head:64 ViT:vit_b_32:heads:224
""".split()
TIMM = """
    ViT:test_vit:head:160 TinyViT:tiny_vit_5m_224:head.fc:224 XCiT:xcit_nano_12_p16_224:head:224
    PVTv2:pvt_v2_b0:head:128 CoAtNet:test_coatnet:head.fc:160 MobileViT:mobilevit_s:head.fc:128
    FastViT:fastvit_t8:head.fc:128 MambaOut:test_mambaout:head.fc:160 NFNet:test_nfnet:head.fc:160
    gMLP:gmlp_ti16_224:head:224 RexNet:rexnet_100:head.fc:128 StarNet:starnet_s050:head:128
""".split()


# Their own first weights take seconds to draw, and the comparison needs no good ones.
QUICKLY = {name: {"init_weights": False} for name in ("googlenet", "inception_v3", "vgg11")}


def of_torchvision(text: str) -> Family:
    name, model, layer, size = text.split(":")
    make = partial(torchvision.models.get_model, model, weights=None, **QUICKLY.get(model, {}))
    return Family("torchvision", name, f"`{model}`", make, {"before": layer}, images(int(size)))


def of_timm(text: str) -> Family:
    name, model, layer, size = text.split(":")
    make = partial(timm.create_model, model)
    return Family("timm", name, f"`{model}`", make, {"before": layer}, images(int(size)))


OTHERS = [
    # Its classes come of a convolution, so no vector stands before them.
    Family(
        "torchvision", "SqueezeNet", "`squeezenet1_1`", torchvision.models.squeezenet1_1,
        {"upto": "features", "pool": "avg", "flatten": True}, images(64),
    ),
    Family("torchvision", "Video ResNet", "`r3d_18`", torchvision.models.video.r3d_18, {"before": "fc"}, clips),
]  # fmt: skip


# -- transformers, in tiny configurations ----------------------------------------------------------------------------

WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
TINY = {**WIDTH, "vocab_size": 99, "max_position_embeddings": 64, "pad_token_id": 0}
GROUPED = {**TINY, "num_key_value_heads": 2}
PATCHES = {**WIDTH, "image_size": 224, "patch_size": 16}
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
WAVES = {
    **WIDTH, "conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2, "vocab_size": 32, "apply_spec_augment": False,
}  # fmt: skip
SPECTRA = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "vocab_size": 99,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 37, "decoder_ffn_dim": 37, "num_mel_bins": 16,
    "max_source_positions": 30, "pad_token_id": 0,
}  # fmt: skip
DISTIL = {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37, "max_position_embeddings": 64}
GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
MAMBA = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}


def of_transformers(
    name: str,
    model: str,
    config: dict[str, Any],
    layer: str,
    given: Callable[[int], torch.Tensor] = tokens,
    *settings: str,
) -> Family:
    """`model` is the name of the class; ``.encoder`` after it takes that part of it alone."""

    def make() -> nn.Module:
        kind, _, part = model.partition(".")
        whole = getattr(transformers, kind)
        return whole(whole.config_class(**config)).get_submodule(part)

    example = {tokens: "tokens", sound: "sound", spectra: "spectra"}.get(given, "images")
    return Family(
        "transformers", name, f"`{model}`", make, {"upto": layer}, given, example, settings or ("hidden_size",)
    )


LANGUAGE = [
    of_transformers("BERT", "BertModel", TINY, "encoder.layer[-1]"),
    of_transformers("RoBERTa", "RobertaModel", TINY, "encoder.layer[-1]"),
    of_transformers("DistilBERT", "DistilBertModel", DISTIL, "transformer.layer[-1]", tokens, "dim"),
    of_transformers("ModernBERT", "ModernBertModel", TINY, "final_norm"),
    of_transformers("T5, its encoder", "T5EncoderModel", T5, "encoder.final_layer_norm", tokens, "d_model"),
    of_transformers("GPT-2", "GPT2Model", GPT2, "ln_f", tokens, "n_embd"),
    of_transformers("Llama", "LlamaModel", GROUPED, "norm"),
    of_transformers("Qwen3", "Qwen3Model", {**GROUPED, "head_dim": 8}, "norm"),
    of_transformers("Gemma 2", "Gemma2Model", {**GROUPED, "head_dim": 8}, "norm"),
    of_transformers("Mamba", "MambaModel", MAMBA, "norm_f"),
]
CLIP_TEXT = {**TINY, "eos_token_id": 98, "projection_dim": 16}
MORE = [
    of_transformers("DINOv2", "Dinov2Model", {**PATCHES, "patch_size": 14}, "layernorm", images(224)),
    of_transformers(
        "CLIP, its images", "CLIPVisionModelWithProjection", {**PATCHES, "projection_dim": 16}, "visual_projection",
        images(224), "projection_dim",
    ),
    of_transformers(
        "CLIP, its texts", "CLIPTextModelWithProjection", CLIP_TEXT, "text_projection", tokens, "projection_dim"
    ),
    of_transformers("wav2vec 2.0", "Wav2Vec2Model", WAVES, "encoder.layers[-1]", sound),
    of_transformers(
        "Whisper, its encoder", "WhisperModel.encoder", SPECTRA, "layer_norm",
        spectra, "max_source_positions", "d_model",
    ),
]  # fmt: skip
FAMILIES = [
    *map(of_torchvision, TORCHVISION), *OTHERS, *map(of_timm, TIMM), *LANGUAGE, *MORE,
]  # fmt: skip


# -- what is compared ------------------------------------------------------------------------------------------------


def hooked(family: Family, model: nn.Module, given: torch.Tensor) -> Any:
    """What a hook on the whole model captures: the last output of the layer, or the last thing that it was given."""
    before = "before" in family.ask
    path = family.ask["before" if before else "upto"]
    layer = model.get_submodule(path.replace("[-1]", ".1"))  # blocks are two in each configuration
    assert not path.endswith("[-1]") or len(model.get_submodule(path.removesuffix("[-1]"))) == 2
    seen: list[Any] = []
    if before:
        handle = layer.register_forward_pre_hook(lambda _, args: seen.append(cloned(args[0])))
    else:
        handle = layer.register_forward_hook(lambda _, args, output: seen.append(cloned(output)))
    try:
        model(given)
    finally:
        handle.remove()
    return nn.Flatten(1)(nn.AdaptiveAvgPool2d(1)(seen[-1])) if "pool" in family.ask else seen[-1]


@torch.no_grad()
def shapes(family: Family) -> tuple[Shape, Shape, nn.Module]:
    """The shapes of the embedding for both inputs, each of them equal to what a hook captures; and the model."""
    torch.manual_seed(0)
    model = randomize(family.make().eval())
    cut, found = family.cut(model), []
    for more in (0, 1):
        given = family.given(more)
        value = cut(given.clone())
        if not equal(value, hooked(family, model, given)):
            raise AssertionError(f"{family.library}, {family.name}: the cut differs from what a hook captures")
        (tensor,) = tensors_in(value)
        found.append(tuple(tensor.shape))
    return found[0], found[1], model


def returned(family: Family) -> str:
    """The shape that comes out: N for the batch, L for what is as long as the input is, and names of settings."""
    first, second, model = shapes(family)
    free = [one != other for one, other in zip(first, second)]
    names = ["L" if varies else str(size) for size, varies in zip(first, free)]
    assert (first[0], second[0]) == (2, 3), f"{family.name}: the first dimension is not the batch"
    known = len(family.settings)
    if known:
        said = tuple(model.config.to_dict()[setting] for setting in family.settings)
        assert said == first[-known:], f"{family.name}: {family.settings} are {said}, and not {first[-known:]}"
        names[-known:] = family.settings
    return f"({', '.join(['N', *names[1:]])})"


def row(family: Family) -> tuple[str, ...]:
    """The line of the table, when the cut has been compared."""
    return family.name, family.model, f"`{family.asked()}`", returned(family)


def line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def tables(progress: Callable[[str], None] = lambda name: None) -> Iterator[str]:
    """A table for each library, in Markdown."""
    for library in dict.fromkeys(family.library for family in FAMILIES):
        lines = [line(COLUMNS), line(("---",) * len(COLUMNS))]
        for family in FAMILIES:
            if family.library == library:
                progress(f"{library}, {family.name}")
                lines.append(line(row(family)))
        yield f"### {library}\n\n" + "\n".join(lines)


@click.command()
@click.option("--write/--no-write", default=True, help="Put the tables into docs/families.md.")
def main(write: bool) -> None:
    """Where the embedding is in 43 families of models."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of what the models themselves deprecate
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "timm", "transformers")
    )
    text = "\n\n".join([*tables(partial(click.echo, err=True)), f"Compared with {versions}."])
    click.echo(text)
    if write:
        report.write("families", text, PAGE)


if __name__ == "__main__":
    main()
