"""Every family of torchvision and timm, and segmentation_models_pytorch, cut at random places.

Most take a while and are marked `zoo`; thirty small and fast families of timm are always run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.video.mvit import MSBlockConfig, MViT
from zoo import Arguments, Entry, check, check_live, each

models = torchvision.models

# Old modules, and what the models themselves warn of.
pytestmark = pytest.mark.filterwarnings("ignore")


def images(*shape: int) -> Callable[[int], Arguments]:
    """Two images, or three."""
    return lambda size: ((torch.randn(2 + size, *shape),), {})


def scalable(height: int, *depth: int) -> Callable[[int], Arguments]:
    """Two images, or three that are wider."""
    return lambda size: ((torch.randn(2 + size, 3, *depth, height, height + 32 * size),), {})


def make(name: str, **options: Any) -> Callable[[], nn.Module]:
    return functools.partial(models.get_model, name, weights=None, **options)


# -- torchvision -----------------------------------------------------------------------------------------------------

CLASSIFIERS = {
    **{
        name: Entry(make(name), scalable(64))
        for name in """
        alexnet densenet121 efficientnet_b0 efficientnet_v2_s mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf
        regnet_y_400mf resnet18 resnet50 resnext50_32x4d wide_resnet50_2 shufflenet_v2_x0_5 squeezenet1_0 squeezenet1_1
        vgg11_bn convnext_tiny swin_t
        """.split()
    },
    "googlenet": Entry(make("googlenet", init_weights=False), scalable(64)),
    "inception_v3": Entry(make("inception_v3", init_weights=False), scalable(128)),
    "vit_b_32": Entry(make("vit_b_32"), images(3, 224, 224)),
    "maxvit_t": Entry(make("maxvit_t"), images(3, 224, 224)),
    "swin_v2_t": Entry(make("swin_v2_t"), scalable(64)),
}
SEGMENTATION = {
    name: Entry(make(name, weights_backbone=None), scalable(64))
    for name in models.list_models(module=models.segmentation)
    if "101" not in name
}


def small_mvit() -> nn.Module:
    """Six blocks of a second MViT: the smallest ready one fixes its clips at a size where a pass holds gigabytes."""
    widths = [(1, 96, 192), (2, 192, 192), (2, 192, 384), (4, 384, 384), (4, 384, 768), (8, 768, 768)]
    pools = [2 if wide > narrow else 1 for _, narrow, wide in widths]
    blocks = [
        MSBlockConfig(heads, narrow, wide, [3, 3, 3], [3, 3, 3], [1, pool, pool], [1, 2, 2])
        for (heads, narrow, wide), pool in zip(widths, [1, *pools])
    ]
    second = {"residual_pool": True, "residual_with_cls_embed": False, "rel_pos_embed": True, "proj_after_attn": True}
    return MViT(spatial_size=(64, 64), temporal_size=8, block_setting=blocks, **second)


VIDEO = {
    **{name: Entry(make(name), scalable(64, 8)) for name in ("mc3_18", "r2plus1d_18", "r3d_18", "swin3d_t")},
    "s3d": Entry(make("s3d"), images(3, 14, 224, 224), cuts=1),
    "mvit_v2": Entry(small_mvit, images(3, 8, 64, 64)),
}
QUANTIZABLE = {
    f"{'quantized' if quantize else 'quantizable'}-{name}": Entry(
        functools.partial(getattr(models.quantization, name), weights=None, quantize=quantize, **options),
        scalable(size),
        train=not quantize,
        exact=not quantize,
        random=not quantize,
    )
    for quantize in (False, True)
    for name, size, options in (
        ("googlenet", 64, {"init_weights": False}),
        ("inception_v3", 128, {"init_weights": False}),
        ("mobilenet_v2", 64, {}),
        ("mobilenet_v3_large", 64, {}),
        ("resnet18", 64, {}),
        ("shufflenet_v2_x0_5", 64, {}),
    )
    if not (quantize and name == "mobilenet_v3_large")  # torch has no kernel for its quantized activation
}


def frames(size: int) -> Arguments:
    return (torch.rand(1 + size, 3, 128, 128 + 8 * size), torch.rand(1 + size, 3, 128, 128 + 8 * size)), {}


def photos(size: int) -> Arguments:
    """A list of images that differ in height."""
    return ([torch.rand(3, 100 - 10 * size + 10 * i, 120 + 20 * size) for i in range(2)],), {}


def detector(name: str) -> Entry:
    options = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 160}
    # Training needs labels. What decides which boxes are kept has no gradient, so autograd cannot say what is needed.
    return Entry(make(name, weights_backbone=None, **options), photos, train=False, exact=False, random=False, cuts=2)


# What one round hands to the next is detached, so autograd does not see it.
FLOW = {name: Entry(make(name), frames, exact=False, cuts=2) for name in ("raft_small", "raft_large")}
DETECTION = {name: detector(name) for name in models.list_models(module=models.detection)}


@pytest.mark.zoo
@each({**CLASSIFIERS, **SEGMENTATION, **VIDEO, **QUANTIZABLE, **FLOW, **DETECTION})
def test_torchvision(name: str, entry: Entry, record_property: Any) -> None:
    check(name, entry, record_property)


# -- timm ------------------------------------------------------------------------------------------------------------

SMALL = """
    pvt_v2:pvt_v2_b0:128 byobnet:test_byobnet:160 coat:coat_lite_tiny:224 convnext:test_convnext:160
    cspnet:cs3darknet_focus_s:128 cspnext:cspnext_s:128 densenet:densenet121:64 dla:dla46_c:64 dpn:dpn48b:64
    edgenext:edgenext_small:128 efficientformer_v2:efficientformerv2_s0:224 efficientnet:test_efficientnet:160
    efficientvit_mit:efficientvit_b0:128 efficientvit_msra:efficientvit_m0:224 fasternet:fasternet_t0:128
    ghostnet:ghostnet_050:128 hardcorenas:hardcorenas_a:128 hgnet:hgnetv2_b0:128 inception_next:inception_next_atto:128
    lcnetv2:lcnetv2_small:128 levit:levit_128s:224 lowformer:lowformer_b0:128 mambaout:test_mambaout:160
    maxxvit:test_coatnet:160 mobilenetv3:mobilenetv3_small_050:128 mobilevit:mobilevit_s:128 regnet:regnetx_002:128
    repvit:repvit_m0_9:128 resnet:test_resnet:160 vision_transformer:test_vit:160
