"""What a deploy form promises: its binary convolutions, in order, with what follows each."""

import dataclasses

import keras
import numpy as np

from bnnkeras.converters.graph import producer
from bnnkeras.converters.layers import Affine, Sign

# The activations that LCE runs inside a binary convolution: lower and upper limit.
_LIMITS = {
    "none": (-np.inf, np.inf),
    "relu": (0.0, np.inf),
    "relu6": (0.0, 6.0),
    "relu_n1_to_1": (-1.0, 1.0),
}
_ACTIVATIONS = {
    keras.activations.relu: "relu",
    keras.activations.relu6: "relu6",
    keras.activations.hard_tanh: "relu_n1_to_1",
}


@dataclasses.dataclass(frozen=True)
class Epilogue:
    """scale * clip(sums) + bias: what LCE may have fused behind the integer sums.

    Attributes:
        activation: The clip, `"none"`, `"relu"`, `"relu6"` or `"relu_n1_to_1"`.
        scale: (filters,) factor.
        bias: (filters,) summand.
        magnitude: (filters,) sum of the magnitudes that make up `bias`, for its rounding error.
        output: Symbolic value after it.
    """

    activation: str
    scale: np.ndarray
    bias: np.ndarray
    magnitude: np.ndarray
    output: keras.KerasTensor

    def __call__(self, sums: np.ndarray) -> np.ndarray:
        """What becomes of integer sums (float64), their filters last."""
        return np.clip(sums, *_LIMITS[self.activation]) * self.scale + self.bias


@dataclasses.dataclass(frozen=True)
class BinaryUnit:
    """Sign, +-1 convolution and what follows: what one LceBconv2d has to be.

    Attributes:
        name: Name of the convolution, which is the name of the training form's layer.
        layer: The `Conv2D` with the +-1 kernel.
        kernel: The kernel, (height, width, channels, filters).
        before_sign: Symbolic input of the sign.
        epilogues: What the file's operator may hold beside the sums, from nothing to everything
            that LCE is able to fuse.
    """

    name: str
    layer: keras.layers.Conv2D
    kernel: np.ndarray
    before_sign: keras.KerasTensor
    epilogues: tuple[Epilogue, ...]

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
                consumers.setdefault(id(tensor), []).append((operation, node.outputs[0]))
            if _multiplies_signs(operation):
                sign, sign_inputs = producer(node.input_tensors[0])
                if isinstance(sign, Sign):
                    convolutions.append((operation, sign_inputs[0], node.outputs[0]))
    units = []
    for layer, before_sign, output in convolutions:
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        epilogues = tuple(_epilogues(output, kernel.shape[-1], consumers))
        units.append(BinaryUnit(layer.name, layer, kernel, before_sign, epilogues))
    return units


def float_signs(deployed: keras.Model) -> list[Sign]:
    """The signs that anything but a binary convolution reads, on purpose."""
    read = [
        (operation, tensor)
        for operation in deployed.operations
        for node in operation._inbound_nodes
        for tensor in node.input_tensors
        if not _multiplies_signs(operation)
    ]
    sources = (producer(tensor)[0] for _, tensor in read)
    return list({id(source): source for source in sources if isinstance(source, Sign)}.values())


def _multiplies_signs(operation) -> bool:
    """Whether an operation is a convolution with a kernel of -1 and +1."""
    if not isinstance(operation, keras.layers.Conv2D):
        return False
    return bool(np.all(np.abs(keras.ops.convert_to_numpy(operation.kernel)) == 1))


def output_names(deployed: keras.Model) -> list[str]:
    """The names that export gives the outputs, in the order of `deployed.outputs`."""
    structure = deployed.output
    if isinstance(structure, dict):
        return sorted(structure)
    return [f"output_{number}" for number in range(len(deployed.outputs))]


def _epilogues(output, filters, consumers):
    zeros = np.zeros(filters)
    epilogue: Epilogue | None = Epilogue("none", np.ones(filters), zeros, zeros, output)
    while epilogue is not None:
        yield epilogue
        following = consumers.get(id(epilogue.output), [])
        epilogue = _extended(epilogue, *following[0]) if len(following) == 1 else None


def _extended(epilogue, operation, output):
    """The epilogue with one more operation in it; `None` where LCE cannot fuse that."""
    if isinstance(operation, Affine):
        *scales, bias = (
            keras.ops.convert_to_numpy(weight).astype("float64") for weight in operation.weights
        )
        scale = scales[0] if scales else 1.0
        return Epilogue(
            epilogue.activation,
            epilogue.scale * scale,
            epilogue.bias * scale + bias,
            epilogue.magnitude * np.abs(scale) + np.abs(bias),
            output,
        )
    activation = _activation(operation)
    plain = np.all(epilogue.scale == 1) and not np.any(epilogue.bias)
    if activation is None or not plain or epilogue.activation != "none":
        return None
    return dataclasses.replace(epilogue, activation=activation, output=output)


def _activation(operation) -> str | None:
    if isinstance(operation, keras.layers.ReLU):
        if operation.negative_slope or operation.threshold:
            return None
        return {None: "relu", 6.0: "relu6"}.get(operation.max_value)
    if isinstance(operation, keras.layers.Activation):
        return _ACTIVATIONS.get(operation.activation)
    return None
