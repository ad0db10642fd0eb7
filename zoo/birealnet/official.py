"""The official PyTorch names and layouts of Bi-Real Net's parameters."""

import numpy as np

from bnnkeras.converters.checkpoints import (
    STANDARD,
    Flat,
    NameMap,
    Rule,
    batch_normalization,
    register_name_map,
    weight_and_bias,
)

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
        # Of use only to a model with its top.
        unused=["fc.weight", "fc.bias"],
    )
)


def variable_of(name: str) -> str | None:
    """The `layer/variable` that an official parameter fills; `None` for the ones with no use here.

    Example:
        >>> from bnnkeras.zoo.birealnet import official
        >>> official.variable_of("layer2.0.binary_conv.weights")
        'stage2_block0_conv/kernel'

    Raises:
        KeyError: If the name is not one of the official network.
    """
    paths = NAMES.variables_of(name)
    return None if paths is None else paths[0]


def to_keras(array: np.ndarray, shape: tuple) -> np.ndarray:
    """An official array, or its gradient, in the layout of the Keras variable of shape `shape`."""
    layout = Flat(STANDARD) if array.ndim == 2 and len(shape) == 4 else STANDARD
    return layout.to_keras(array, shape)
