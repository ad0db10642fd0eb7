"""The official PyTorch names and layouts of Bi-Real Net's parameters."""

from bnnkeras.converters.checkpoints import (
    STANDARD,
    Flat,
    NameMap,
    Rule,
    batch_normalization,
    register_name_map,
    weight_and_bias,
)

# Of use only to a model with its top.
_CLASSIFIER = ["fc.weight", "fc.bias"]

NAMES = register_name_map(
    NameMap(
        "birealnet",
        [
            *weight_and_bias("conv1", "stem_conv"),
            *batch_normalization("bn1", "stem_bn"),
            # The 18 and 34 layer networks store binary kernels flat.
            Rule(
                "layer{s}.{b}.binary_conv.weights",
                "stage{s}_block{b}_conv/kernel",
                layout=Flat(STANDARD),
            ),
            *batch_normalization("layer{s}.{b}.bn1", "stage{s}_block{b}_bn"),
            *weight_and_bias("layer{s}.{b}.downsample.1", "stage{s}_block{b}_shortcut_conv"),
            *batch_normalization("layer{s}.{b}.downsample.2", "stage{s}_block{b}_shortcut_bn"),
            *weight_and_bias("fc", "classifier"),
        ],
        unused=_CLASSIFIER,
    )
)

BOTTLENECK_NAMES = register_name_map(
    NameMap(
        "birealnet_bottleneck",
        [
            *weight_and_bias("conv1", "stem_conv"),
            *batch_normalization("bn1", "stem_bn"),
            *(
                rule
                for part in (1, 2, 3)
                for rule in (
                    *weight_and_bias(f"layers.{{i}}.conv{part}", f"block{{i}}_conv{part}"),
                    *batch_normalization(f"layers.{{i}}.bn{part}", f"block{{i}}_bn{part}"),
                )
            ),
            *weight_and_bias("layers.{i}.downsample.1", "block{i}_shortcut_conv"),
            *batch_normalization("layers.{i}.downsample.2", "block{i}_shortcut_bn"),
            *weight_and_bias("layers.{i}.down_conv1x1", "block{i}_middle_conv"),
            *weight_and_bias("fc", "classifier"),
        ],
        # The first block of the network has this parameter and never reads it.
        unused=[*_CLASSIFIER, "layers.0.down_conv1x1.weight"],
    )
)
