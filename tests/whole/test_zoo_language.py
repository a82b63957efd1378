"""Tiny configurations of the architectures of transformers, and sequence models of PyTorch, cut at each depth."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from zoo import Arguments, Entry, check, check_live, each

transformers = pytest.importorskip("transformers")

# transformers warns of what it deprecates itself.
pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]

# -- inputs: the example, and one with another batch size and another length -----------------------------------------


def ids(batch: int, length: int) -> torch.Tensor:
    return torch.randint(5, 90, (batch, length))


def masked(batch: int, length: int) -> torch.Tensor:
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[0, -2:] = 0
    return mask


def text(size: int) -> Arguments:
    return (), {"input_ids": ids(2 + size, 7 + 2 * size)}


def padded_text(size: int) -> Arguments:
    batch, length = 2 + size, 7 + 2 * size
    return (), {"input_ids": ids(batch, length), "attention_mask": masked(batch, length)}


def text_to_text(size: int) -> Arguments:
    batch, length = 2 + size, 7 + 2 * size
    return (), {"input_ids": ids(batch, length), "decoder_input_ids": ids(batch, length - 1)}


def pixels(size: int) -> Arguments:
    return (), {"pixel_values": torch.randn(2 + size, 3, 32, 32)}


def video(size: int) -> Arguments:
    return (), {"pixel_values": torch.randn(2 + size, 2, 3, 32, 32)}


def text_and_pixels(size: int) -> Arguments:
    return (), {**text(size)[1], **pixels(size)[1]}


def sound(size: int) -> Arguments:
    return (), {"input_values": torch.randn(2 + size, 680 + 80 * size)}


# -- configurations --------------------------------------------------------------------------------------------------

WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
TINY = {**WIDTH, "vocab_size": 99, "max_position_embeddings": 64, "pad_token_id": 0}
GROUPED = {**TINY, "num_key_value_heads": 2}
IMAGE = {**WIDTH, "image_size": 32, "patch_size": 8}
SEQ2SEQ = {
    "vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 37, "decoder_ffn_dim": 37, "max_position_embeddings": 64,
    "pad_token_id": 0,
}  # fmt: skip
T5 = {
    "vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0
}  # fmt: skip
GPT = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
EXPERTS = {**GROUPED, "intermediate_size": 32, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
WAVES = {
    **WIDTH, "conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2, "vocab_size": 32, "apply_spec_augment": False,
}  # fmt: skip

# Embeddings, a block, attention inside a block, the last norm: of each the paths that hold one of these are cut.
DEPTHS = ("embed", ".0", "attn", "attention", "mixer", "norm", "mlp")


def tiny(name: str, config: dict[str, Any], inputs: Callable[[int], Arguments], **options: Any) -> Entry:
    """`name` is that of the model's class; that of its configuration begins with the same word."""

    def make() -> nn.Module:
        kind = getattr(transformers, name)
        return kind(kind.config_class(**config))

    return Entry(make, inputs, wanted=DEPTHS, **options)


