"""The official PyTorch names and layouts of the parameters of LCR-BNN's and IR-Net's networks."""

from bnnkeras.converters.checkpoints import (
    FlattenedFeatures,
    NameMap,
    Rule,
    SingleAxis,
    batch_normalization,
    register_name_map,
    weight_and_bias,
)

_BLOCKS = [
    *weight_and_bias("layer{s}.{b}.conv{c}", "stage{s}_block{b}_conv{c}"),
    *batch_normalization("layer{s}.{b}.bn{c}", "stage{s}_block{b}_bn{c}"),
]

# Binary networks and teachers; torchvision names its ResNets the same way.
IMAGENET_NAMES = register_name_map(
    NameMap(
        "lcrbnn_imagenet",
        [
            *weight_and_bias("conv1", "stem_conv"),
            *weight_and_bias("conv1.0", "stem_conv1"),
            *batch_normalization("conv1.1", "stem_bn1"),
            *weight_and_bias("conv1.3", "stem_conv2"),
            *batch_normalization("conv1.4", "stem_bn2"),
            *weight_and_bias("conv1.6", "stem_conv3"),
            *batch_normalization("bn1", "stem_bn"),
            *_BLOCKS,
            *weight_and_bias("layer{s}.{b}.downsample.0", "stage{s}_block{b}_shortcut_conv"),
            *batch_normalization("layer{s}.{b}.downsample.1", "stage{s}_block{b}_shortcut_bn"),
            # With average pooling in front, which is downsample.0 and has no parameters.
            *weight_and_bias("layer{s}.{b}.downsample.1", "stage{s}_block{b}_projection_conv"),
            *batch_normalization("layer{s}.{b}.downsample.2", "stage{s}_block{b}_projection_bn"),
            *batch_normalization("bn2", "head_bn"),
            *weight_and_bias("fc", "classifier"),
            # LCR's scales of the stages: of `LipschitzRetention`, not of the network.
            Rule("gamma", "gamma", layout=SingleAxis(rank=2)),
        ],
        # What belongs to a trainer, to nothing (bn3), and to a model with its top.
        unused=["gamma", "bn3.*", "bn2.*", "fc.weight", "fc.bias"],
    )
)

CIFAR_NAMES = register_name_map(
    NameMap(
        "irnet_cifar",
        [
            *weight_and_bias("conv1", "cifar_conv"),
            *batch_normalization("bn1", "cifar_bn"),
            *_BLOCKS,
            *weight_and_bias("layer{s}.{b}.shortcut.0", "stage{s}_block{b}_shortcut_conv"),
            *batch_normalization("layer{s}.{b}.shortcut.1", "stage{s}_block{b}_shortcut_bn"),
            *batch_normalization("bn2", "head_bn"),
            *weight_and_bias("linear", "classifier"),
        ],
        unused=["bn2.*", "linear.weight", "linear.bias"],
    )
)

VGG_NAMES = register_name_map(
    NameMap(
        "irnet_vgg_small",
        [
            *weight_and_bias("conv{i}", "conv{i}"),
            *batch_normalization("bn{i}", "bn{i}"),
            # The last feature map of a 32x32 image.
            *weight_and_bias("fc", "classifier", layout=FlattenedFeatures(4, 4)),
        ],
        unused=["fc.weight", "fc.bias"],
    )
)
