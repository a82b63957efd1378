"""Tiny models of libraries for pictures and volumes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.wild.inputs import images, pictures
from benchmarks.wild.made import Make, entry


def monai() -> dict[str, Make]:
    from monai.networks import nets as n

    volume = [images(1, 32, 32, 32), images(1, 32, 32, 64, batch=1)]
    flat = [images(1, 64, 64), images(1, 96, 64, batch=3)]
    return {
        "unet": entry(lambda: n.UNet(3, 1, 2, (8, 16, 32), (2, 2), num_res_units=1), *volume),
        "attention-unet": entry(lambda: n.AttentionUnet(2, 1, 2, (8, 16, 32), (2, 2)), *flat),
        "basic-unet": entry(lambda: n.BasicUNet(2, 1, 2, features=(8, 8, 16, 16, 32, 8)), *flat),
        "basic-unet++": entry(lambda: n.BasicUNetPlusPlus(2, 1, 2, features=(8, 8, 16, 16, 32, 8)), *flat),
        "unetr": entry(
            lambda: n.UNETR(1, 2, (32, 32, 32), feature_size=8, hidden_size=48, mlp_dim=64, num_heads=4), volume[0]
        ),
        "swin-unetr": entry(
            lambda: n.SwinUNETR(1, 2, feature_size=12, spatial_dims=2), images(1, 64, 64), images(1, 96, 64, batch=3)
        ),
        "segresnet": entry(lambda: n.SegResNet(3, 8, 1, 2, blocks_down=(1, 1, 1), blocks_up=(1, 1)), *volume),
        "vnet": entry(lambda: n.VNet(2, 1, 2), images(1, 64, 64)),
        "dynunet": entry(lambda: n.DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 32]), *flat),
        "highresnet": entry(lambda: n.HighResNet(2, 1, 2), *flat),
        "densenet": entry(lambda: n.DenseNet(2, 1, 3, init_features=8, growth_rate=4, block_config=(2, 2)), *flat),
        "senet": entry(lambda: n.SEResNet50(spatial_dims=2, in_channels=1, num_classes=3, layers=(1, 1, 1, 1)), *flat),
        "resnet": entry(
            lambda: n.ResNet("basic", [1, 1, 1, 1], [8, 8, 16, 16], spatial_dims=2, n_input_channels=1), *flat
        ),
        "efficientnet": entry(
            lambda: n.EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=1), *flat
        ),
        "vit": entry(
            lambda: n.ViT(1, (32, 32), (8, 8), 32, 48, 2, 4, spatial_dims=2),
            images(1, 32, 32),
            images(1, 32, 32, batch=3),
        ),
        "autoencoder": entry(lambda: n.AutoEncoder(2, 1, 1, (4, 8), (2, 2)), *flat),
        "regressor": entry(lambda: n.Regressor((1, 32, 32), (2,), (4, 8), (2, 2)), images(1, 32, 32)),
        "flexible-unet": entry(
            lambda: n.FlexibleUNet(1, 2, "efficientnet-b0", decoder_channels=(32, 16, 8, 8, 8), pretrained=False),
            images(1, 64, 64),
        ),
        "diffusion-unet": entry(
            lambda: n.DiffusionModelUNet(
                2,
                1,
                1,
                num_res_blocks=1,
                channels=(8, 16),
                attention_levels=(False, True),
                norm_num_groups=4,
                num_head_channels=8,
            ),
            lambda: (torch.randn(2, 1, 16, 16), torch.tensor([1, 5])),
        ),
    }


def ultralytics() -> dict[str, Make]:
    from ultralytics.nn import tasks as t

    kinds = {
        "yolov8": ("yolov8n.yaml", t.DetectionModel),
        "yolov8-seg": ("yolov8n-seg.yaml", t.SegmentationModel),
        "yolov8-pose": ("yolov8n-pose.yaml", t.PoseModel),
        "yolov8-cls": ("yolov8n-cls.yaml", t.ClassificationModel),
        "yolov5": ("yolov5n.yaml", t.DetectionModel),
        "yolov9": ("yolov9t.yaml", t.DetectionModel),
        "yolov10": ("yolov10n.yaml", t.DetectionModel),
        "yolo11": ("yolo11n.yaml", t.DetectionModel),
        "yolo11-seg": ("yolo11n-seg.yaml", t.SegmentationModel),
        "yolo11-obb": ("yolo11n-obb.yaml", t.OBBModel),
        "yolo12": ("yolo12n.yaml", t.DetectionModel),
        "rtdetr": ("rtdetr-resnet50.yaml", t.RTDETRDetectionModel),
    }
    return {
        name: pictures(lambda file=file, kind=kind: kind(file, verbose=False), other=96)
        for name, (file, kind) in kinds.items()
    }


def kornia() -> dict[str, Make]:
    from kornia import feature as f

    gray = [images(1, 32, 32), images(1, 32, 32, batch=5)]
    wide = [images(1, 64, 64), images(1, 96, 64, batch=1)]
    pair = {"image0": (1, 1, 64, 64), "image1": (1, 1, 64, 64)}

    def vit() -> nn.Module:
        from kornia.models.vit import VisionTransformer

        return VisionTransformer(32, 8, 3, 32, 2, 4)

    def mobile_vit() -> nn.Module:
        from kornia.models.vit_mobile import MobileViT

        return MobileViT("xxs")

    return {
        "hardnet": entry(lambda: f.HardNet(pretrained=False), *gray),
        "sosnet": entry(lambda: f.SOSNet(pretrained=False), *gray),
        "tfeat": entry(lambda: f.TFeat(pretrained=False), *gray),
        "hynet": entry(lambda: f.HyNet(pretrained=False), *gray),
        "disk": entry(lambda: f.DISK(), images(3, 64, 64), images(3, 96, 64, batch=1)),
        "keynet": entry(lambda: f.KeyNet(pretrained=False), *wide),
        "loftr": entry(lambda: f.LoFTR(pretrained=None), lambda: ({k: torch.rand(s) for k, s in pair.items()},)),
        "vit": pictures(vit, 32),
        "mobile-vit": pictures(mobile_vit, 256),
    }


def segmentation() -> dict[str, Make]:
    import segmentation_models_pytorch as smp

    names = (
        "Unet",
        "UnetPlusPlus",
        "MAnet",
        "Linknet",
        "FPN",
        "PSPNet",
        "PAN",
        "DeepLabV3",
        "DeepLabV3Plus",
        "UPerNet",
        "Segformer",
        "DPT",
    )
    encoders = {"DPT": "tu-vit_tiny_patch16_224", "Segformer": "mit_b0"}
    return {
        name.lower(): pictures(
            lambda name=name: getattr(smp, name)(encoders.get(name, "resnet18"), encoder_weights=None, classes=2),
            *((224,) if name == "DPT" else (128, 3, 192)),
        )
        for name in names
    }


def open_clip() -> dict[str, Make]:
    import open_clip

    vision, text = (
        {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        {
            "context_length": 12,
            "vocab_size": 99,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    )
    resnet = {**vision, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}

    def both(batch: int) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
        return lambda: (torch.rand(batch, 3, 32, 32), torch.randint(1, 99, (batch, 12)))

    def made(kind: str, sight: dict[str, Any], **more: Any) -> Callable[[], nn.Module]:
        return lambda: getattr(open_clip, kind)(24, vision_cfg=sight, text_cfg=dict(text), **more)

    return {
        "clip": entry(made("CLIP", vision), both(2), both(3)),
        "clip-resnet": entry(made("CLIP", resnet), both(2), both(3)),
        "text-clip": entry(made("CustomTextCLIP", vision), both(2), both(3)),
    }