ENCODERS = {
    "bert": tiny("BertModel", TINY, text),
    "bert-padded": tiny("BertModel", TINY, padded_text),
    "roberta": tiny("RobertaModel", TINY, padded_text),
    "xlm-roberta": tiny("XLMRobertaModel", TINY, text),
    "distilbert": tiny(
        "DistilBertModel",
        {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37},
        padded_text,
        keeps=("embeddings.word_embeddings",),
    ),
    "albert": tiny("AlbertModel", {**TINY, "embedding_size": 16}, text),
    "electra": tiny("ElectraModel", {**TINY, "embedding_size": 16}, text),
    "mpnet": tiny("MPNetModel", TINY, text),
    "deberta-v2": tiny(
        "DebertaV2Model",
        {**TINY, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        text,
        keeps=("encoder.",),  # a helper runs its layers, and something is decided later
    ),
    "modernbert": tiny("ModernBertModel", TINY, padded_text),
    "fnet": tiny("FNetModel", TINY, text),
    "roformer": tiny("RoFormerModel", TINY, text, exact=False),
    "t5-encoder": tiny("T5EncoderModel", T5, text, keeps=("encoder.",)),
}
DECODERS = {
    "gpt2": tiny("GPT2Model", GPT, text),
    "gpt2-lm": tiny("GPT2LMHeadModel", GPT, padded_text),
    "gpt-neox": tiny("GPTNeoXModel", TINY, text),
    "opt": tiny("OPTModel", {**TINY, "ffn_dim": 37, "word_embed_proj_dim": 32}, text, keeps=("decoder.embed_tokens",)),
    "llama": tiny("LlamaModel", GROUPED, text),
    "llama-padded": tiny("LlamaForCausalLM", GROUPED, padded_text),
    "mistral": tiny("MistralModel", GROUPED, text),
    "qwen2": tiny("Qwen2Model", GROUPED, padded_text),
    "qwen3": tiny("Qwen3Model", {**GROUPED, "head_dim": 8}, text),
    "gemma2": tiny("Gemma2Model", {**GROUPED, "head_dim": 8}, text),
    "phi": tiny("PhiModel", TINY, text),
    "bloom": tiny("BloomModel", {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4}, text),
    "falcon": tiny("FalconModel", TINY, text, keeps=("h.0.self_attention", "h.1.self_attention")),
    "stablelm": tiny("StableLmModel", GROUPED, text),
    "olmo": tiny("OlmoModel", GROUPED, text),
}
EXPERTS_AND_STATES = {
    "qwen2-moe": tiny(
        "Qwen2MoeModel",
        {**EXPERTS, "shared_expert_intermediate_size": 16},
        text,
        keeps=("layers.0.mlp.gate", "layers.0.mlp.experts.down_proj"),
    ),
    "olmoe": tiny("OlmoeModel", EXPERTS, text),
    "switch": tiny(
        "SwitchTransformersEncoderModel", {**T5, "num_experts": 4, "expert_capacity": 8}, text, keeps=("encoder.",)
    ),
    "mamba": tiny("MambaModel", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, text),
    "falcon-mamba": tiny(
        "FalconMambaModel", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, text
    ),
}
ENCODER_DECODERS = {
    "t5": tiny("T5Model", T5, text_to_text, train="encoder", keeps=("decoder.", "encoder.")),
    "bart": tiny("BartModel", SEQ2SEQ, text_to_text, train="encoder"),
    "mbart": tiny("MBartModel", SEQ2SEQ, text_to_text, train="encoder"),
    "pegasus": tiny("PegasusModel", SEQ2SEQ, text_to_text, train="encoder"),
    "marian": tiny(
        "MarianModel",
        {**SEQ2SEQ, "decoder_start_token_id": 0},
        text_to_text,
        train="encoder",
    ),
}
VISION = {
    "vit": tiny("ViTModel", IMAGE, pixels),
    "deit": tiny("DeiTModel", IMAGE, pixels),
    "beit": tiny("BeitModel", IMAGE, pixels),
    "dinov2": tiny("Dinov2Model", IMAGE, pixels),
    "data2vec": tiny("Data2VecVisionModel", IMAGE, pixels),
    "swin": tiny(
        "SwinModel",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 2},
        pixels,
    ),
    "convnext": tiny("ConvNextModel", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, pixels),
    "resnet": tiny(
        "ResNetModel",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        pixels,
    ),
    "segformer": tiny(
        "SegformerModel",
        {"hidden_sizes": [8, 16, 16, 16], "num_attention_heads": [1, 2, 2, 2], "depths": [1, 1, 1, 1]},
        pixels,
    ),
    "mobilevit": tiny("MobileNetV2Model", {"image_size": 32}, pixels),
    "videomae": tiny("TimesformerModel", {**IMAGE, "num_frames": 2}, video),
}
AUDIO = {
    "wav2vec2": tiny("Wav2Vec2Model", WAVES, sound),
    "hubert": tiny("HubertModel", WAVES, sound),
    "whisper": tiny(
        "WhisperModel",
        {**SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 30, "max_target_positions": 30},
        lambda size: (
            (),
            {"input_features": torch.randn(2 + size, 16, 60), "decoder_input_ids": ids(2 + size, 7 + size)},
        ),
    ),
}
MULTIMODAL = {
    "clip": tiny(
        "CLIPModel",
        {"text_config": {**TINY, "eos_token_id": 98}, "vision_config": IMAGE, "projection_dim": 16},
        text_and_pixels,
    ),
    "siglip": tiny("SiglipModel", {"text_config": TINY, "vision_config": IMAGE}, text_and_pixels),
    "vilt": tiny("ViltModel", {**TINY, "image_size": 32, "patch_size": 8}, text_and_pixels, train=False),
}
ARCHITECTURES = {
    **ENCODERS, **DECODERS, **EXPERTS_AND_STATES, **ENCODER_DECODERS, **VISION, **AUDIO, **MULTIMODAL
}  # fmt: skip


