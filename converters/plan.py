"""What a deploy form promises: its binary convolutions, in order, with what follows each."""

import dataclasses

import keras
import numpy as np

from bnnkeras.converters.graph import producer
from bnnkeras.converters.layers import Affine, Sign


@dataclasses.dataclass(frozen=True)
class BinaryUnit:
    """Sign, +-1 convolution, scale and bias: what one LceBconv2d has to be.

    Attributes:
        name: Name of the convolution, which is the name of the training form's layer.
        layer: The `Conv2D` with the +-1 kernel.
        kernel: The kernel, (height, width, channels, filters).
        scale: (filters,) factor of the integer sums.
        bias: (filters,) summand after it.
        before_sign: Symbolic input of the sign.
        after_scale: Symbolic output of the scale and bias.
    """

    name: str
    layer: keras.layers.Conv2D
    kernel: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    before_sign: keras.KerasTensor
    after_scale: keras.KerasTensor

    @property
    def products(self) -> int:
        """K = kernel height x width x channels: the summands of one output."""
        return int(np.prod(self.kernel.shape[:3]))


def binary_units(deployed: keras.Model) -> list[BinaryUnit]:
    """The binary convolutions of a deploy form, in the order of its graph."""
    consumers: dict[int, list] = {}
    convolutions = []
    for operation in deployed.operations:
        for node in operation._inbound_nodes:
            for tensor in node.input_tensors:
                consumers.setdefault(id(tensor), []).append((operation, node))
            if isinstance(operation, keras.layers.Conv2D):
                sign, sign_inputs = producer(node.input_tensors[0])
                if isinstance(sign, Sign):
                    convolutions.append((operation, sign_inputs[0], node.outputs[0]))
    units = []
    for layer, before_sign, output in convolutions:
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        filters = kernel.shape[-1]
        scale, bias = np.ones(filters, kernel.dtype), np.zeros(filters, kernel.dtype)
        following = consumers.get(id(output), [])
        if len(following) == 1 and isinstance(following[0][0], Affine):
            affine, node = following[0]
            *scales, bias = (keras.ops.convert_to_numpy(weight) for weight in affine.weights)
            scale = scales[0] if scales else scale
            output = node.outputs[0]
        units.append(BinaryUnit(layer.name, layer, kernel, scale, bias, before_sign, output))
    return units
