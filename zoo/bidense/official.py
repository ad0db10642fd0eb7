"""The official PyTorch names and layouts of BiDense's parameters, one map per form of a network."""

import numpy as np

from bnnkeras.converters.checkpoints import (
    Depthwise,
    Layout,
    NameMap,
    Pointwise,
    Rule,
    SingleAxis,
    batch_normalization,
    register_name_map,
    weight_and_bias,
)

_CHANNELS = SingleAxis()
_SLOPES = SingleAxis(rank=1, axis=0)
# ConvNeXt's ImageNet head, which dense networks skip, and the weights of the loss.
_UNUSED = ["backbone.norm.*", "backbone.head.*", "criterion.weight"]
_BLOCK = "backbone.stages.{s}.{b}"
_LAYER = "stage{s}_block{b}"


def _unit(official: str, layer: str, copies=(), convolution: str = "conv", **options):
    """Binarizer, convolution and batch normalization of one unit.

    Args:
        official: Template of the module.
        layer: Start of the layers' names.
        copies: Templates of modules that hold the same parameters again.
        convolution: Official name of the convolution.
        **options: Of the kernel's rule.
    """

    def also(suffix):
        return tuple(f"{copy}.{suffix}" for copy in copies)

    quantizer = {"alpha": "alpha", "k": "k", "b": "b"}
    rules = [
        Rule(
            f"{official}.binarizer.{ours}",
            f"{layer}_conv/dab/{theirs}",
            layout=_CHANNELS,
            copies=also(f"binarizer.{ours}"),
        )
        for ours, theirs in quantizer.items()
    ]
    kernel = f"{official}.{convolution}"
    rules.append(
        Rule(f"{kernel}.weight", f"{layer}_conv/kernel", copies=also("conv.weight"), **options)
    )
    rules.append(Rule(f"{kernel}.bias", f"{layer}_conv/bias", copies=also("conv.bias")))
    return rules + _normalization(f"{official}.norm", f"{layer}_bn", [f"{c}.norm" for c in copies])


def _normalization(official: str, layer: str, copies=()):
    """`batch_normalization` of a module that stands in several places."""
    rules = batch_normalization(official, layer)
    return [
        Rule(
            rule.official,
            rule.variables,
            copies=tuple(rule.official.replace(official, copy) for copy in copies),
        )
        for rule in rules
    ]


def _move(official: str, layer: str) -> Rule:
    return Rule(f"{official}.bias", f"{layer}/bias", layout=_CHANNELS)


def _slope(official: str, layer: str) -> Rule:
    return Rule(f"{official}.weight", f"{layer}/alpha", layout=_SLOPES)


def _activated(official: str, unit: str, move: str, slope: str, layer: str):
    """A unit, its offset and its PReLU."""
    return [
        *_unit(f"{official}.{unit}", layer),
        _move(f"{official}.{move}", f"{layer}_move"),
        _slope(f"{official}.{slope}", f"{layer}_prelu"),
    ]


_SMOOTH = [f"FPN.smooth_conv.{copy}" for copy in (1, 2)]

_BINARY = [
    *weight_and_bias("backbone.downsample_layers.0.0", "stem_conv"),
    *batch_normalization("backbone.downsample_layers.0.1", "stem_bn"),
    *_unit("backbone.downsample_layers.{s}.conv", "transition{s}"),
    *_unit(f"{_BLOCK}.dwconv", f"{_LAYER}_dw", layout=Depthwise()),
    *_activated(_BLOCK, "pwconv1", "move", "act", f"{_LAYER}_pw1"),
    *_unit(f"{_BLOCK}.pwconv2", f"{_LAYER}_pw2"),
    *_activated("PPN.stages.{i}", "1", "2", "3", "psp{i}"),
    *_activated("PPN.bottleneck", "0", "1", "2", "psp_bottleneck"),
    *_unit("FPN.conv1x1.{i}", "fpn_lateral{i}"),
    *_unit("FPN.smooth_conv.0", "fpn_smooth", copies=_SMOOTH),
    *_unit("FPN.conv_fusion.0", "fpn_fusion"),
    Rule("FPN.conv_fusion.1.bias", "fpn_fusion_rprelu/bias_before", layout=_CHANNELS),
    Rule("FPN.conv_fusion.2.weight", "fpn_fusion_rprelu/slope"),
    Rule("FPN.conv_fusion.3.bias", "fpn_fusion_rprelu/bias_after", layout=_CHANNELS),
    *_unit("out_conv1", "neck"),
    *_unit("out_conv2.0", "head"),
    *weight_and_bias("out_conv2.2", "prediction"),
]


