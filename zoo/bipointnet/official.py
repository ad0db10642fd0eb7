"""The official PyTorch names and layouts of the parameters of BiPointNet's networks."""

import numpy as np

from bnnkeras.converters.checkpoints import (
    Depthwise,
    Layout,
    NameMap,
    Pointwise,
    Rule,
    batch_normalization,
    register_name_map,
    weight_and_bias,
)


class StartedScale(Layout):
    """LSR's scale: the scalar `start + offset`, where 0.0 stands for a scale without a start.

    The released code computes such a scale from the first batch it sees, even in inference; here
    the first training call does.
    """

    def to_keras(self, array, *shapes):
        return array, np.zeros_like(array), array != 0

    def to_official(self, *arrays):
        start, offset, started = arrays
        return np.where(started, start + offset, np.zeros_like(start))

    def note(self, array):
        if np.any(array):
            return None
        return (
            "is 0.0, which means that the scale is not initialised; the first training call on a "
            "batch sets it, until then it is std(V) / std(sign(V)) of the kernel"
        )


class OverNeighbours(Depthwise):
    """Kernels of one group per channel: (C * m, 1, K), a 1-D convolution, to (1, K, C, m)."""

    def official_shape(self, *shapes):
        return super().official_shape(shapes[0][1:])

    def to_keras(self, array, *shapes):
        return super().to_keras(array, shapes[0][1:])[None]

    def to_official(self, *arrays):
        return super().to_official(arrays[0][0])


def linear(official: str, layer: str, **options) -> list[Rule]:
    """The rules of a linear layer: weight, bias, and the scale of LSR."""
    parts = ("start", "offset", "started")
    scale = tuple(f"{layer}/binarizer/scale_{part}" for part in parts)
    return [
        *weight_and_bias(official, layer, **options),
        Rule(f"{official}.scale", scale, layout=StartedScale()),
    ]


def _tnet(official: str, layer: str) -> list[Rule]:
    return [
        *linear(f"{official}.conv{{i}}.lin", f"{layer}_conv{{i}}"),
        *linear(f"{official}.fc{{i}}", f"{layer}_fc{{i}}"),
        *batch_normalization(f"{official}.bn{{i}}", f"{layer}_bn{{i}}"),
    ]


# Biases of Bi-Real layers are parameters that nothing reads. IR-Net's k and t follow the epoch.
_NEVER_READ = ("*.bias", "*.k", "*.t")

CLASSIFICATION_NAMES = register_name_map(
    NameMap(
        "bipointnet",
        [
            *_tnet("feat.stn", "feat_stn"),
            *_tnet("feat.fstn", "feat_fstn"),
            *linear("feat.conv{i}.lin", "feat_conv{i}"),
            *batch_normalization("feat.bn{i}", "feat_bn{i}"),
            *linear("fc{i}", "fc{i}"),
            # Of segmentation.
            *linear("conv{i}.lin", "conv{i}"),
            *(
                rule
                for i in (1, 2, 3, 4)
                for rule in weight_and_bias(f"conv{i}", f"real_conv{i}", layout=Pointwise(1))
            ),
            *batch_normalization("bn{i}", "bn{i}"),
        ],
        # Batch normalizations are in the state dict of a network that does not run them; the
        # others are of use only to a model with its top.
        unused=[*_NEVER_READ, "bn*", "feat.bn?.*", "fc?.*", "conv?.*"],
    )
)

PART_SEGMENTATION_NAMES = register_name_map(
    NameMap(
        "bipointnet_part_segmentation",
        [
            *_tnet("stn", "stn"),
            *_tnet("fstn", "fstn"),
            *linear("conv{i}.lin", "conv{i}"),
            *batch_normalization("bn{i}", "bn{i}"),
            *linear("convs{i}.lin", "convs{i}"),
            *batch_normalization("bns{i}", "bns{i}"),
        ],
        # T-Nets are in the state dict of a network without them.
        unused=[*_NEVER_READ, "stn.*", "fstn.*", "convs*", "bns*"],
    )
)


def _mlp(official: str, layer: str) -> list[Rule]:
    """Linear layer and batch normalization; the activation between them is number 1."""
    return [
        *linear(f"{official}.0", layer),
        *batch_normalization(f"{official}.2", f"{layer}_bn"),
    ]


DGCNN_NAMES = register_name_map(
    NameMap(
        "bidgcnn",
        [
            *weight_and_bias("conv1.nn.0", "conv1_linear"),
            *_mlp("conv1.nn.1.{i}", "conv1_mlp{i}"),
            *_mlp("conv1.nn.{i}", "conv1_real{i}"),
            *_mlp("conv2.nn.{i}", "conv2_mlp{i}"),
            *_mlp("lin1.{i}", "lin1_mlp{i}"),
            *_mlp("mlp.{i}.0", "mlp{i}"),
            *weight_and_bias("mlp.2", "mlp_classifier"),
            *weight_and_bias("mlp.4", "mlp_real_classifier"),
        ],
        unused=[*_NEVER_READ, "mlp.*"],
    )
)

POINTNET2_NAMES = register_name_map(
    NameMap(
        "bipointnet2",
        [
            *weight_and_bias("sa1_module.conv.local_nn.0", "sa1_linear"),
            *_mlp("sa1_module.conv.local_nn.1.{i}", "sa1_mlp{i}"),
            *_mlp("sa1_module.conv.local_nn.{i}", "sa1_real{i}"),
            *_mlp("sa2_module.conv.local_nn.{i}", "sa2_mlp{i}"),
            *_mlp("sa3_module.nn.{i}", "sa3_mlp{i}"),
            *linear("lin{i}", "lin{i}"),
        ],
        unused=[*_NEVER_READ, "lin?.*"],
    )
)


def _norm(official: str, layer: str) -> list[Rule]:
    return batch_normalization(official, f"{layer}_bn")


POINTCNN_NAMES = register_name_map(
    NameMap(
        "bipointcnn",
        [
            *linear("conv{i}.mlp1.0", "conv{i}_mlp1_0"),
            *_norm("conv{i}.mlp1.2", "conv{i}_mlp1_0"),
            *linear("conv{i}.mlp1.3", "conv{i}_mlp1_3"),
            *_norm("conv{i}.mlp1.5", "conv{i}_mlp1_3"),
            *linear("conv{i}.mlp2.0", "conv{i}_mlp2_0"),
            *_norm("conv{i}.mlp2.2", "conv{i}_mlp2_0"),
            *linear("conv{i}.mlp2.4", "conv{i}_mlp2_4", layout=OverNeighbours()),
            *_norm("conv{i}.mlp2.6", "conv{i}_mlp2_4"),
            *linear("conv{i}.mlp2.8", "conv{i}_mlp2_8", layout=OverNeighbours()),
            *_norm("conv{i}.mlp2.9", "conv{i}_mlp2_8"),
            *linear("conv{i}.conv.0", "conv{i}_conv_0", layout=OverNeighbours()),
            *linear("conv{i}.conv.2", "conv{i}_conv_2"),
            *linear("lin{i}", "lin{i}"),
        ],
        # The bias behind LSR's last layer is a parameter that nothing reads.
        unused=["conv?.conv.2.bias", "lin?.*"],
    )
)
