"""What a `.tflite` file consists of: its operators with their bytes, work and layer.

Used in the deploy worker only (see `bnnkeras.converters.flatbuffer`).
"""

import hashlib
import math
from typing import Any

import numpy as np

from bnnkeras.converters import cutting, flatbuffer, scheduling
from bnnkeras.converters.worker.registry import Arrays, command

# Input 1 of these operators is their kernel.
_KERNEL_OPERATORS = frozenset(
    {"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
)


@command("describe")
def describe(arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Checks the file in the array "flatbuffer" and lists what is in it, as plain values."""
    data = arrays["flatbuffer"].tobytes()
    flatbuffer.check(data)
    file = flatbuffer.read(data)
    result = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "sealed": flatbuffer.seal_matches(data) is True,
        "metadata": file.metadata or {},
        "inputs": _interface(file, file.signature_inputs),
        "outputs": _interface(file, file.signature_outputs),
        "operators": _operators(file),
    }
    return result, {}


def _interface(file, names) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "shape": list(file.tensors[index].shape),
            "dtype": file.tensors[index].dtype,
        }
        for name, index in names.items()
    ]


def _operators(file) -> list[dict[str, Any]]:
    on_constants = set(cutting.constant_operators(file))
    producers = {output: item for item in file.operators for output in item.outputs}
    layers = (file.metadata or {}).get("operator_layers") or []
    known = len(layers) == len(file.operators)
    counted: set[tuple[int, int]] = set()
    alive = scheduling.live_bytes(file)
    rows = []
    for operator in file.operators:
        output = file.tensors[operator.outputs[0]]
        weights: list[np.ndarray] = []
        if operator.index not in on_constants:
            weights = _weights(file, producers, on_constants, operator.inputs, counted)
        rows.append(
            {
                "index": operator.index,
                "operator": operator.kind,
                "layer": (layers[operator.index] or "") if known else _scope(output.name),
                "precision": _precision(file, producers, operator),
                "output_shape": list(output.shape),
                "output_dtype": output.dtype,
                "weight_bytes": sum(value.nbytes for value in weights),
                "macs": _macs(file, operator),
                "live_bytes": alive[operator.index],
            }
        )
    return rows


def _weights(file, producers, on_constants, inputs, counted) -> list[np.ndarray]:
    """The constants behind some inputs, each buffer once: where it is read first."""
    found = []
    for index in inputs:
        if index < 0:
            continue
        producer = producers.get(index)
        value = file.tensors[index].value
        if producer is not None and producer.index in on_constants:
            found += _weights(file, producers, on_constants, producer.inputs, counted)
        elif producer is None and value is not None:
            # Tensors may share a buffer: the same place in the file.
            place = (value.__array_interface__["data"][0], value.nbytes)
            if place not in counted:
                counted.add(place)
                found.append(value)
    return found


def _macs(file, operator) -> int:
    """Multiply-accumulates of one run of the file."""
    shapes: list[tuple[int, ...]] = [
        file.tensors[index].shape if index >= 0 else () for index in operator.inputs
    ]
    output = file.tensors[operator.outputs[0]].shape
    if operator.binary is not None:
        return operator.binary.kernel.size * math.prod(output[:-1])
    if operator.kind == "BATCH_MATMUL":
        adjoint = operator.options.get("adj_x", False)
        return math.prod(output) * shapes[0][-2 if adjoint else -1]
    if operator.kind == "TRANSPOSE_CONV":
        # Input 0 is the output's shape, input 2 the map.
        return math.prod(shapes[1]) * math.prod(shapes[2][:-1])
    if operator.kind not in _KERNEL_OPERATORS:
        return 0
    kernel = math.prod(shapes[1])
    if operator.kind == "FULLY_CONNECTED":
        return kernel * (math.prod(output) // shapes[1][0])
    return kernel * math.prod(output[:-1])


def _precision(file, producers, operator) -> str:
    """What is multiplied: "binary", "int8" and so on; "" where nothing is.

    For differing types of kernel and input both are named, the kernel's first.
    """
    if operator.binary is not None:
        return "binary"
    if operator.kind not in _KERNEL_OPERATORS | {"BATCH_MATMUL"}:
        return ""
    kernel = _stored_dtype(file, producers, operator.inputs[1])
    position = {"TRANSPOSE_CONV": 2}.get(operator.kind, 0)
    activation = file.tensors[operator.inputs[position]].dtype
    return kernel if kernel == activation else f"{kernel} x {activation}"


def _stored_dtype(file, producers, index) -> str:
    producer = producers.get(index)
    if producer is not None and producer.kind == "DEQUANTIZE":
        return file.tensors[producer.inputs[0]].dtype
    return file.tensors[index].dtype


def _scope(tensor_name: str) -> str:
    """What a foreign file tells of the layer: `model/layer/Op;...` becomes `layer`."""
    parts = tensor_name.split(";")[0].split("/")
    return parts[1] if len(parts) > 1 else parts[0]