def _shared(official: str, layer: str, copies):
    """`weight_and_bias` of a module that stands in several places."""
    return [
        Rule(
            f"{official}.{ours}",
            f"{layer}/{theirs}",
            copies=tuple(f"{copy}.{ours}" for copy in copies),
        )
        for ours, theirs in (("weight", "kernel"), ("bias", "bias"))
    ]


def _normalized(official: str, convolution: str, normalization: str, layer: str):
    """A real convolution and its batch normalization."""
    return [
        *weight_and_bias(f"{official}{convolution}", f"{layer}_conv"),
        *batch_normalization(f"{official}{normalization}", f"{layer}_bn"),
    ]


# What both real forms have.
_REAL = [
    *weight_and_bias(f"{_BLOCK}.dwconv", f"{_LAYER}_dw_conv", layout=Depthwise()),
    *_normalized("PPN.stages.{i}.", "1", "2", "psp{i}"),
    *_normalized("PPN.bottleneck.", "0", "1", "psp_bottleneck"),
    *_normalized("FPN.conv_fusion.", "0", "1", "fpn_fusion"),
    *weight_and_bias("out_conv1", "neck_conv"),
    *weight_and_bias("out_conv2.0", "head_conv"),
    *batch_normalization("out_conv2.1", "head_bn"),
]

_SCRATCH = [
    *_REAL,
    *_normalized("backbone.downsample_layers.0.", "0", "1", "stem"),
    *_normalized("backbone.downsample_layers.{s}.", "0", "1", "transition{s}"),
    *batch_normalization(f"{_BLOCK}.norm1", f"{_LAYER}_dw_bn"),
    *_normalized(f"{_BLOCK}.", "pwconv1", "norm2", f"{_LAYER}_pw1"),
    *_normalized(f"{_BLOCK}.", "pwconv2", "norm3", f"{_LAYER}_pw2"),
    *_normalized("FPN.conv1x1.{i}.", "0", "1", "fpn_lateral{i}"),
    *_shared("FPN.smooth_conv.0.0", "fpn_smooth_conv", [f"{copy}.0" for copy in _SMOOTH]),
    *_normalization("FPN.smooth_conv.0.1", "fpn_smooth_bn", [f"{copy}.1" for copy in _SMOOTH]),
    *batch_normalization("norm", "neck_bn"),
    *weight_and_bias("out_conv2.3", "prediction"),
]


def _layer_normalization(official: str, layer: str):
    return [Rule(f"{official}.weight", f"{layer}/gamma"), Rule(f"{official}.bias", f"{layer}/beta")]


_PRETRAINED = [
    *_REAL,
    *weight_and_bias("backbone.downsample_layers.0.0", "stem_conv"),
    *_layer_normalization("backbone.downsample_layers.0.1", "stem_ln"),
    *_layer_normalization("backbone.downsample_layers.{s}.0", "transition{s}_ln"),
    *weight_and_bias("backbone.downsample_layers.{s}.1", "transition{s}_conv"),
    *_layer_normalization(f"{_BLOCK}.norm", f"{_LAYER}_ln"),
    *weight_and_bias(f"{_BLOCK}.pwconv1", f"{_LAYER}_pw1_conv", layout=Pointwise()),
    *weight_and_bias(f"{_BLOCK}.pwconv2", f"{_LAYER}_pw2_conv", layout=Pointwise()),
    Rule(f"{_BLOCK}.gamma", f"{_LAYER}_scale/gamma"),
    *weight_and_bias("FPN.conv1x1.{i}", "fpn_lateral{i}_conv"),
    *_shared("FPN.smooth_conv.0", "fpn_smooth_conv", _SMOOTH),
]


class _StartedScales(Layout):
    """BiViT's scales (O, 1): the sum of a start and a trained offset; all 0 means: not started."""

    def official_shape(self, *shapes):
        return (shapes[0][0], 1)

    def to_keras(self, array, *shapes):
        values = array.reshape(shapes[1])
        return np.zeros_like(values), values, np.any(values != 0)

    def to_official(self, *arrays):
        return sum(arrays[:2]).reshape(-1, 1)


def _linear(official: str, layer: str, scaled: bool = False):
    rules = weight_and_bias(official, layer)
    if scaled:
        parts = tuple(f"{layer}/sign/scale_{part}" for part in ("offset", "start", "started"))
        rules.append(Rule(f"{official}.scaling_factor", parts, layout=_StartedScales()))
    return rules


_VIT = "backbone.blocks.{b}"


