"""Tiny models of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.wild.inputs import images
from benchmarks.wild.made import Make, entry


def diffusers() -> dict[str, Make]:
    import diffusers as d

    blocks = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
    text = {"cross_attention_dim": 24, "attention_head_dim": 8}

    def noisy(*shape: int, batch: int = 2, **more: tuple[int, ...]) -> Callable[[], dict[str, Any]]:
        return lambda: {
            "sample": torch.randn(batch, *shape),
            "timestep": torch.tensor([7] * batch),
            **{name: torch.randn(batch, *size) for name, size in more.items()},
        }

    def tokens(*shape: int, batch: int = 2, **more: tuple[int, ...]) -> Callable[[], dict[str, Any]]:
        def call() -> dict[str, Any]:
            values = noisy(*shape, batch=batch, **more)()
            return {"hidden_states": values.pop("sample"), **values}

        return call

    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    plain = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    coder = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, **blocks}
    conditioned = [
        noisy(4, 16, 16, encoder_hidden_states=(5, 24)),
        noisy(4, 24, 24, batch=3, encoder_hidden_states=(7, 24)),
    ]
    return {
        "unet": entry(
            lambda: d.UNet2DModel(sample_size=16, attention_head_dim=8, **plain, **blocks),
            noisy(3, 16, 16),
            noisy(3, 32, 32, batch=3),
        ),
        "unet-conditioned": entry(
            lambda: d.UNet2DConditionModel(down_block_types=down, up_block_types=up, **blocks, **text), *conditioned
        ),
        "controlnet": entry(
            lambda: d.ControlNetModel(
                down_block_types=down, conditioning_embedding_out_channels=(8, 16), **blocks, **text
            ),
            noisy(4, 16, 16, encoder_hidden_states=(5, 24), controlnet_cond=(3, 32, 32)),
        ),
        "autoencoder-kl": entry(lambda: d.AutoencoderKL(**coder), images(3, 32, 32), images(3, 64, 64, batch=3)),
        "vq": entry(lambda: d.VQModel(num_vq_embeddings=16, **coder), images(3, 32, 32), images(3, 64, 64, batch=3)),
        "autoencoder-tiny": entry(
            lambda: d.AutoencoderTiny(
                encoder_block_out_channels=(8, 8),
                decoder_block_out_channels=(8, 8),
                num_encoder_blocks=(1, 1),
                num_decoder_blocks=(1, 1),
            ),
            images(3, 32, 32),
        ),
        "dit": entry(
            lambda: d.DiTTransformer2DModel(
                num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8, norm_num_groups=4
            ),
            lambda: {
                "hidden_states": torch.randn(2, 4, 8, 8),
                "timestep": torch.tensor([3, 5]),
                "class_labels": torch.tensor([1, 2]),
            },
        ),
        "pixart": entry(
            lambda: d.PixArtTransformer2DModel(
                num_attention_heads=2,
                attention_head_dim=8,
                num_layers=2,
                sample_size=8,
                caption_channels=12,
                cross_attention_dim=16,
                norm_num_groups=4,
                use_additional_conditions=False,
            ),
            lambda: {
                "hidden_states": torch.randn(2, 4, 8, 8),
                "timestep": torch.tensor([3, 5]),
                "encoder_hidden_states": torch.randn(2, 6, 12),
                "added_cond_kwargs": {},
            },
        ),
        "sd3": entry(
            lambda: d.SD3Transformer2DModel(
                sample_size=8,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=12,
                caption_projection_dim=16,
                pooled_projection_dim=10,
                in_channels=4,
                out_channels=4,
                pos_embed_max_size=16,
            ),
            tokens(4, 8, 8, encoder_hidden_states=(6, 12), pooled_projections=(10,)),
            tokens(4, 12, 12, batch=3, encoder_hidden_states=(4, 12), pooled_projections=(10,)),
        ),
        "flux": entry(
            lambda: d.FluxTransformer2DModel(
                in_channels=4,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=12,
                pooled_projection_dim=10,
                axes_dims_rope=(2, 2, 4),
                guidance_embeds=False,
            ),
            lambda: {
                "hidden_states": torch.randn(2, 16, 4),
                "encoder_hidden_states": torch.randn(2, 6, 12),
                "pooled_projections": torch.randn(2, 10),
                "timestep": torch.rand(2),
                "img_ids": torch.rand(16, 3).round(),
                "txt_ids": torch.zeros(6, 3),
            },
        ),
        "motion": entry(
            lambda: d.UNet3DConditionModel(
                down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
                up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
                **blocks,
                **text,
            ),
            noisy(4, 3, 16, 16, encoder_hidden_states=(5, 24)),
        ),
    }
