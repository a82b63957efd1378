"""Tiny models of libraries for pictures, volumes and meshes of features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.wild.made import Make, entry


def images(*shape: int, batch: int = 2) -> Callable[[], tuple[torch.Tensor]]:
    return lambda: (torch.rand(batch, *shape),)


def pictures(model: Callable[[], nn.Module], side: int = 64, channels: int = 3, other: int | None = 0) -> Make:
    """An entry that takes pictures; `other` is a second side, where a model takes several."""
    calls = [images(channels, side, side), images(channels, other or side, other or side, batch=3)]
    return entry(model, *calls)


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
    conditioned = [noisy(4, 16, 16, encoder_hidden_states=(5, 24)),
                   noisy(4, 24, 24, batch=3, encoder_hidden_states=(7, 24))]  # fmt: skip
    return {
        "unet": entry(lambda: d.UNet2DModel(sample_size=16, attention_head_dim=8, **plain, **blocks),
                      noisy(3, 16, 16), noisy(3, 32, 32, batch=3)),
        "unet-conditioned": entry(
            lambda: d.UNet2DConditionModel(down_block_types=down, up_block_types=up, **blocks, **text), *conditioned),
        "unet-1d": entry(lambda: d.UNet1DModel(block_out_channels=(8, 8, 16), sample_size=64, extra_in_channels=16),
                         noisy(2, 64)),
        "controlnet": entry(
            lambda: d.ControlNetModel(down_block_types=down, conditioning_embedding_out_channels=(8, 16), **blocks, **text),
            noisy(4, 16, 16, encoder_hidden_states=(5, 24), controlnet_cond=(3, 32, 32))),
        "autoencoder-kl": entry(lambda: d.AutoencoderKL(**coder), images(3, 32, 32), images(3, 64, 64, batch=3)),
        "vq": entry(lambda: d.VQModel(num_vq_embeddings=16, **coder), images(3, 32, 32), images(3, 64, 64, batch=3)),
        "autoencoder-tiny": entry(
            lambda: d.AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                                      num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)), images(3, 32, 32)),
        "dit": entry(
            lambda: d.DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8,
                                            norm_num_groups=4),
            lambda: {"hidden_states": torch.randn(2, 4, 8, 8), "timestep": torch.tensor([3, 5]),
                     "class_labels": torch.tensor([1, 2])}),
        "pixart": entry(
            lambda: d.PixArtTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8,
                                               caption_channels=12, cross_attention_dim=16, norm_num_groups=4,
                                               use_additional_conditions=False),
            lambda: {"hidden_states": torch.randn(2, 4, 8, 8), "timestep": torch.tensor([3, 5]),
                     "encoder_hidden_states": torch.randn(2, 6, 12), "added_cond_kwargs": {}}),
        "sd3": entry(
            lambda: d.SD3Transformer2DModel(sample_size=8, num_layers=2, attention_head_dim=8, num_attention_heads=2,
                                            joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=10,
                                            in_channels=4, out_channels=4, pos_embed_max_size=16),
            tokens(4, 8, 8, encoder_hidden_states=(6, 12), pooled_projections=(10,)),
            tokens(4, 12, 12, batch=3, encoder_hidden_states=(4, 12), pooled_projections=(10,))),
        "flux": entry(
            lambda: d.FluxTransformer2DModel(in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
                                             num_attention_heads=2, joint_attention_dim=12, pooled_projection_dim=10,
                                             axes_dims_rope=(2, 2, 4), guidance_embeds=False),
            lambda: {"hidden_states": torch.randn(2, 16, 4), "encoder_hidden_states": torch.randn(2, 6, 12),
                     "pooled_projections": torch.randn(2, 10), "timestep": torch.rand(2),
                     "img_ids": torch.rand(16, 3).round(), "txt_ids": torch.zeros(6, 3)}),
        "motion": entry(
            lambda: d.UNet3DConditionModel(
                down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
                up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), **blocks, **text),
            noisy(4, 3, 16, 16, encoder_hidden_states=(5, 24))),
    }  # fmt: skip


def monai() -> dict[str, Make]:
    from monai.networks import nets as n

    volume = [images(1, 32, 32, 32), images(1, 32, 32, 64, batch=1)]
    flat = [images(1, 64, 64), images(1, 96, 64, batch=3)]
    return {
        "unet": entry(lambda: n.UNet(3, 1, 2, (8, 16, 32), (2, 2), num_res_units=1), *volume),
        "attention-unet": entry(lambda: n.AttentionUnet(2, 1, 2, (8, 16, 32), (2, 2)), *flat),
        "basic-unet": entry(lambda: n.BasicUNet(2, 1, 2, features=(8, 8, 16, 16, 32, 8)), *flat),
        "basic-unet++": entry(lambda: n.BasicUNetPlusPlus(2, 1, 2, features=(8, 8, 16, 16, 32, 8)), *flat),
        "unetr": entry(lambda: n.UNETR(1, 2, (32, 32, 32), feature_size=8, hidden_size=48, mlp_dim=64, num_heads=4), volume[0]),
        "swin-unetr": entry(lambda: n.SwinUNETR(1, 2, feature_size=12, spatial_dims=2), images(1, 64, 64), images(1, 96, 64, batch=3)),
        "segresnet": entry(lambda: n.SegResNet(3, 8, 1, 2, blocks_down=(1, 1, 1), blocks_up=(1, 1)), *volume),
        "vnet": entry(lambda: n.VNet(2, 1, 2), images(1, 64, 64)),
        "dynunet": entry(lambda: n.DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 32]), *flat),
        "highresnet": entry(lambda: n.HighResNet(2, 1, 2), *flat),
        "densenet": entry(lambda: n.DenseNet(2, 1, 3, init_features=8, growth_rate=4, block_config=(2, 2)), *flat),
        "senet": entry(lambda: n.SEResNet50(spatial_dims=2, in_channels=1, num_classes=3, layers=(1, 1, 1, 1)), *flat),
        "resnet": entry(lambda: n.ResNet("basic", [1, 1, 1, 1], [8, 8, 16, 16], spatial_dims=2, n_input_channels=1), *flat),
        "efficientnet": entry(lambda: n.EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=1), *flat),
        "vit": entry(lambda: n.ViT(1, (32, 32), (8, 8), 32, 48, 2, 4, spatial_dims=2), images(1, 32, 32), images(1, 32, 32, batch=3)),
        "autoencoder": entry(lambda: n.AutoEncoder(2, 1, 1, (4, 8), (2, 2)), *flat),
        "regressor": entry(lambda: n.Regressor((1, 32, 32), (2,), (4, 8), (2, 2)), images(1, 32, 32)),
        "flexible-unet": entry(lambda: n.FlexibleUNet(1, 2, "efficientnet-b0", decoder_channels=(32, 16, 8, 8, 8), pretrained=False), images(1, 64, 64)),
        "diffusion-unet": entry(
            lambda: n.DiffusionModelUNet(2, 1, 1, num_res_blocks=1, channels=(8, 16), attention_levels=(False, True),
                                         norm_num_groups=4, num_head_channels=8),
            lambda: (torch.randn(2, 1, 16, 16), torch.tensor([1, 5]))),
        "mednext": entry(lambda: n.MedNeXtS(spatial_dims=2, in_channels=1, out_channels=2, filters=4), images(1, 64, 64)),
    }  # fmt: skip


def ultralytics() -> dict[str, Make]:
    from ultralytics.nn import tasks as t

    kinds = {
        "yolov8": ("yolov8n.yaml", t.DetectionModel), "yolov8-seg": ("yolov8n-seg.yaml", t.SegmentationModel),
        "yolov8-pose": ("yolov8n-pose.yaml", t.PoseModel), "yolov8-cls": ("yolov8n-cls.yaml", t.ClassificationModel),
        "yolov5": ("yolov5n.yaml", t.DetectionModel), "yolov9": ("yolov9t.yaml", t.DetectionModel),
        "yolov10": ("yolov10n.yaml", t.DetectionModel), "yolo11": ("yolo11n.yaml", t.DetectionModel),
        "yolo11-seg": ("yolo11n-seg.yaml", t.SegmentationModel), "yolo11-obb": ("yolo11n-obb.yaml", t.OBBModel),
        "yolo12": ("yolo12n.yaml", t.DetectionModel), "rtdetr": ("rtdetr-resnet50.yaml", t.RTDETRDetectionModel),
    }  # fmt: skip
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
        "sift": entry(lambda: f.SIFTDescriptor(32), *gray),
        "loftr": entry(lambda: f.LoFTR(pretrained=None), lambda: ({k: torch.rand(s) for k, s in pair.items()},)),
        "vit": pictures(vit, 32),
        "mobile-vit": pictures(mobile_vit, 256),
    }


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
        "t2t": ("t2t", "T2TViT", {"image_size": 32, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 32, "num_classes": 5}, 32),
        "cct": ("cct", "CCT", {"img_size": 32, "embedding_dim": 32, "n_conv_layers": 1, "kernel_size": 3, "num_layers": 2,
                               "num_heads": 2, "mlp_ratio": 2.0, "num_classes": 5}, 32),
        "crossvit": ("cross_vit", "CrossViT", {"image_size": 32, "num_classes": 5, "depth": 1, "sm_dim": 16, "lg_dim": 32,
                                               "sm_patch_size": 8, "lg_patch_size": 16, "sm_enc_depth": 1, "lg_enc_depth": 1}, 32),
        "pit": ("pit", "PiT", {**less, "heads": 2, "mlp_dim": 48, "depth": (1, 1), "patch_size": 8}, 32),
        "levit": ("levit", "LeViT", {"image_size": 64, "num_classes": 5, "stages": 2, "dim": (32, 48), "depth": 1, "heads": (2, 3), "mlp_mult": 2}, 64),
        "cvt": ("cvt", "CvT", {"num_classes": 5, "s1_emb_dim": 16, "s2_emb_dim": 16, "s3_emb_dim": 16, "s3_depth": 1}, 64),
        "twins": ("twins_svt", "TwinsSVT", {"num_classes": 5, "s1_emb_dim": 16, "s2_emb_dim": 16, "s3_emb_dim": 16, "s4_emb_dim": 16, "s4_depth": 1,
                                            "s1_local_patch_size": 2, "s2_local_patch_size": 2, "s3_local_patch_size": 2, "s4_local_patch_size": 1,
                                            "s1_global_k": 4, "s2_global_k": 4, "s3_global_k": 4, "s4_global_k": 1}, 64),
        "crossformer": ("crossformer", "CrossFormer", {"num_classes": 5, "dim": (32, 32, 32, 32), "depth": (1, 1, 1, 1), "global_window_size": (4, 2, 2, 1), "local_window_size": 2}, 64),
        "regionvit": ("regionvit", "RegionViT", {"dim": (16, 16, 16, 16), "depth": (1, 1, 1, 1), "window_size": 2, "num_classes": 5}, 64),
        "nest": ("nest", "NesT", {"image_size": 32, "patch_size": 4, "dim": 16, "heads": 2, "num_hierarchies": 2, "block_repeats": (1, 1), "num_classes": 5}, 32),
        "mobile-vit": ("mobile_vit", "MobileViT", {"image_size": (64, 64), "dims": [16, 16, 16], "channels": [8] * 11, "num_classes": 5, "depths": (1, 1, 1)}, 64),
        "xcit": ("xcit", "XCiT", {**plain, "cls_depth": 1}, 32),
        "maxvit": ("max_vit", "MaxViT", {"num_classes": 5, "dim": 16, "depth": (1, 1), "dim_head": 8, "window_size": 4}, 64),
        "parallel": ("parallel_vit", "ViT", {**plain, "num_parallel_branches": 2}, 32),
        "learnable-memory": ("learnable_memory_vit", "ViT", plain, 32),
        "small-data": ("vit_for_small_dataset", "ViT", plain, 32),
        "sep": ("sep_vit", "SepViT", {"num_classes": 5, "dim": 8, "depth": (1, 1, 1), "heads": (1, 2, 2), "window_size": 4}, 64),
    }  # fmt: skip
    return {name: pictures(made(module, kind, **o), side) for name, (module, kind, o, side) in kinds.items()}


def segmentation() -> dict[str, Make]:
    import segmentation_models_pytorch as smp

    names = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
             "Segformer", "DPT")  # fmt: skip
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

    vision, text = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}, {
        "context_length": 12, "vocab_size": 99, "width": 32, "heads": 2, "layers": 2,
    }  # fmt: skip
    resnet = {**vision, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}

    def both(batch: int) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
        return lambda: (torch.rand(batch, 3, 32, 32), torch.randint(1, 99, (batch, 12)))

    def made(kind: str, sight: dict[str, Any], **more: Any) -> Callable[[], nn.Module]:
        return lambda: getattr(open_clip, kind)(24, vision_cfg=sight, text_cfg=dict(text), **more)

    return {
        "clip": entry(made("CLIP", vision), both(2), both(3)),
        "clip-resnet": entry(made("CLIP", resnet), both(2), both(3)),
        "text-clip": entry(made("CustomTextCLIP", vision), both(2), both(3)),
        "coca": entry(made("CoCa", {**vision, "attentional_pool": True, "attn_pooler_heads": 2},
                           multimodal_cfg={**text, "mlp_ratio": 2}), both(2)),
    }  # fmt: skip


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

    def lpips() -> nn.Module:
        import lpips

        return lpips.LPIPS(pretrained=False, pnet_rand=True, net="alex", verbose=False)

    def sam() -> nn.Module:
        from segment_anything.modeling import ImageEncoderViT

        return ImageEncoderViT(64, 8, embed_dim=32, depth=2, num_heads=4, out_chans=16, window_size=3, use_rel_pos=True,
                               global_attn_indexes=(1,))  # fmt: skip

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

    names = ("mobilenet_w1", "shufflenet_g1_w1", "squeezenet_v1_0", "darknet53", "diracnet18v2", "igcv3_w1", "ghostnet",
             "sknet50", "bam_resnet18", "cbam_resnet18", "dla34", "hardnet39ds", "vovnet27s", "fishnet99", "pyramidnet101_a360",
             "menet108_8x1_g3", "condensenet74_c4_g4", "peleenet", "fdmobilenet_w1", "mnasnet_b1")  # fmt: skip
    return {
        "efficientnet-pytorch": pictures(efficientnet, other=96),
        "facenet-pytorch": pictures(facenet, 96, other=112),
        "resnest": pictures(resnest, other=96),
        "lpips": entry(lpips, lambda: (torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)),
                       lambda: (torch.rand(1, 3, 96, 64), torch.rand(1, 3, 96, 64))),
        "segment-anything": pictures(sam),
        "effdet": pictures(effdet, 128),
        "nnunet-residual": entry(resenc, images(1, 64, 64), images(1, 96, 64, batch=3)),
        "nnunet-plain": entry(plainunet, images(1, 64, 64), images(1, 96, 64, batch=3)),
        **{f"compressai-{n}": pictures(compress(n), other=128)
           for n in ("FactorizedPrior", "ScaleHyperprior", "MeanScaleHyperprior", "JointAutoregressiveHierarchicalPriors")},
        **{f"pretrainedmodels-{n}": pictures(old(n), side)
           for n, side in (("resnet18", 224), ("bninception", 224), ("xception", 96), ("se_resnet50", 224))},
        **{f"pytorchcv-{n}": pictures(catalogue(n), 224 if n in ("darknet53", "fishnet99") else 224) for n in names[:14]},
    }  # fmt: skip