""".split()
LARGER = """
    cait:cait_xxs24_224:224 convit:convit_tiny:224 convmixer:convmixer_768_32:64
    cpubone:cpubone_nano:224 crossvit:crossvit_tiny_240:240 csatv2:csatv2:512 davit:davit_tiny:224
    deit:deit_tiny_distilled_patch16_224:224 efficientformer:efficientformer_l1:224 efficientvim:efficientvim_m1:224
    eva:eva02_tiny_patch14_224:224 fastvit:fastvit_t8:128 focalnet:focalnet_tiny_srf:224 gcvit:gcvit_xxtiny:224
    hiera:hiera_tiny_224:224 hieradet_sam2:sam2_hiera_tiny:256 hrnet:hrnet_w18_small:64 iformer:iformer_t:224
    inception_resnet_v2:inception_resnet_v2:128 inception_v3:inception_v3:128 inception_v4:inception_v4:128
    metaformer:poolformerv2_s12:128 mlp_mixer:gmlp_ti16_224:224 mvitv2:mvitv2_tiny:224 nest:jx_nest_tiny:224
    nextvit:nextvit_small:128 nfnet:test_nfnet:160 pit:pit_ti_224:224 byoanet:halonet_h1:256 rdnet:rdnet_tiny:128
    repghost:repghostnet_050:128 res2net:res2next50:64 resnest:resnest14d:64 resnetv2:resnetv2_18:64
    rexnet:rexnet_100:128 selecsls:selecsls42:128 senet:legacy_seresnet18:64 sequencer:sequencer2d_s:224
    shvit:shvit_s1:224 sknet:skresnet18:64 starnet:starnet_s050:128 swiftformer:swiftformer_s:224
    swin_transformer:swin_tiny_patch4_window7_224:224 swin_transformer_v2:swinv2_tiny_window8_256:256
    swin_transformer_v2_cr:swinv2_cr_tiny_224:224 tiny_vit:tiny_vit_5m_224:224 tnt:tnt_s_legacy_patch16_224:224
    tresnet:tresnet_m:64 twins:twins_svt_small:224 visformer:visformer_tiny:224
    vision_transformer_hybrid:vit_tiny_r_s16_p8_224:224 vision_transformer_relpos:test_vit_relpos:160
    vitamin:vitamin_small_224:224 volo:volo_d1_224:224 vovnet:ese_vovnet19b_slim:64 xception:legacy_xception:128
    xception_aligned:xception41p:128 xcit:xcit_nano_12_p16_224:224
