"""The models that are cut, by library, each with what it is called with.

All weights are random and nothing is downloaded. What has more than 60 million parameters is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn

LARGEST = 60_000_000


@dataclass(frozen=True)
class Case:
    """A model, and an example call of it with so many items (texts, sounds and lists of pictures change size too)."""

    make: Callable[[], nn.Module]
    example: Callable[[int], tuple[Any, ...] | dict[str, Any]]
    trains: bool = True  # whether it runs in train mode on that example (detection then wants targets)

    def call(self, items: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments and keyword arguments of a call."""
        given = self.example(items)
        return ((), given) if isinstance(given, dict) else (given, {})


def images(*shape: int) -> Callable[[int], tuple[Any, ...]]:
    return lambda items: (torch.randn(items, *shape),)


def _named(name: str, **options: Any) -> Callable[[], nn.Module]:
    """One of torchvision's models, with random weights."""
    return lambda: torchvision.models.get_model(name, weights=None, **options)


def classification() -> dict[str, Case]:
    """Torchvision's classification models, the smallest first."""

    def size(name: str) -> int:
        return torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]

    def case(name: str) -> Case:
        side = 299 if name == "inception_v3" else 224 if "vit" in name else 96
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return Case(_named(name, **options), images(3, side, side))

    names = torchvision.models.list_models(module=torchvision.models)
    return {name: case(name) for name in sorted(names, key=size) if size(name) <= LARGEST}


def segmentation() -> dict[str, Case]:
    names = torchvision.models.list_models(module=torchvision.models.segmentation)
    return {name: Case(_named(name, weights_backbone=None), images(3, 64, 64)) for name in names}


def detection() -> dict[str, Case]:
    """Torchvision's detection models, which take lists of pictures, and its models of optical flow, which take two."""

    def pictures(items: int) -> tuple[Any, ...]:
        return ([torch.rand(3, 100 - 5 * i, 110 + 10 * items) for i in range(2)],)  # another number is refused

    def frames(items: int) -> tuple[Any, ...]:
        return torch.rand(items - 1, 3, 128, 128), torch.rand(items - 1, 3, 128, 128)

    cases = {}
    for name in torchvision.models.list_models(module=torchvision.models.detection):
        small = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 160}
        cases[name] = Case(_named(name, weights_backbone=None, **small), pictures, trains=False)
    for name in torchvision.models.list_models(module=torchvision.models.optical_flow):
        cases[name] = Case(_named(name), frames)
    return cases


# One small variant of each module of timm.
TIMM = """
    halonet_h1 mobileone_s0 cait_xxs24_224 coat_lite_tiny convit_tiny convmixer_768_32 convnext_atto cpubone_nano
    crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_s davit_tiny deit_tiny_distilled_patch16_224 densenet121 dla46_c
    dpn48b edgenext_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientvim_m1 efficientvit_b0
    efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050
    hardcorenas_a hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto inception_v3
    inception_v4 lcnetv2_small levit_128s lowformer_b0 test_mambaout test_coatnet poolformerv2_s12 gmlp_ti16_224
    lcnet_035 mobilevit_s mvitv2_tiny nest_tiny nextvit_small test_nfnet pit_ti_224 pvt_v2_b0 rdnet_tiny regnetx_002
    repghostnet_050 repvit_m0_9 res2next50 resnest14d resnet10t resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18
    sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
    swinv2_tiny_window16_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small
    visformer_tiny test_vit vit_tiny_r_s16_p8_224 test_vit_relpos vitamin_small_224 volo_d1_224 ese_vovnet19b_slim
    legacy_xception xception41p xcit_nano_12_p16_224
""".split()


def families() -> dict[str, Case]:
    import timm

    def case(name: str) -> Case:
        given = timm.get_pretrained_cfg(name)
        side = given.input_size[-1] if given.fixed_input_size else 96
        return Case(lambda: timm.create_model(name), images(3, side, side))

    return {name: case(name) for name in TIMM}