def _transformer(scaled: bool):
    """DINOv2; its binary form has trained scales."""
    return [
        Rule("backbone.cls_token", "tokens/cls_token", layout=Layout()),
        Rule("backbone.pos_embed", "tokens/pos_embed", layout=Layout()),
        *weight_and_bias("backbone.patch_embed.proj", "patch_embed"),
        *_layer_normalization(f"{_VIT}.norm1", "block{b}_norm1"),
        *_layer_normalization(f"{_VIT}.norm2", "block{b}_norm2"),
        *_linear(f"{_VIT}.attn.qkv", "block{b}_qkv", scaled),
        *_linear(f"{_VIT}.attn.proj", "block{b}_proj", scaled),
        *_linear(f"{_VIT}.mlp.fc1", "block{b}_fc1"),
        *_linear(f"{_VIT}.mlp.fc2", "block{b}_fc2"),
        Rule(f"{_VIT}.ls1.gamma", "block{b}_ls1/gamma"),
        Rule(f"{_VIT}.ls2.gamma", "block{b}_ls2/gamma"),
        *_layer_normalization("backbone.norm", "norm"),
    ]


_RCU = "scratch.refinenet{r}.resConfUnit{u}"
_HEAD = "scratch.output_conv2"
_DPT = [
    *_transformer(scaled=True),
    *_unit("projects.{i}", "project{i}"),
    # Only that of the map that shrinks is an ordinary convolution.
    *_unit("resize_layers.3.conv", "resize3"),
    *_unit("resize_layers.{i}.conv", "resize{i}", convolution="conv_transpose"),
    *_unit("scratch.layer{i}_rn", "layer{i}_rn"),
    *_unit(f"{_RCU}.conv{{n}}", "refine{r}_rcu{u}_unit{n}"),
    _move(f"{_RCU}.move{{n}}", "refine{r}_rcu{u}_move{n}"),
    _slope(f"{_RCU}.prelu{{n}}", "refine{r}_rcu{u}_prelu{n}"),
    *_unit("scratch.output_conv1", "neck"),
    *_unit(f"{_HEAD}.0", "head"),
    *weight_and_bias(f"{_HEAD}.2", "prediction"),
]
_REAL_DPT = [
    *_transformer(scaled=False),
    *weight_and_bias("projects.{i}", "project{i}_conv"),
    *weight_and_bias("resize_layers.{i}", "resize{i}_conv"),
    *weight_and_bias("scratch.layer{i}_rn", "layer{i}_rn_conv"),
    *weight_and_bias(f"{_RCU}.conv{{n}}", "refine{r}_rcu{u}_conv{n}"),
    *batch_normalization(f"{_RCU}.bn{{n}}", "refine{r}_rcu{u}_bn{n}"),
    *_normalized("scratch.", "output_conv1", "norm", "neck"),
    *_normalized(f"{_HEAD}.", "0", "1", "head"),
]
# The coarsest map has nothing to join.
_UNUSED_DPT = ["backbone.mask_token", "scratch.refinenet4.resConfUnit1.*", "criterion.weight"]

NAMES = {
    "dpt": register_name_map(NameMap("bidense_dpt", _DPT, unused=_UNUSED_DPT)),
    # Batch normalization lies before the prediction, but not in the original's depths.
    "dpt_real": register_name_map(
        NameMap(
            "bidense_dpt_real",
            [*_REAL_DPT, *weight_and_bias(f"{_HEAD}.3", "prediction")],
            unused=_UNUSED_DPT,
        )
    ),
    "dpt_pretrained_depth": register_name_map(
        NameMap(
            "bidense_dpt_pretrained_depth",
            [*_REAL_DPT, *weight_and_bias(f"{_HEAD}.2", "prediction")],
            unused=_UNUSED_DPT,
        )
    ),
    "binary": register_name_map(NameMap("bidense_upernet", _BINARY, unused=_UNUSED)),
    "scratch": register_name_map(NameMap("bidense_upernet_scratch", _SCRATCH, unused=_UNUSED)),
    # Batch normalization lies between convolution and prediction in segmentation only.
    "pretrained": register_name_map(
        NameMap(
            "bidense_upernet_pretrained",
            [*_PRETRAINED, *weight_and_bias("out_conv2.3", "prediction")],
            unused=_UNUSED,
        )
    ),
    "pretrained_depth": register_name_map(
        NameMap(
            "bidense_upernet_pretrained_depth",
            [*_PRETRAINED, *weight_and_bias("out_conv2.2", "prediction")],
            unused=_UNUSED,
        )
    ),
}
