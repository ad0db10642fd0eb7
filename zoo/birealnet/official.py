"""The official PyTorch names and layouts of Bi-Real Net's parameters."""

import re

import numpy as np

_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
# Official module -> layer of ours; {s} counts stages, {b} blocks.
_MODULES = [
    (r"conv1", "stem_conv"),
    (r"bn1", "stem_bn"),
    (r"layer(\d+)\.(\d+)\.binary_conv", r"stage\1_block\2_conv"),
    (r"layer(\d+)\.(\d+)\.bn1", r"stage\1_block\2_bn"),
    (r"layer(\d+)\.(\d+)\.downsample\.1", r"stage\1_block\2_shortcut_conv"),
    (r"layer(\d+)\.(\d+)\.downsample\.2", r"stage\1_block\2_shortcut_bn"),
    (r"fc", "classifier"),
]


def variable_of(name: str) -> str | None:
    """The `layer/variable` that an official parameter fills; `None` for the ones with no use here.

    Example:
        >>> from bnnkeras.zoo.birealnet import official
        >>> official.variable_of("layer2.0.binary_conv.weights")
        'stage2_block0_conv/kernel'

    Raises:
        KeyError: If the name is not one of the official network.
    """
    module, _, parameter = name.rpartition(".")
    if parameter == "num_batches_tracked":
        return None
    for pattern, replacement in _MODULES:
        if re.fullmatch(pattern, module):
            layer = re.sub(pattern, replacement, module)
            if layer.endswith("_bn"):
                return f"{layer}/{_BATCH_NORM[parameter]}"
            return f"{layer}/{'bias' if parameter == 'bias' else 'kernel'}"
    raise KeyError(name)


def to_keras(array: np.ndarray, shape: tuple) -> np.ndarray:
    """An official array in the layout of the Keras variable of shape `shape`."""
    if len(shape) == 4:
        height, width, channels, filters = shape
        # The 18 and 34 layer networks store binary kernels flat, (N, 1), in OIHW order.
        return array.reshape(filters, channels, height, width).transpose(2, 3, 1, 0)
    return array.T if len(shape) == 2 else array
