"""A tiny configuration of any architecture of transformers, shrunk by the names of its fields."""

from __future__ import annotations

import re
from typing import Any

VOCABULARY = 99
SIDE = 64  # of an image
LAYERS = 2

# What a field becomes whose name matches, the first that does. Only numbers that are larger are changed.
SIZES: list[tuple[str, int]] = [
    (r"(.*_)?vocab_size(_per_layer_input)?|vocab_offset", VOCABULARY),
    (
        r"(?!num_feat_extract)(.*_)?(num_hidden_layers|num_layers|n_layers?|depth|layers|num_blocks|num_hidden_groups)",
        LAYERS,
    ),
    (r"(.*_)?(resampler_depth|num_lstm_layers|num_encoder_blocks|n_layer)", LAYERS),
    (r"(.*_)?(num_key_value_heads|num_kv_heads|n_head_kv|n_kv_heads)", 2),
    (r"linear_num_(key|value)_heads|index_n_heads|(.*_)?mamba_n_groups|n_groups", 2),
    (r"(.*_)?(attention_heads|num_heads|n_heads?|encoder_heads|decoder_heads|resampler_heads)", 4),
    (r"qk_head_dim", 24),
    (r"qk_rope_head_dim", 8),
    (r"(.*_)?(head_dim|d_kv|dim_head|head_size|kv_channels|d_head|query_pre_attn_scalar|qk_nope_head_dim)", 16),
    (r"d_latents", 64),
    (r"num_latents", 8),
    (r"num_self_attends_per_block", LAYERS),
    (r"rotary_dim|(kv|q|o)_lora_rank", 16),
    (r"(.*_)?(num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_moe_experts)", 4),
    (r"(.*_)?(num_experts_per_tok(en)?|moe_k|moe_topk|num_selected_experts|n_group|num_expert_group)", 2),
    (r"(.*_)?(n_shared_experts|topk_group|first_k_dense_replace)", 1),
    (r"(.*_)?(intermediate_size(_mlp)?|ffn_dim|mlp_dim|d_ff|d_inner|ffn_hidden_size|n_inner|linear_units)", 96),
    (r"(.*_)?(intermediate_dim|feed_forward_hidden_size|hidden_dim_ffn|ff_dim|dim_feedforward)", 96),
    (r"(.*_)?(hidden_size(_per_layer_input|_global)?|d_model|n_embd|embed_dim|embedding_size|embedding_dim)", 64),
    (r"(.*_)?(emb_dim|projection_dim|hidden_dim|proj_dim|output_dim|project_dim|projection_size|width|dim)", 64),
    (r"(.*_)?(output_channels|stem_channels|fpn_.*size|pooler_output_size|classifier_proj_size|num_filters)", 64),
    (r"(.*_)?(image_size|img_size|crop_size|pretrain_image_size|max_image_size)", SIDE),
    (r"patch_size|encoder_stride", 8),
    (r"num_frames|max_frames", 4),
    (r"(.*_)?max_source_positions", 30),
    (r"(.*_)?max_target_positions", 64),
    (r"(.*_)?(max_position_embeddings|n_positions|n_ctx|max_seq_len|max_length|model_max_length|block_size)", 256),
    (r"num_position_embeddings", 256),
    (r"num_mel_bins|feature_size_mel", 16),
    (r"(.*_)?(num_queries|num_query_tokens|latent_query_num|resampler_n_latents|resampler_num_latents)", 8),
    (r"num_conv_pos_embeddings", 16),
    (r"num_conv_pos_embedding_groups", 4),
    (r"upsample_groups", 64),
    (r"codebook_size|num_embeddings|codebook_dim", 32),
    (r"sliding_window(_size)?|attention_chunk_size|local_attention", 8),
    (r"(.*_)?(state_size|d_state)", 8),
    (r"mamba_n_heads|mamba_num_heads", 8),
    (r"(.*_)?mamba_chunk_size|mamba_d_head", 16),
    (r"num_labels|num_classes", 5),
]
# What stays small by itself, or is widths only in the largest models: these alone change where nothing else may.
DEEP = SIZES[:4] + [pair for pair in SIZES if "experts" in pair[0] or "image_size" in pair[0] or "frames" in pair[0]]
UNSET = {"head_dim": 16, "num_key_value_heads": 4}  # what would follow from the others, where a class leaves it open
COUNTS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer", "depth")
WIDTH_LISTS = (
    r"(.*_)?(hidden_sizes|embed_dims?(_per_stage)?|encoder_hidden_sizes|conv_dim|tdnn_dim|channels|dims|widths?)"
)
HEAD_LISTS = r"(.*_)?(num_heads|num_attention_heads(_per_stage)?)"
DEPTH_LISTS = r"(.*_)?(depths|blocks_per_stage|num_block_repeats|layer_repeats)"
DERIVED = {"out_indices", "out_features", "_out_indices", "_out_features", "stage_names", "transformers_version"}
TOKEN = re.compile(r"(_token_(id|index|ids)|_token|_index|_token_id_.*)$|^(unk|mask|pad|bos|eos)_index$")


