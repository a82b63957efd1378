"""Tiny models of vit-pytorch, and one each of libraries that hold one family of classifiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.wild.inputs import images, pictures
from benchmarks.wild.made import Make, entry


def vit_pytorch() -> dict[str, Make]:
    import importlib

    def made(module: str, name: str, **options: Any) -> Callable[[], nn.Module]:
        return lambda: getattr(importlib.import_module(f"vit_pytorch.{module}"), name)(**options)

    plain = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 48}
    less = {k: v for k, v in plain.items() if k not in ("mlp_dim", "heads")}
    kinds: dict[str, tuple[str, str, dict[str, Any], int]] = {
        "vit": ("vit", "ViT", plain, 32),
        "simple-vit": ("simple_vit", "SimpleViT", plain, 32),
        "na-vit-registers": ("simple_vit_with_register_tokens", "SimpleViT", plain, 32),
        "deepvit": ("deepvit", "DeepViT", plain, 32),
        "cait": ("cait", "CaiT", {**plain, "cls_depth": 1}, 32),
        "t2t": (
            "t2t",
            "T2TViT",
            {"image_size": 32, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 32, "num_classes": 5},
            32,
        ),
        "cct": (
            "cct",
            "CCT",
            {
                "img_size": 32,
                "embedding_dim": 32,
                "n_conv_layers": 1,
                "kernel_size": 3,
                "num_layers": 2,
                "num_heads": 2,
                "mlp_ratio": 2.0,
                "num_classes": 5,
            },
            32,
        ),
        "crossvit": (
            "cross_vit",
            "CrossViT",
            {
                "image_size": 32,
                "num_classes": 5,
                "depth": 1,
                "sm_dim": 16,
                "lg_dim": 32,
                "sm_patch_size": 8,
                "lg_patch_size": 16,
                "sm_enc_depth": 1,
                "lg_enc_depth": 1,
            },
            32,
        ),
        "pit": ("pit", "PiT", {**less, "heads": 2, "mlp_dim": 48, "depth": (1, 1), "patch_size": 8}, 32),
        "levit": (
            "levit",
            "LeViT",
            {
                "image_size": 64,
                "num_classes": 5,
                "stages": 2,
                "dim": (32, 48),
                "depth": 1,
                "heads": (2, 3),
                "mlp_mult": 2,
            },
            64,
        ),
        "cvt": (
            "cvt",
            "CvT",
            {"num_classes": 5, "s1_emb_dim": 16, "s2_emb_dim": 16, "s3_emb_dim": 16, "s3_depth": 1},
            64,
        ),
        "twins": (
            "twins_svt",
            "TwinsSVT",
            {
                "num_classes": 5,
                "s1_emb_dim": 16,
                "s2_emb_dim": 16,
                "s3_emb_dim": 16,
                "s4_emb_dim": 16,
                "s4_depth": 1,
                "s1_local_patch_size": 2,
                "s2_local_patch_size": 2,
                "s3_local_patch_size": 2,
                "s4_local_patch_size": 1,
                "s1_global_k": 4,
                "s2_global_k": 4,
                "s3_global_k": 4,
                "s4_global_k": 1,
            },
            64,
        ),
        "crossformer": (
            "crossformer",
            "CrossFormer",
            {
                "num_classes": 5,
                "dim": (32, 32, 32, 32),
                "depth": (1, 1, 1, 1),
                "global_window_size": (4, 2, 2, 1),
                "local_window_size": 2,
            },
            64,
        ),
        "regionvit": (
            "regionvit",
            "RegionViT",
            {"dim": (16, 16, 16, 16), "depth": (1, 1, 1, 1), "window_size": 2, "num_classes": 5},
            64,
        ),
        "nest": (
            "nest",
            "NesT",
            {
                "image_size": 32,
                "patch_size": 4,
                "dim": 16,
                "heads": 2,
                "num_hierarchies": 2,
                "block_repeats": (1, 1),
                "num_classes": 5,
            },
            32,
        ),
        "mobile-vit": (
            "mobile_vit",
            "MobileViT",
            {"image_size": (64, 64), "dims": [16, 16, 16], "channels": [8] * 11, "num_classes": 5, "depths": (1, 1, 1)},
            64,
        ),
        "xcit": ("xcit", "XCiT", {**plain, "cls_depth": 1}, 32),
        "maxvit": (
            "max_vit",
            "MaxViT",
            {"num_classes": 5, "dim": 16, "depth": (1, 1), "dim_head": 8, "window_size": 4},
            64,
        ),
        "parallel": ("parallel_vit", "ViT", {**plain, "num_parallel_branches": 2}, 32),
        "learnable-memory": ("learnable_memory_vit", "ViT", plain, 32),
        "small-data": ("vit_for_small_dataset", "ViT", plain, 32),
    }
    return {name: pictures(made(module, kind, **o), side) for name, (module, kind, o, side) in kinds.items()}


def classifiers() -> dict[str, Make]:
    """One model each of libraries that hold one family of them."""

    def efficientnet() -> nn.Module:
        from efficientnet_pytorch import EfficientNet

        return EfficientNet.from_name("efficientnet-b0", num_classes=5)

    def facenet() -> nn.Module:
        from facenet_pytorch import InceptionResnetV1

        return InceptionResnetV1(pretrained=None)

    def resnest() -> nn.Module:
        from resnest.torch import resnest50

        return resnest50(pretrained=False)

    def xray() -> nn.Module:
        from torchxrayvision.models import DenseNet

        return DenseNet(weights=None, num_classes=3)

    def lpips() -> nn.Module:
        import lpips

        return lpips.LPIPS(pretrained=False, pnet_rand=True, net="alex", verbose=False)

    def sam() -> nn.Module:
        from segment_anything.modeling import ImageEncoderViT

        return ImageEncoderViT(
            64,
            8,
            embed_dim=32,
            depth=2,
            num_heads=4,
            out_chans=16,
            window_size=3,
            use_rel_pos=True,
            global_attn_indexes=(1,),
        )

    def effdet() -> nn.Module:
        from effdet import EfficientDet, get_efficientdet_config

        config = get_efficientdet_config("tf_efficientdet_d0")
        config.image_size = (128, 128)
        return EfficientDet(config, pretrained_backbone=False)

    def resenc() -> nn.Module:
        from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

        return ResidualEncoderUNet(
            1, 3, (8, 16, 32), nn.Conv2d, 3, (1, 2, 2), (1, 1, 1), 2, (1, 1), deep_supervision=True
        )

    def plainunet() -> nn.Module:
        from dynamic_network_architectures.architectures.unet import PlainConvUNet

        return PlainConvUNet(
            1, 3, (8, 16, 32), nn.Conv2d, 3, (1, 2, 2), (1, 1, 1), 2, (1, 1), norm_op=nn.InstanceNorm2d
        )

    def compress(name: str) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            from compressai import models

            return getattr(models, name)(16, 24)

        return make

    def old(name: str) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            import pretrainedmodels

            return getattr(pretrainedmodels, name)(pretrained=None)

        return make

    def catalogue(name: str) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            from pytorchcv.model_provider import get_model

            return get_model(name, pretrained=False)

        return make

    names = (
        "mobilenet_w1",
        "shufflenet_g1_w1",
        "squeezenet_v1_0",
        "darknet53",
        "diracnet18v2",
        "igcv3_w1",
        "ghostnet",
        "sknet50",
        "bam_resnet18",
        "cbam_resnet18",
        "dla34",
        "hardnet39ds",
        "vovnet27s",
        "fishnet99",
        "pyramidnet101_a360",
        "menet108_8x1_g3",
        "condensenet74_c4_g4",
        "peleenet",
        "fdmobilenet_w1",
        "mnasnet_b1",
    )
    return {
        "efficientnet-pytorch": pictures(efficientnet, other=96),
        "facenet-pytorch": pictures(facenet, 96, other=112),
        "torchxrayvision": entry(xray, images(1, 224, 224)),
        "resnest": pictures(resnest, other=96),
        "lpips": entry(
            lpips,
            lambda: (torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)),
            lambda: (torch.rand(1, 3, 96, 64), torch.rand(1, 3, 96, 64)),
        ),
        "segment-anything": pictures(sam),
        "effdet": pictures(effdet, 128),
        "nnunet-residual": entry(resenc, images(1, 64, 64), images(1, 96, 64, batch=3)),
        "nnunet-plain": entry(plainunet, images(1, 64, 64), images(1, 96, 64, batch=3)),
        **{
            f"compressai-{n}": pictures(compress(n), other=128)
            for n in (
                "FactorizedPrior",
                "ScaleHyperprior",
                "MeanScaleHyperprior",
                "JointAutoregressiveHierarchicalPriors",
            )
        },
        **{
            f"pretrainedmodels-{n}": pictures(old(n), side)
            for n, side in (("resnet18", 224), ("bninception", 224), ("xception", 96), ("se_resnet50", 224))
        },
        **{
            f"pytorchcv-{n}": pictures(catalogue(n), 224 if n in ("darknet53", "fishnet99") else 224)
            for n in names[:14]
        },
    }
