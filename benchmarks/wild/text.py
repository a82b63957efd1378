"""Tiny models of libraries for text and proteins, of one architecture each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.wild.inputs import tokens, vectors
from benchmarks.wild.made import Make, entry

TEXT = [tokens(16), tokens(32, 3)]
FRAMES = [vectors(32, 16), vectors(48, 16, batch=3)]


def x_transformers() -> dict[str, Make]:
    import x_transformers as x

    size = {"dim": 32, "depth": 2, "heads": 2, "attn_dim_head": 16}

    def language(layers: Any = x.Decoder, **options: Any) -> Make:
        def make() -> nn.Module:
            return x.TransformerWrapper(num_tokens=50, max_seq_len=64, attn_layers=layers(**size, **options))

        return entry(make, *TEXT)

    def continuous() -> nn.Module:
        return x.ContinuousTransformerWrapper(dim_in=16, dim_out=8, max_seq_len=64, attn_layers=x.Encoder(**size))

    def vit() -> nn.Module:
        return x.ViTransformerWrapper(image_size=32, patch_size=8, num_classes=5, attn_layers=x.Encoder(**size))

    def both() -> nn.Module:
        options = {
            f"{side}_{k}": v
            for side in ("enc", "dec")
            for k, v in {"num_tokens": 50, "depth": 1, "heads": 2, "max_seq_len": 64}.items()
        }
        return x.XTransformer(dim=32, **options)

    return {
        "decoder": language(),
        "encoder": language(x.Encoder),
        "rotary": language(rotary_pos_emb=True),
        "alibi": language(alibi_pos_bias=True, alibi_num_heads=2),
        "t5-bias": language(rel_pos_bias=True),
        "swiglu-rms": language(use_rmsnorm=True, ff_swish=True, ff_glu=True),
        "talking-heads": language(attn_pre_talking_heads=True),
        "sparse-topk": language(attn_sparse_topk=4),
        "memory": language(attn_num_mem_kv=4),
        "macaron": language(macaron=True),
        "sandwich": language(sandwich_coef=1),
        "gated-residual": language(gate_residual=True),
        "shift-tokens": language(shift_tokens=1),
        "grouped": language(attn_kv_heads=1),
        "continuous": entry(continuous, *FRAMES),
        "vit": entry(vit, vectors(3, 32, 32), vectors(3, 32, 32, batch=3)),
        "encoder-decoder": entry(both, lambda: (torch.randint(1, 50, (2, 9)), torch.randint(1, 50, (2, 7)))),
    }


def lucidrains() -> dict[str, Make]:
    """Libraries of one architecture each."""

    def of(module: str, name: str, **options: Any) -> Callable[[], nn.Module]:
        import importlib

        return lambda: getattr(importlib.import_module(module), name)(**options)

    size = {"dim": 32, "depth": 2}
    text = {"num_tokens": 50, **size}

    perceiver = {"num_freq_bands": 2, "depth": 2, "max_freq": 10, "num_latents": 8, "latent_dim": 32, "num_classes": 5}
    io = {"depth": 2, "dim": 16, "queries_dim": 12, "num_latents": 8, "latent_dim": 32, "logits_dim": 5}
    unet = {"dim": 16, "dim_mults": (1, 2)}
    noise = [
        lambda: (torch.randn(2, 3, 16, 16), torch.tensor([1, 7])),
        lambda: (torch.randn(3, 3, 32, 32), torch.tensor([1, 2, 3])),
    ]
    return {
        "perceiver": entry(
            of("perceiver_pytorch", "Perceiver", **perceiver), vectors(8, 8, 3), vectors(9, 7, 3, batch=3)
        ),
        "perceiver-tied": entry(
            of("perceiver_pytorch", "Perceiver", weight_tie_layers=True, **perceiver), vectors(8, 8, 3)
        ),
        "perceiver-io": entry(
            of("perceiver_pytorch", "PerceiverIO", **io), lambda: (torch.randn(2, 9, 16), None, torch.randn(6, 12))
        ),
        "performer": entry(of("performer_pytorch", "PerformerLM", max_seq_len=64, heads=2, **text), *TEXT),
        "reformer": entry(of("reformer_pytorch", "ReformerLM", max_seq_len=64, heads=2, bucket_size=8, **text), *TEXT),
        "linformer": entry(of("linformer", "LinformerLM", seq_len=16, heads=2, k=8, **text), tokens(16), tokens(16, 3)),
        "conformer": entry(
            of("conformer", "Conformer", heads=2, dim_head=16, **size), vectors(12, 32), vectors(20, 32, batch=3)
        ),
        "g-mlp": entry(of("g_mlp_pytorch", "gMLP", seq_len=16, **text), tokens(16), tokens(16, 3)),
        "mlp-mixer": entry(
            lambda: of(
                "mlp_mixer_pytorch", "MLPMixer", image_size=32, channels=3, patch_size=8, num_classes=5, **size
            )(),
            vectors(3, 32, 32),
            vectors(3, 32, 32, batch=3),
        ),
        "nystromformer": entry(
            of("nystrom_attention", "Nystromformer", heads=2, num_landmarks=4, **size),
            vectors(12, 32),
            vectors(18, 32, batch=3),
        ),
        "soft-moe": entry(
            of("soft_moe_pytorch", "SoftMoE", dim=32, seq_len=16), vectors(16, 32), vectors(16, 32, batch=3)
        ),
        "st-moe": entry(of("st_moe_pytorch", "MoE", dim=32, num_experts=4), vectors(16, 32), vectors(20, 32, batch=3)),
        "diffusion-unet": entry(of("denoising_diffusion_pytorch", "Unet", **unet), *noise),
        "vector-quantize": entry(of("vector_quantize_pytorch", "VectorQuantize", dim=16, codebook_size=8), *FRAMES),
        "residual-vq": entry(
            of("vector_quantize_pytorch", "ResidualVQ", dim=16, codebook_size=8, num_quantizers=3), *FRAMES
        ),
        "fsq": entry(of("vector_quantize_pytorch", "FSQ", levels=[8, 5, 5], dim=16), *FRAMES),
        "lfq": entry(of("vector_quantize_pytorch", "LFQ", codebook_size=16, dim=16), *FRAMES),
        "egnn": entry(
            of("egnn_pytorch", "EGNN_Network", num_tokens=21, dim=16, depth=2, num_nearest_neighbors=3),
            lambda: (torch.randint(0, 21, (2, 8)), torch.randn(2, 8, 3)),
            lambda: (torch.randint(0, 21, (1, 11)), torch.randn(1, 11, 3)),
        ),
        "local-attention": entry(
            of("local_attention", "LocalTransformer", max_seq_len=64, local_attn_window_size=8, **text), *TEXT
        ),
    }


def language() -> dict[str, Make]:
    """Of several libraries for text and proteins."""

    def esm2() -> nn.Module:
        from esm.model.esm2 import ESM2

        return ESM2(2, 32, 4)

    def mamba() -> nn.Module:
        from mambapy.mamba import Mamba, MambaConfig

        return Mamba(MambaConfig(d_model=32, n_layers=2, d_state=4))

    def sentence() -> nn.Module:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Dense, Normalize, Pooling

        class Embeds(nn.Module):
            """Stands for the transformer, which would come with a tokenizer."""

            def __init__(self) -> None:
                super().__init__()
                self.embed, self.norm = nn.Embedding(50, 32), nn.LayerNorm(32)

            def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
                features["token_embeddings"] = self.norm(self.embed(features["input_ids"]))
                return features

        return SentenceTransformer(modules=[Embeds(), Pooling(32), Dense(32, 16), Normalize()], device="cpu")

    def features(batch: int, length: int) -> Callable[[], tuple[dict[str, torch.Tensor]]]:
        return lambda: (
            {"input_ids": torch.randint(1, 50, (batch, length)), "attention_mask": torch.ones(batch, length)},
        )

    proteins = [tokens(12, most=20), tokens(18, 3, most=20)]
    return {
        "fair-esm": entry(esm2, *proteins),
        "mambapy": entry(mamba, vectors(12, 32), vectors(18, 32, batch=3)),
        "sentence-transformers": entry(sentence, features(2, 9), features(3, 14)),
    }