# Another choice, where heads and experts may not be grouped.
EVEN = [(r"(.*_)?(num_key_value_heads|num_kv_heads)", 4), (r"linear_num_(key|value)_heads|index_n_heads", 4)]
EVEN += [(r"(.*_)?(n_group|topk_group|num_expert_group|n_groups)", 1), (r"mamba_head_dim|mamba_d_head", 16), *SIZES]
SCHEMES = {"small": SIZES, "even": EVEN, "shallow": DEEP}


def shrunk(data: dict[str, Any], scheme: str = "small") -> dict[str, Any]:
    """The fields of a configuration, with smaller numbers; "shallow" keeps the widths and what hangs on them."""
    sizes, deep_only = SCHEMES[scheme], scheme == "shallow"
    layers = next((data[name] for name in COUNTS if type(data.get(name)) is int), 0)
    kinds = _layer_kinds(data, layers)
    small: dict[str, Any] = {}
    for name, value in data.items():
        if name in DERIVED or name in ("id2label", "label2id"):
            continue
        if name == "per_layer_config" and isinstance(value, dict):
            kept = enumerate(kinds or range(LAYERS))
            small[name] = {str(new): value[old] for new, old in kept for old in (old, str(old)) if old in value}
        elif isinstance(value, dict):
            small[name] = shrunk(value, scheme) if all(isinstance(key, str) for key in value) else value
        elif value is None and name in UNSET and not deep_only:
            small[name] = UNSET[name]
        elif type(value) is int:
            small[name] = token(value) if TOKEN.search(name) else _size(name, value, sizes)
        elif isinstance(value, (list, tuple)) and value:
            small[name] = _list(name, list(value), layers, kinds, scheme)
        else:
            small[name] = value
    if kinds:
        small.update({name: len(kinds) for name in COUNTS if name in small})
    if "qk_rope_head_dim" in small and data.get("head_dim") in (None, data["qk_rope_head_dim"]) and "head_dim" in small:
        small["head_dim"] = small["qk_rope_head_dim"]
    return small


def token(value: int) -> int:
    """The same special token in a small vocabulary, out of the way of those that inputs are drawn from."""
    return value if value < 30 else 80 + value % 19


def _size(name: str, value: int, sizes: list[tuple[str, int]]) -> int:
    return next((min(value, size) for pattern, size in sizes if re.fullmatch(pattern, name)), value)


def _layer_kinds(data: dict[str, Any], layers: int) -> list[int]:
    """The numbers of the layers that stay: one of each kind, where layers are of several kinds."""
    lists = [v for k, v in data.items() if isinstance(v, list) and layers > LAYERS and len(v) == layers]
    lists = [values for values in lists if all(isinstance(v, str) for v in values)]
    if not lists:
        return []
    found: dict[tuple[str, ...], int] = {}
    for number, together in enumerate(zip(*lists)):
        found.setdefault(together, number)
    kept = list(found.values())[:4]
    return kept if len(kept) >= LAYERS else [*kept, *[n for n in range(layers) if n not in kept]][:LAYERS]


def _list(name: str, value: list[Any], layers: int, kinds: list[int], scheme: str) -> list[Any]:
    sizes, deep_only = SCHEMES[scheme], scheme == "shallow"
    numbers = all(type(item) is int for item in value)
    if layers > LAYERS and len(value) == layers:
        value = [value[number] for number in kinds or range(LAYERS)]
    if numbers and re.search(r"(index(es)?|indices|idxs|_layers|_layer_id|blocks)$", name):
        last = (len(kinds) or LAYERS) - 1
        return sorted({min(item, last) for item in value}) if layers or max(value) > last else value
    if name == "mrope_section" and not deep_only:
        return [4, 2, 2] if len(value) == 3 else value
    if numbers and re.fullmatch(DEPTH_LISTS, name):
        return [min(item, 1 + (position == 0)) for position, item in enumerate(value)]
    if numbers and not deep_only:
        if re.fullmatch(WIDTH_LISTS, name) and min(value) >= 16:
            return [max(item * 16 // min(value), 16) // 8 * 8 for item in value]
        if re.fullmatch(HEAD_LISTS, name) and min(value) > 0:
            return [max(item // min(value), 1) for item in value]
        if TOKEN.search(name):
            return [token(item) for item in value]
    if numbers and re.search(r"image_size|img_size", name):
        return [_size("image_size", item, sizes) for item in value]
    if any(isinstance(item, dict) for item in value):
        return [shrunk(item, scheme) if isinstance(item, dict) else item for item in value]
    return value
