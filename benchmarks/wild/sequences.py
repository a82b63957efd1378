"""Tiny models of libraries for text, sound and tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.wild.made import Make, entry

Arguments = Callable[[], tuple[torch.Tensor, ...]]


def tokens(length: int, batch: int = 2, most: int = 50) -> Arguments:
    return lambda: (torch.randint(1, most, (batch, length)),)


def vectors(*shape: int, batch: int = 2) -> Arguments:
    return lambda: (torch.randn(batch, *shape),)


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
        options = {f"{side}_{k}": v for side in ("enc", "dec") for k, v in
                   {"num_tokens": 50, "depth": 1, "heads": 2, "max_seq_len": 64}.items()}  # fmt: skip
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

    def enformer() -> nn.Module:
        from enformer_pytorch import Enformer

        return Enformer.from_hparams(dim=192, depth=1, heads=2, target_length=-1, num_downsamples=4)

    perceiver = {"num_freq_bands": 2, "depth": 2, "max_freq": 10, "num_latents": 8, "latent_dim": 32, "num_classes": 5}
    io = {"depth": 2, "dim": 16, "queries_dim": 12, "num_latents": 8, "latent_dim": 32, "logits_dim": 5}
    unet = {"dim": 16, "dim_mults": (1, 2)}
    noise = [
        lambda: (torch.randn(2, 3, 16, 16), torch.tensor([1, 7])),
        lambda: (torch.randn(3, 3, 32, 32), torch.tensor([1, 2, 3])),
    ]
    return {
        "perceiver": entry(of("perceiver_pytorch", "Perceiver", **perceiver), vectors(8, 8, 3), vectors(9, 7, 3, batch=3)),
        "perceiver-tied": entry(of("perceiver_pytorch", "Perceiver", weight_tie_layers=True, **perceiver), vectors(8, 8, 3)),
        "perceiver-io": entry(of("perceiver_pytorch", "PerceiverIO", **io), lambda: (torch.randn(2, 9, 16), None, torch.randn(6, 12))),
        "performer": entry(of("performer_pytorch", "PerformerLM", max_seq_len=64, heads=2, **text), *TEXT),
        "reformer": entry(of("reformer_pytorch", "ReformerLM", max_seq_len=64, heads=2, bucket_size=8, **text), *TEXT),
        "linformer": entry(of("linformer", "LinformerLM", seq_len=16, heads=2, k=8, **text), tokens(16), tokens(16, 3)),
        "conformer": entry(of("conformer", "Conformer", heads=2, dim_head=16, **size), vectors(12, 32), vectors(20, 32, batch=3)),
        "g-mlp": entry(of("g_mlp_pytorch", "gMLP", seq_len=16, **text), tokens(16), tokens(16, 3)),
        "mlp-mixer": entry(lambda: of("mlp_mixer_pytorch", "MLPMixer", image_size=32, channels=3, patch_size=8, num_classes=5, **size)(),
                           vectors(3, 32, 32), vectors(3, 32, 32, batch=3)),
        "nystromformer": entry(of("nystrom_attention", "Nystromformer", heads=2, num_landmarks=4, **size), vectors(12, 32), vectors(18, 32, batch=3)),
        "soft-moe": entry(of("soft_moe_pytorch", "SoftMoE", dim=32, seq_len=16), vectors(16, 32), vectors(16, 32, batch=3)),
        "st-moe": entry(of("st_moe_pytorch", "MoE", dim=32, num_experts=4), vectors(16, 32), vectors(20, 32, batch=3)),
        "diffusion-unet": entry(of("denoising_diffusion_pytorch", "Unet", **unet), *noise),
        "vector-quantize": entry(of("vector_quantize_pytorch", "VectorQuantize", dim=16, codebook_size=8), *FRAMES),
        "residual-vq": entry(of("vector_quantize_pytorch", "ResidualVQ", dim=16, codebook_size=8, num_quantizers=3), *FRAMES),
        "fsq": entry(of("vector_quantize_pytorch", "FSQ", levels=[8, 5, 5], dim=16), *FRAMES),
        "lfq": entry(of("vector_quantize_pytorch", "LFQ", codebook_size=16, dim=16), *FRAMES),
        "enformer": entry(enformer, tokens(256, most=4), tokens(384, 3, most=4)),
        "egnn": entry(of("egnn_pytorch", "EGNN_Network", num_tokens=21, dim=16, depth=2, num_nearest_neighbors=3),
                      lambda: (torch.randint(0, 21, (2, 8)), torch.randn(2, 8, 3)), lambda: (torch.randint(0, 21, (1, 11)), torch.randn(1, 11, 3))),
        "local-attention": entry(of("local_attention", "LocalTransformer", max_seq_len=64, local_attn_window_size=8, **text), *TEXT),
    }  # fmt: skip


def speechbrain() -> dict[str, Make]:
    import importlib

    def of(module: str, name: str, **options: Any) -> Callable[[], nn.Module]:
        return lambda: getattr(importlib.import_module(f"speechbrain.{module}"), name)(**options)

    ecapa = {
        "channels": [16] * 4 + [48],
        "res2net_scale": 4,
        "se_channels": 8,
        "attention_channels": 8,
        "lin_neurons": 12,
    }
    asr = {
        "tgt_vocab": 30,
        "input_size": 16,
        "d_model": 32,
        "nhead": 2,
        "num_encoder_layers": 2,
        "num_decoder_layers": 1,
        "d_ffn": 48,
    }
    pairs = [
        lambda: (torch.randn(2, 20, 16), torch.randint(1, 30, (2, 6))),
        lambda: (torch.randn(3, 26, 16), torch.randint(1, 30, (3, 8))),
    ]

    def asr_of(**options: Any) -> Make:
        return entry(of("lobes.models.transformer.TransformerASR", "TransformerASR", **{**asr, **options}), *pairs)

    return {
        "ecapa-tdnn": entry(of("lobes.models.ECAPA_TDNN", "ECAPA_TDNN", input_size=16, **ecapa), *FRAMES),
        "xvector": entry(of("lobes.models.Xvector", "Xvector", in_channels=16, tdnn_channels=[16] * 4 + [32], lin_neurons=12), *FRAMES),
        "crdnn": entry(of("lobes.models.CRDNN", "CRDNN", input_shape=[None, None, 16], cnn_channels=[4, 8], rnn_layers=1, rnn_neurons=8, dnn_neurons=8), *FRAMES),
        "contextnet": entry(of("lobes.models.ContextNet", "ContextNet", input_shape=(8, 32, 16), out_channels=16, conv_channels=[8] * 3, strides=[1, 2, 1], num_blocks=3, num_layers=2), *FRAMES),
        "conv-front-end": entry(of("lobes.models.convolution", "ConvolutionFrontEnd", input_shape=(8, 32, 16), out_channels=[8, 8, 8], num_layers_per_block=1), *FRAMES),
        "transformer-asr": asr_of(),
        "conformer-asr": asr_of(encoder_module="conformer", normalize_before=True),
        "branchformer-asr": asr_of(encoder_module="branchformer", csgu_linear_units=64),
        "relative-asr": asr_of(encoder_module="conformer", attention_type="RelPosMHAXL", normalize_before=True),
        "hifigan": entry(of("lobes.models.HifiGAN", "HifiganGenerator", in_channels=16, out_channels=1, resblock_type="1",
                            resblock_dilation_sizes=[[1, 3, 5]], resblock_kernel_sizes=[3], upsample_kernel_sizes=[8, 4],
                            upsample_initial_channel=16, upsample_factors=[4, 2]), vectors(16, 12), vectors(16, 20, batch=3)),
        "ligru": entry(of("nnet.RNN", "LiGRU", hidden_size=8, input_shape=(4, 10, 16), bidirectional=True), *FRAMES),
    }  # fmt: skip


def sound() -> dict[str, Make]:
    """Of several libraries for sound."""

    def conv_tasnet() -> nn.Module:
        from asteroid.models import ConvTasNet

        return ConvTasNet(2, n_blocks=2, n_repeats=1, bn_chan=8, hid_chan=16, skip_chan=8, n_filters=16)

    def dprnn() -> nn.Module:
        from asteroid.models import DPRNNTasNet

        return DPRNNTasNet(2, bn_chan=8, hid_size=8, chunk_size=20, n_repeats=1, n_filters=16)

    def sudormrf() -> nn.Module:
        from asteroid.models import SuDORMRFNet

        return SuDORMRFNet(2, bn_chan=8, num_blocks=1, upsampling_depth=2, n_filters=16)

    def demucs(name: str, **options: Any) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            import importlib

            return getattr(importlib.import_module(f"demucs.{name.lower()}"), name)(["a", "b"], channels=8, **options)

        return make

    def encodec() -> nn.Module:
        from encodec.model import EncodecModel

        return EncodecModel._get_model([6.0], 24000, 1)

    def whisper() -> nn.Module:
        from whisper.model import ModelDimensions, Whisper

        return Whisper(ModelDimensions(16, 30, 32, 2, 2, 60, 24, 32, 2, 2))

    def vocos() -> nn.Module:
        from vocos.models import VocosBackbone

        return VocosBackbone(16, 24, 48, 2)

    def audio(name: str, **options: Any) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            import torchaudio.models as models

            return getattr(models, name)(**options)

        return make

    waves = [vectors(1, 3200), vectors(1, 4800, batch=3)]
    lengths = [
        lambda: (torch.randn(2, 20, 16), torch.tensor([20, 14])),
        lambda: (torch.randn(3, 26, 16), torch.tensor([26, 9, 20])),
    ]
    heard = lambda batch, n: lambda: (torch.randn(batch, 16, 60), torch.randint(0, 60, (batch, n)))  # noqa: E731
    return {
        "asteroid-conv-tasnet": entry(conv_tasnet, *waves),
        "asteroid-dprnn": entry(dprnn, *waves),
        "asteroid-sudormrf": entry(sudormrf, *waves),
        "demucs": entry(demucs("Demucs", depth=3), vectors(2, 4096), vectors(2, 6000, batch=3)),
        "hdemucs": entry(demucs("HDemucs", depth=6), vectors(2, 44100)),
        "htdemucs": entry(demucs("HTDemucs", nfft=512, depth=3, t_layers=1, t_heads=2, bottom_channels=32), vectors(2, 16384)),
        "encodec": entry(encodec, vectors(1, 4800), vectors(1, 6400, batch=3)),
        "whisper": entry(whisper, heard(2, 8), heard(3, 11)),
        "vocos": entry(vocos, vectors(16, 20), vectors(16, 30, batch=3)),
        "torchaudio-conformer": entry(audio("Conformer", input_dim=16, num_heads=2, ffn_dim=32, num_layers=2, depthwise_conv_kernel_size=5), *lengths),
        "torchaudio-emformer": entry(audio("Emformer", input_dim=16, num_heads=2, ffn_dim=32, num_layers=2, segment_length=4, right_context_length=2), *lengths),
        "torchaudio-conv-tasnet": entry(audio("ConvTasNet", enc_num_feats=16, msk_num_feats=8, msk_num_hidden_feats=16, msk_num_layers=2, msk_num_stacks=1), *waves),
        "torchaudio-deepspeech": entry(audio("DeepSpeech", n_feature=16, n_hidden=16, n_class=5), vectors(1, 20, 16), vectors(1, 30, 16, batch=3)),
        "torchaudio-wav2letter": entry(audio("Wav2Letter", num_classes=5, input_type="mfcc", num_features=13), vectors(13, 60), vectors(13, 80, batch=3)),
        "torchaudio-wav2vec2": entry(audio("wav2vec2_model", extractor_mode="group_norm", extractor_conv_layer_config=[(16, 10, 5), (16, 3, 2)],
            extractor_conv_bias=False, encoder_embed_dim=32, encoder_projection_dropout=0.0, encoder_pos_conv_kernel=15, encoder_pos_conv_groups=2,
            encoder_num_layers=2, encoder_num_heads=2, encoder_attention_dropout=0.0, encoder_ff_interm_features=48, encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0, encoder_layer_norm_first=False, encoder_layer_drop=0.0, aux_num_out=None), vectors(1200), vectors(1500, batch=3)),
    }  # fmt: skip


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