@each(ARCHITECTURES)
def test_transformers(name: str, entry: Entry, record_property: Any) -> None:
    check(name, entry, record_property)


def test_how_many() -> None:
    assert len({name.removesuffix("-padded").removesuffix("-lm") for name in ARCHITECTURES}) >= 40


# -- what comes with PyTorch, and what is built around a model -------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.body = kind(8, 12, 2, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor, state: Any = None) -> torch.Tensor:
        y, state = self.body(self.embed(x), state)
        return self.out(self.drop(y[:, -1]))


def vectors(*lengths: int) -> Callable[[int], Arguments]:
    return lambda size: (tuple(torch.rand(2 + size, length + size, 16) for length in lengths), {})


def tokens(size: int) -> Arguments:
    return (torch.randint(0, 20, (2 + size, 5 + 2 * size)),), {}


def pictures(size: int) -> Arguments:
    return (torch.randn(2 + size, 3, 64, 64 + 32 * size),), {}


def parametrized() -> nn.Module:
    model = torchvision.models.resnet18()
    nn.utils.parametrizations.weight_norm(model.layer1[0].conv1)
    nn.utils.parametrizations.spectral_norm(model.layer1[1].conv1)
    nn.utils.parametrizations.orthogonal(model.fc)
    return model


def bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(**TINY))


def with_lora() -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(bert(), peft.LoraConfig(target_modules=["query", "value"], r=2, lora_dropout=0.1))


def checkpointing() -> nn.Module:
    model = bert()
    model.gradient_checkpointing_enable()
    return model


def checkpointing_vision() -> nn.Module:
    model = pytest.importorskip("timm").create_model("test_vit")
    model.set_grad_checkpointing(True)
    return model


OTHERS = {
    "transformer": Entry(lambda: nn.Transformer(16, 2, 2, 2, 32, batch_first=True), vectors(5, 4), cuts=6),
    "transformer-encoder": Entry(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3), vectors(5), cuts=6
    ),
    "lstm": Entry(functools.partial(Recurrent, nn.LSTM), tokens, cuts=4),
    "gru": Entry(functools.partial(Recurrent, nn.GRU), tokens, cuts=4),
    "parametrized": Entry(parametrized, pictures, wanted=("layer1.0.conv1", "layer1.1.bn2", "layer3")),
    "lora": Entry(
        with_lora,
        text,
        wanted=(*DEPTHS, "lora_A"),
        train="base_model.model.embeddings",
        keeps=("base_model.model.encoder.layer.0.attention.self.query",),
    ),
    "checkpointing": Entry(checkpointing, text, wanted=DEPTHS),
    "checkpointing-vision": Entry(checkpointing_vision, lambda size: ((torch.rand(2 + size, 3, 160, 160),), {})),
}


@each(OTHERS)
def test_others(name: str, entry: Entry, record_property: Any) -> None:
    check(name, entry, record_property)


@each({**ARCHITECTURES, **OTHERS})
def test_live(name: str, entry: Entry) -> None:
    check_live(name, entry)
