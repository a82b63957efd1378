"""Tiny models of libraries for sound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.wild.inputs import vectors
from benchmarks.wild.made import Make, entry

FRAMES = [vectors(32, 16), vectors(48, 16, batch=3)]


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
        "xvector": entry(
            of("lobes.models.Xvector", "Xvector", in_channels=16, tdnn_channels=[16] * 4 + [32], lin_neurons=12),
            *FRAMES,
        ),
        "crdnn": entry(
            of(
                "lobes.models.CRDNN",
                "CRDNN",
                input_shape=[None, None, 16],
                cnn_channels=[4, 8],
                rnn_layers=1,
                rnn_neurons=8,
                dnn_neurons=8,
            ),
            *FRAMES,
        ),
        "contextnet": entry(
            of(
                "lobes.models.ContextNet",
                "ContextNet",
                input_shape=(8, 32, 16),
                out_channels=16,
                conv_channels=[8] * 3,
                strides=[1, 2, 1],
                num_blocks=3,
                num_layers=2,
            ),
            *FRAMES,
        ),
        "conv-front-end": entry(
            of(
                "lobes.models.convolution",
                "ConvolutionFrontEnd",
                input_shape=(8, 32, 16),
                out_channels=[8, 8, 8],
                num_layers_per_block=1,
            ),
            *FRAMES,
        ),
        "transformer-asr": asr_of(),
        "conformer-asr": asr_of(encoder_module="conformer", normalize_before=True),
        "branchformer-asr": asr_of(encoder_module="branchformer", csgu_linear_units=64),
        "relative-asr": asr_of(encoder_module="conformer", attention_type="RelPosMHAXL", normalize_before=True),
        "hifigan": entry(
            of(
                "lobes.models.HifiGAN",
                "HifiganGenerator",
                in_channels=16,
                out_channels=1,
                resblock_type="1",
                resblock_dilation_sizes=[[1, 3, 5]],
                resblock_kernel_sizes=[3],
                upsample_kernel_sizes=[8, 4],
                upsample_initial_channel=16,
                upsample_factors=[4, 2],
            ),
            vectors(16, 12),
            vectors(16, 20, batch=3),
        ),
        "ligru": entry(of("nnet.RNN", "LiGRU", hidden_size=8, input_shape=(4, 10, 16), bidirectional=True), *FRAMES),
    }


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
        "htdemucs": entry(
            demucs("HTDemucs", nfft=512, depth=3, t_layers=1, t_heads=2, bottom_channels=32), vectors(2, 16384)
        ),
        "encodec": entry(encodec, vectors(1, 4800), vectors(1, 6400, batch=3)),
        "whisper": entry(whisper, heard(2, 8), heard(3, 11)),
        "vocos": entry(vocos, vectors(16, 20), vectors(16, 30, batch=3)),
        "torchaudio-conformer": entry(
            audio("Conformer", input_dim=16, num_heads=2, ffn_dim=32, num_layers=2, depthwise_conv_kernel_size=5),
            *lengths,
        ),
        "torchaudio-emformer": entry(
            audio(
                "Emformer",
                input_dim=16,
                num_heads=2,
                ffn_dim=32,
                num_layers=2,
                segment_length=4,
                right_context_length=2,
            ),
            *lengths,
        ),
        "torchaudio-conv-tasnet": entry(
            audio(
                "ConvTasNet",
                enc_num_feats=16,
                msk_num_feats=8,
                msk_num_hidden_feats=16,
                msk_num_layers=2,
                msk_num_stacks=1,
            ),
            *waves,
        ),
        "torchaudio-deepspeech": entry(
            audio("DeepSpeech", n_feature=16, n_hidden=16, n_class=5), vectors(1, 20, 16), vectors(1, 30, 16, batch=3)
        ),
        "torchaudio-wav2letter": entry(
            audio("Wav2Letter", num_classes=5, input_type="mfcc", num_features=13),
            vectors(13, 60),
            vectors(13, 80, batch=3),
        ),
        "torchaudio-wav2vec2": entry(
            audio(
                "wav2vec2_model",
                extractor_mode="group_norm",
                extractor_conv_layer_config=[(16, 10, 5), (16, 3, 2)],
                extractor_conv_bias=False,
                encoder_embed_dim=32,
                encoder_projection_dropout=0.0,
                encoder_pos_conv_kernel=15,
                encoder_pos_conv_groups=2,
                encoder_num_layers=2,
                encoder_num_heads=2,
                encoder_attention_dropout=0.0,
                encoder_ff_interm_features=48,
                encoder_ff_interm_dropout=0.0,
                encoder_dropout=0.0,
                encoder_layer_norm_first=False,
                encoder_layer_drop=0.0,
                aux_num_out=None,
            ),
            vectors(1200),
            vectors(1500, batch=3),
        ),
    }