def transformers() -> dict[str, Case]:
    """Tiny configurations of architectures of transformers, called with keywords."""
    import transformers as hf

    hf.logging.set_verbosity_error()
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
    tiny = {**heads, "intermediate_size": 37, "vocab_size": 99, "max_position_embeddings": 64}
    grouped = {**tiny, "num_key_value_heads": 2}
    patches = {**heads, "intermediate_size": 37, "image_size": 32, "patch_size": 8}
    gpt = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    t5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
    sides = {
        f"{side}_{what}": size
        for side in ("encoder", "decoder")
        for what, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 37))
    }
    wav = {"conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 16}
    stages = {"hidden_sizes": [8, 16], "depths": [1, 1]}

    def words(items: int) -> dict[str, Any]:
        return {"input_ids": torch.randint(5, 99, (items, 3 + 2 * items))}

    def masked(items: int) -> dict[str, Any]:
        mask = torch.ones(items, 3 + 2 * items, dtype=torch.long)
        mask[0, -2:] = 0
        return {**words(items), "attention_mask": mask}

    def both(items: int) -> dict[str, Any]:
        return {**words(items), "decoder_input_ids": torch.randint(5, 99, (items, 2 + 2 * items))}

    def pictures(items: int) -> dict[str, Any]:
        return {"pixel_values": torch.randn(items, 3, 32, 32)}

    def captioned(items: int) -> dict[str, Any]:
        return {**words(items), **pictures(items)}

    def waves(items: int) -> dict[str, Any]:
        return {"input_values": torch.randn(items, 520 + 80 * items)}

    def spoken(items: int) -> dict[str, Any]:
        return {"input_features": torch.randn(items, 16, 60), "decoder_input_ids": words(items)["input_ids"]}

    rows: list[tuple[str, Callable[[int], dict[str, Any]], dict[str, Any]]] = [
        ("Bert", words, tiny),
        ("Roberta", masked, tiny),
        ("DistilBert", masked, {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37}),
        ("Albert", words, {**tiny, "embedding_size": 16}),
        ("Electra", words, {**tiny, "embedding_size": 16}),
        ("MPNet", words, tiny),
        ("DebertaV2", masked, {**tiny, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
        ("GPT2", words, gpt),
        ("GPTNeoX", masked, tiny),
        ("OPT", words, {**tiny, "ffn_dim": 37, "word_embed_proj_dim": 32}),
        ("Llama", masked, grouped),
        ("Mistral", words, grouped),
        ("Qwen2", words, grouped),
        ("Gemma2", words, {**grouped, "head_dim": 8}),
        ("Phi", words, tiny),
        ("Mixtral", words, {**grouped, "num_local_experts": 4}),
        ("Bloom", words, {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
        ("Falcon", words, tiny),
        ("Mamba", words, {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
        ("T5", both, {**t5, "decoder_start_token_id": 0}),
        ("Bart", both, {"vocab_size": 99, "d_model": 32, "max_position_embeddings": 64, **sides}),
        ("ViT", pictures, patches),
        ("DeiT", pictures, patches),
        ("Dinov2", pictures, patches),
        ("Beit", pictures, {**patches, "vocab_size": 99}),
        ("Swin", pictures, {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4],
                            "window_size": 2}),
        ("ConvNext", pictures, {**stages, "num_stages": 2}),
        ("ResNet", pictures, {**stages, "embedding_size": 8, "layer_type": "basic"}),
        ("Segformer", pictures, {"hidden_sizes": [8, 16, 16, 16], "num_attention_heads": [1, 2, 2, 2],
                                 "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}),
        ("CLIP", captioned, {"text_config": {**tiny, "bos_token_id": 0, "eos_token_id": 98}, "vision_config": patches,
                             "projection_dim": 16}),
        ("Wav2Vec2", waves, {**heads, **wav, "intermediate_size": 37, "vocab_size": 32,
                             "num_conv_pos_embedding_groups": 2}),
        ("Whisper", spoken, {"vocab_size": 99, "d_model": 32, "num_mel_bins": 16, "max_source_positions": 30,
                             "max_target_positions": 30, "pad_token_id": 0, **sides}),
    ]  # fmt: skip

    def case(name: str, example: Callable[[int], dict[str, Any]], config: dict[str, Any]) -> Case:
        return Case(lambda: getattr(hf, f"{name}Model")(getattr(hf, f"{name}Config")(**config)), example)

    return {name: case(name, example, config) for name, example, config in rows}


LIBRARIES: dict[str, Callable[[], dict[str, Case]]] = {
    "torchvision": classification,
    "segmentation": segmentation,
    "detection": detection,
    "timm": families,
    "transformers": transformers,
}