""".split()


# Families that have no small variant, with fewer and narrower layers.
NARROW = {"depth": 2, "embed_dim": 48, "num_heads": 3}
SHRUNK = {
    "beit": Entry(functools.partial(timm.create_model, "beit_base_patch16_224", **NARROW), images(3, 224, 224)),
    "vgg": Entry(functools.partial(timm.create_model, "vgg11", num_classes=10), scalable(64), cuts=2),
    "naflexvit": Entry(
        functools.partial(timm.create_model, "naflexvit_base_patch16_gap", **NARROW), images(3, 224, 224)
    ),
    "vision_transformer_sam": Entry(
        functools.partial(timm.create_model, "samvit_base_patch16_224", **NARROW, global_attn_indexes=[1]),
        images(3, 224, 224),
    ),
}


# What these compute of a parameter in evaluation they keep from call to call, where autograd does not see it.
CACHING = {"efficientformer", "efficientformer_v2", "efficientvit_msra", "levit", "tiny_vit"}


# Its position bias reads no block before it, and has a dropout of its own: the model draws those numbers one by one.
SHIFTING = {"vision_transformer_relpos": "blocks.0."}


def family(text: str, cuts: int) -> tuple[str, Entry]:
    module, model, size = text.split(":")
    made, train = functools.partial(timm.create_model, model), SHIFTING.get(module, True)
    return module, Entry(made, images(3, int(size), int(size)), train=train, exact=module not in CACHING, cuts=cuts)


@each(dict(family(text, 2) for text in SMALL))
def test_timm(name: str, entry: Entry, record_property: Any) -> None:
    check(name, entry, record_property)


@each(dict(family(text, 2) for text in SMALL))
def test_live(name: str, entry: Entry) -> None:
    check_live(name, entry)


@pytest.mark.zoo
@each({**CLASSIFIERS, **SEGMENTATION, **VIDEO, **QUANTIZABLE, **FLOW, **DETECTION})
def test_more_live(name: str, entry: Entry) -> None:
    check_live(name, entry)


@pytest.mark.zoo
@each({**dict(family(text, 3) for text in LARGER), **SHRUNK})
def test_more_of_timm(name: str, entry: Entry, record_property: Any) -> None:
    check(name, entry, record_property)


def test_all_families_of_timm_are_here() -> None:
    """But for those without a small variant."""
    here = {text.split(":")[0] for text in SMALL + LARGER} | set(SHRUNK)
    assert len(SMALL) == 30
    missing = set(timm.models._registry._module_to_models) - here
    # More than 60 million parameters, and no options to make them smaller.
    assert missing == {"deepseek_vit", "gemma4_vit", "mobilenetv5", "nasnet", "pnasnet", "qwen3_vit"}


# -- segmentation_models_pytorch -------------------------------------------------------------------------------------

ARCHITECTURES = "Unet UnetPlusPlus MAnet Linknet FPN PSPNet DeepLabV3 DeepLabV3Plus PAN UPerNet Segformer".split()


@pytest.mark.zoo
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_segmentation_models(architecture: str, record_property: Any) -> None:
    library = pytest.importorskip("segmentation_models_pytorch")
    size = 128 if architecture == "PAN" else 64
    entry = Entry(lambda: getattr(library, architecture)("resnet18", encoder_weights=None), scalable(size))
    check(architecture, entry, record_property)
