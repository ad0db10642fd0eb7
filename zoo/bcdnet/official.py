"""The official PyTorch names and layouts of BCDNet's parameters.

The names of BCDNet-B's contexts are proposals: no code of it was released. They are optional, so
that a checkpoint of BCDNet-A fills a BCDNet-B, whose contexts keep their values.
"""

from bnnkeras.converters.checkpoints import (
    NameMap,
    Negated,
    Rule,
    Share,
    SingleAxis,
    batch_normalization,
    register_name_map,
    weight_and_bias,
)

_CHANNELS = SingleAxis()
_CONTEXT = {"fc1": "context", "fc2": "context_threshold", "fc3": "context_embedding"}


def _unit(unit: int, layer: str) -> list[Rule]:
    """Threshold and context of one convolution of a block."""
    # sign(x + bias) is sign(x - threshold).
    threshold = Rule(
        f"feature.{{i}}.move{unit}1.bias",
        f"block{{i}}_{layer}/sign/threshold",
        layout=Negated(_CHANNELS),
    )
    context = [
        Rule(
            f"feature.{{i}}.ctx{unit}.{matrix}.weight",
            f"block{{i}}_{layer}/sign/{variable}",
            optional=True,
        )
        for matrix, variable in _CONTEXT.items()
    ]
    return [threshold, *context]


def _rprelu(before: str, slope: str, after: str, layer: str) -> list[Rule]:
    return [
        Rule(f"{before}.bias", f"{layer}/bias_before", layout=_CHANNELS),
        Rule(f"{slope}.weight", f"{layer}/slope"),
        Rule(f"{after}.bias", f"{layer}/bias_after", layout=_CHANNELS),
    ]


def _mlp(name: str) -> str:
    return f"mlp_layer.{{m}}.mlp_layer.{{j}}.{name}"


NAMES = register_name_map(
    NameMap(
        "bcdnet",
        [
            Rule("feature.0.conv1.weight", "stem_conv/kernel"),
            *batch_normalization("feature.0.bn1", "stem_bn"),
            *_unit(1, "conv1"),
            Rule("feature.{i}.binary_3x3.weight", "block{i}_conv1/kernel"),
            *batch_normalization("feature.{i}.bn1", "block{i}_bn1"),
            *_rprelu(
                "feature.{i}.move12", "feature.{i}.prelu1", "feature.{i}.move13", "block{i}_rprelu1"
            ),
            *_unit(2, "conv2"),
            Rule("feature.{i}.binary_pw.weight", "block{i}_conv2/kernel"),
            *batch_normalization("feature.{i}.bn2", "block{i}_bn2"),
            # Two convolutions side by side, which share a threshold, are one here.
            *_unit(2, "conv2_widening"),
            *(
                rule
                for half in (0, 1)
                for rule in (
                    Rule(
                        f"feature.{{i}}.binary_pw_down{half + 1}.weight",
                        "block{i}_conv2_widening/kernel",
                        layout=Share(half, 2),
                    ),
                    *batch_normalization(
                        f"feature.{{i}}.bn2_{half + 1}",
                        "block{i}_bn2_widening",
                        layout=Share(half, 2),
                    ),
                )
            ),
            *_rprelu(
                "feature.{i}.move22", "feature.{i}.prelu2", "feature.{i}.move23", "block{i}_rprelu2"
            ),
            Rule(_mlp("move0.bias"), "mlp{m}_{j}_bias/bias", layout=_CHANNELS),
            Rule(_mlp("binary_conv.weight"), "mlp{m}_{j}_conv/kernel"),
            Rule(_mlp("binary_conv1.weight"), "mlp{m}_{j}_conv_short/kernel"),
            Rule(_mlp("binary_conv2.weight"), "mlp{m}_{j}_conv_long/kernel"),
            *batch_normalization(_mlp("bn1"), "mlp{m}_{j}_bn"),
            *_rprelu(_mlp("move1"), _mlp("prelu"), _mlp("move2"), "mlp{m}_{j}_rprelu"),
            *weight_and_bias("fc", "classifier"),
            *weight_and_bias("fc_dist", "classifier_distilled"),
        ],
        # Of use only to a model with its top.
        unused=["fc.*", "fc_dist.*"],
    )
)
