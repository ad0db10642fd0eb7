"""Names for what the converter leaves anonymous: which layer a tensor and an operator come from.

The converter writes the scopes of layers into the tensors' names, joins those of fused operators
and cuts the result at about 50 characters. So the layers are given short tags before the export
(`tagged`), which survive, and the tags are read back from the file (`labelled`). Used in the deploy
worker only.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

import keras

from bnnkeras.converters import flatbuffer, graph
from bnnkeras.converters.layers import Affine, Sign

_TAG = re.compile(r"(?:^|[/;])L(\d+)(?:_\d+)?/([^;]*)")
# What the inputs of operators with weights are.
_ROLES = {
    "LceBconv2d": ("kernel", "multiplier", "bias", "threshold"),
    "CONV_2D": ("kernel", "bias"),
    "DEPTHWISE_CONV_2D": ("kernel", "bias"),
    "FULLY_CONNECTED": ("kernel", "bias"),
    "PRELU": ("alpha",),
}
# TensorFlow's names of what a layer with a kernel computes.
_PRODUCTS = ("convolution", "depthwise", "MatMul", "BiasAdd")
# The last name of several is cut where the converter's length ends.
_CUT_PRODUCTS = frozenset(name[:end] for name in _PRODUCTS for end in range(4, len(name)))
# What LCE computes on bits between a convolution and a sign.
_BEFORE_SIGNS = (Affine, keras.layers.MaxPooling2D, keras.layers.Reshape)
# What is computed together with the operator before it.
_FUSED = (
    Affine,
    keras.layers.Activation,
    keras.layers.BatchNormalization,
    keras.layers.Flatten,
    keras.layers.ReLU,
    keras.layers.Reshape,
)


@dataclasses.dataclass(frozen=True)
class Labels:
    """What is known of a deploy form's operations before conversion.

    Attributes:
        origins: Deploy operation -> layer of the training form that it was made for.
        results: Deploy operation -> layer of the training form whose output it computes.
    """

    origins: dict[str, str]
    results: dict[str, str]


@contextlib.contextmanager
def tagged(model: keras.Model) -> Iterator[list[str]]:
    """Gives the layers of a deploy form tags as names for the time of an export.

    Yields:
        The names that belong to the tags, by number.
    """
    names = [operation.name for operation in model.operations]
    model_name = model.name
    renamed = [
        (number, operation)
        for number, operation in enumerate(model.operations)
        # The signature takes the inputs' names.
        if not isinstance(operation, keras.layers.InputLayer)
    ]
    try:
        model.name = "m"
        for number, operation in renamed:
            operation.name = f"L{number}"
        yield names
    finally:
        model.name = model_name
        for number, operation in renamed:
            operation.name = names[number]


def fusable(model: keras.Model) -> dict[str, str]:
    """Operation -> the only one that reads it, if the converter may compute both in one."""
    readers: dict[str, list[keras.Operation]] = {}
    for operation in model.operations:
        for node in operation._inbound_nodes:
            for tensor in node.input_tensors:
                readers.setdefault(graph.producer(tensor)[0].name, []).append(operation)
    results = {graph.producer(tensor)[0].name for tensor in model.outputs}
    return {
        name: operations[0].name
        for name, operations in readers.items()
        if len(operations) == 1 and name not in results and isinstance(operations[0], _FUSED)
    }


def signed(model: keras.Model) -> dict[str, str]:
    """Sign -> the convolution whose sums it is of: LCE may compute both, and pools, on bits.

    The operator is then called after the sign, which belongs to the layer that follows.
    """
    found = {}
    for operation in model.operations:
        if isinstance(operation, Sign):
            source, inputs = graph.producer(operation.input)
            while isinstance(source, _BEFORE_SIGNS):
                source, inputs = graph.producer(inputs[0])
            if isinstance(source, keras.layers.Conv2D):
                found[operation.name] = source.name
    return found


def labelled(
    data: bytes,
    names: Sequence[str],
    labels: Labels,
    inputs: Sequence[str],
    outputs: Mapping[str, tuple[str, str]],
    fusable: Mapping[str, str],
    signed: Mapping[str, str],
) -> tuple[bytes, list[str | None]]:
    """Renames the tensors of a converted file after the layers, and puts its interface in order.

    The output of an operator gets the name of the layer whose output it is, or of the part of its
    deploy form; weights are called `<layer>/kernel` and so on. Inputs and outputs come in the
    order of the Keras model.

    Args:
        data: Bytes that were converted inside `tagged`.
        names: What `tagged` yielded.
        labels: Where the deploy form's operations come from.
        inputs: Names of the inputs in the signature, in the wanted order.
        outputs: Names of the outputs in the signature, in the wanted order, each with the deploy
            operation that computes it and that operation's class.
        fusable: What `fusable` returns.
        signed: What `signed` returns.

    Returns:
        The new bytes, and for each operator the layer it belongs to (`None` where unknown).
    """
    file = flatbuffer.read(data)
    tags = {
        operator.index: [
            (names[int(number)], operation)
            for number, operation in _TAG.findall(file.tensors[operator.outputs[0]].name)
            if int(number) < len(names)
        ]
        for operator in file.operators
    }
    for operator in file.operators:
        pairs = tags[operator.index]
        if operator.kind == "LceBconv2d" and pairs and pairs[0][0] in signed:
            tags[operator.index] = [(signed[pairs[0][0]], _PRODUCTS[0])]
    # The converter gives outputs names of its own.
    for name, (layer, operation) in outputs.items():
        producer = file.producer(file.signature_outputs[name])
        if producer is not None:
            tags[producer.index] = tags[producer.index] or [(layer, operation)]
    named = {pairs[0][0] for pairs in tags.values() if pairs}
    layers = {operator.index: _layer(tags[operator.index], labels) for operator in file.operators}
    renamed: dict[int, str] = {index: name for name, index in file.signature_inputs.items()}
    finished: set[str] = set()
    # Backwards: of several operators of one layer, the last has its result.
    for operator in reversed(file.operators):
        if not tags[operator.index]:
            consumers = file.consumers(operator.outputs[0])
            layers[operator.index] = layers[consumers[0].index] if consumers else None
            continue
        last, operation = tags[operator.index][0]
        # What is named nowhere was fused into what it follows.
        while last in fusable and fusable[last] not in named:
            last = fusable[last]
        name = labels.results.get(last, last)
        if last in finished:
            name = f"{name}/{operation}"
        finished.add(last)
        for number, index in enumerate(operator.outputs):
            renamed[index] = name if number == 0 else f"{name}/{number}"
    for operator in file.operators:
        for index, role in zip(operator.inputs[1:], _ROLES.get(operator.kind, ()), strict=False):
            if index >= 0:
                renamed.setdefault(index, f"{layers[operator.index]}/{role}")
    data = flatbuffer.with_names(data, _unique(renamed), inputs, [*outputs])
    return data, [layers[operator.index] for operator in file.operators]


def _layer(tags, labels) -> str | None:
    """The layer that an operator belongs to; of several fused ones, that of the product."""
    products = [
        name
        for name, operation in tags
        if operation.startswith(_PRODUCTS) or operation in _CUT_PRODUCTS
    ]
    for name in (*products, *(name for name, _ in tags)):
        if name in labels.origins:
            return labels.origins[name]
    return None


def _unique(names: Mapping[int, str]) -> dict[int, str]:
    """The same names, with numbers behind repeated ones: for layers called several times."""
    result: dict[int, str] = {}
    taken: set[str] = set()
    for index, wanted in sorted(names.items()):
        name, count = wanted, 1
        while name in taken:
            name, count = f"{wanted}_{count}", count + 1
        taken.add(name)
        result[index] = name
    return result
