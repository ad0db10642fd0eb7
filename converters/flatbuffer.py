"""Reads, taps, seals and checks `.tflite` files, Larq Compute Engine's included.

Everything but `metadata` and `seal_matches` needs the schema classes that LCE ships, and with
them TensorFlow: use this module in the deploy worker.
"""

import dataclasses
import hashlib
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from bnnkeras.converters.worker.requirements import import_or_explain

LCE_OPERATORS = frozenset({"LceQuantize", "LceDequantize", "LceBconv2d", "LceBMaxPool2d"})

_METADATA_NAME = b"bnnkeras"
_HASH_KEY = "bnnkeras_sha256"
_SEAL = f'{{"{_HASH_KEY}": "'.encode()
_HASH_DIGITS = 64
_TFLITE_ALIGNMENT = 16
_BITS = 32

_DTYPES = {
    "BOOL": "bool",
    "FLOAT16": "float16",
    "FLOAT32": "float32",
    "FLOAT64": "float64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "COMPLEX64": "complex64",
    "COMPLEX128": "complex128",
}


@dataclass(frozen=True)
class Quantization:
    """Affine quantization of a tensor: `real = scale * (stored - zero_point)`.

    Args:
        scale: Array of one scale, or of one per index of `axis`.
        zero_point: Array of integers of the same length.
        axis: Integer. The quantized dimension when there are several scales.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file.

    Args:
        index: Integer. Its index, which operators and signatures refer to.
        name: String. Its name, cut by the converter to about 50 characters.
        shape: Tuple of integers.
        dtype: String. A NumPy name, or the schema's name in lower case where NumPy has none.
        quantization: `Quantization` or `None`.
        value: Read-only array for a constant, `None` for what is computed. Constants of a
            type without a NumPy equivalent are their bytes (uint8, rank 1).
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None
    value: np.ndarray | None


@dataclass(frozen=True)
class BinaryConvolution:
    """What an `LceBconv2d` operator computes.

    Args:
        kernel: int8 array of -1 and +1, (height, width, channels in per group, filters).
        channels_in: Integer. Input channels over all groups.
        groups: Integer.
        strides: Pair of integers, (height, width).
        dilation_rate: Pair of integers, (height, width).
        padding: String, `"same"` or `"valid"`.
        pad_values: Integer, 0 or 1. What `"same"` pads with.
        activation: String, `"none"`, `"relu"`, `"relu_n1_to_1"` or `"relu6"`.
        multiplier: float32 array that multiplies the integer sums, `None` for bit output.
        bias: float32 array that is added after it, `None` for bit output.
        output_threshold: int32 array for bit-packed output, else `None`.
    """

    kernel: np.ndarray
    channels_in: int
    groups: int
    strides: tuple[int, int]
    dilation_rate: tuple[int, int]
    padding: str
    pad_values: int
    activation: str
    multiplier: np.ndarray | None
    bias: np.ndarray | None
    output_threshold: np.ndarray | None


@dataclass(frozen=True)
class Operator:
    """One operator, in execution order.

    Args:
        index: Integer. Its position.
        kind: String. The schema's name (`"CONV_2D"`) or the custom code (`"LceBconv2d"`).
        inputs: Tuple of tensor indices; -1 stands for an optional input left out.
        outputs: Tuple of tensor indices.
        options: Dict. The options under snake-case names; `padding` and
            `fused_activation_function` are strings such as `"same"` and `"relu6"`.
        binary: `BinaryConvolution` for `LceBconv2d`, else `None`.
    """

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    binary: BinaryConvolution | None = None


@dataclass(frozen=True)
class FlatbufferModel:
    """The main subgraph of a `.tflite` file.

    Args:
        tensors: Tuple of `Tensor`.
        operators: Tuple of `Operator`, in execution order.
        inputs: Tuple of tensor indices, in the interpreter's order.
        outputs: Tuple of tensor indices, in the interpreter's order.
        signature_inputs: Dict from names to tensor indices. A file without a signature has
            its tensors' names here.
        signature_outputs: Dict from names to tensor indices, likewise.
        metadata: Dict or `None`. What `with_metadata` stored.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    signature_inputs: dict[str, int]
    signature_outputs: dict[str, int]
    metadata: dict[str, Any] | None

    def producer(self, tensor: int) -> Operator | None:
        """Returns the operator that computes a tensor, `None` for inputs and constants."""
        return next((item for item in self.operators if tensor in item.outputs), None)

    def consumers(self, tensor: int) -> tuple[Operator, ...]:
        """Returns the operators that read a tensor."""
        return tuple(item for item in self.operators if tensor in item.inputs)


def read(data: bytes) -> FlatbufferModel:
    """Reads a `.tflite` file that has passed TFLite's verifier (see `check`).

    Args:
        data: Bytes of the file.

    Raises:
        ImportError: If the `deploy` extra is missing.
        ValueError: If an index or a constant's size does not fit.
    """
    schema = tflite_schema()
    model = unpack(data)
    graph = model.subgraphs[0]
    tensors = tuple(_tensor(schema, model, index) for index in range(len(graph.tensors)))
    tensors = _with_filled(schema, model, tensors)
    operators = tuple(
        _operator(schema, model, tensors, index) for index in range(len(_list(graph.operators)))
    )
    inputs = _indices(graph.inputs, len(tensors), "subgraph inputs")
    outputs = _indices(graph.outputs, len(tensors), "subgraph outputs")
    signature = _list(model.signatureDefs)[0] if _list(model.signatureDefs) else None
    return FlatbufferModel(
        tensors,
        operators,
        inputs,
        outputs,
        _names(signature and signature.inputs, inputs, tensors),
        _names(signature and signature.outputs, outputs, tensors),
        metadata(data),
    )


def activation_bytes(tensor: Tensor) -> int:
    """Bytes of a computed tensor, for one run."""
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize


def with_outputs(data: bytes, tensor_indices: Sequence[int]) -> bytes:
    """Returns the same model with other outputs, to look at what it computes inside.

    The signature keeps the inputs' names and names each output `tensor_<index>`. Metadata of
    ours is dropped: it speaks of another file.

    Args:
        data: Bytes of the file.
        tensor_indices: Sequence of indices of computed tensors, without repetition.

    Raises:
        ValueError: If a tensor does not exist, is computed by no operator, or comes twice.
    """
    schema = tflite_schema()
    model = unpack(data)
    _drop_metadata(model)
    graph = model.subgraphs[0]
    computed = {int(index) for operator in graph.operators for index in operator.outputs}
    indices = [int(index) for index in tensor_indices]
    if not indices or len(set(indices)) < len(indices) or not computed.issuperset(indices):
        raise ValueError(
            "`tensor_indices` must name computed tensors of the file, each once: "
            f"{sorted(computed)}. Received: {tensor_indices}"
        )
    graph.outputs = indices
    for signature in _list(model.signatureDefs)[:1]:
        signature.outputs = []
        for index in indices:
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = f"tensor_{index}", index
            signature.outputs.append(entry)
    return pack(model)


def with_names(
    data: bytes,
    tensor_names: Mapping[int, str],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> bytes:
    """Returns the same model with other tensor names, its inputs and outputs in a given order.

    Args:
        data: Bytes of the file.
        tensor_names: Names of tensors by index; the others keep theirs.
        inputs: Names of the signature's inputs, in the order wanted for the positions.
        outputs: Likewise of the outputs.

    Raises:
        ValueError: If `inputs` or `outputs` are not the signature's.
    """
    model = unpack(data)
    _drop_metadata(model)
    graph = model.subgraphs[0]
    for index, name in tensor_names.items():
        graph.tensors[index].name = name
    signature = model.signatureDefs[0]
    for what, names, entries in (
        ("inputs", inputs, signature.inputs),
        ("outputs", outputs, signature.outputs),
    ):
        known = {entry.name.decode(): int(entry.tensorIndex) for entry in entries}
        if set(known) != set(names):
            raise ValueError(
                f"`{what}` must be the names in the signature: {sorted(known)}. Received: {names}"
            )
        # One tensor may be several outputs; LCE knows it at one position only.
        setattr(graph, what, [*dict.fromkeys(known[name] for name in names)])
    return pack(model)


def with_metadata(data: bytes, values: Mapping[str, Any]) -> bytes:
    """Returns the same model with a JSON object of ours inside, sealed by a hash.

    The object is stored in a metadata buffer named `bnnkeras`, together with the SHA-256 of
    the whole file with the hash's own digits set to 0. What was stored before is replaced.

    Args:
        data: Bytes of the file.
        values: JSON object.

    Raises:
        TypeError: If `values` holds something JSON does not have.
        ValueError: If `values` has the key of the hash, `"bnnkeras_sha256"`.
    """
    schema = tflite_schema()
    if _HASH_KEY in values:
        raise ValueError(
            f"`values` must leave the key {_HASH_KEY!r} free. Received: {sorted(values)}"
        )
    model = unpack(data)
    _drop_metadata(model)
    text = json.dumps({_HASH_KEY: "0" * _HASH_DIGITS, **values})
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    model.buffers = [*model.buffers, buffer]
    entry = schema.MetadataT()
    entry.name, entry.buffer = _METADATA_NAME, len(model.buffers) - 1
    model.metadata = [*_list(model.metadata), entry]
    packed = bytearray(pack(model))
    start = packed.index(_SEAL) + len(_SEAL)
    packed[start : start + _HASH_DIGITS] = hashlib.sha256(packed).hexdigest().encode()
    return bytes(packed)


def metadata(data: bytes) -> dict[str, Any] | None:
    """Returns what `with_metadata` stored, `None` for files without it.

    Needs neither TensorFlow nor LCE. It does not check the file: `check` does.

    Args:
        data: Bytes of the file.

    Raises:
        ValueError: If the object is there but cannot be read.
    """
    start = data.find(_SEAL)
    if start < 0:
        return None
    try:
        values, _ = json.JSONDecoder().raw_decode(data[start:].decode("latin-1"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"`data` holds bnnkeras metadata that is damaged. Received: {error}"
        ) from error
    del values[_HASH_KEY]
    return values


def seal_matches(data: bytes) -> bool | None:
    """Whether the stored hash is that of the file; `None` for files without one.

    Needs neither TensorFlow nor LCE.

    Args:
        data: Bytes of the file.
    """
    start = data.find(_SEAL) + len(_SEAL)
    if start < len(_SEAL):
        return None
    stored = data[start : start + _HASH_DIGITS]
    blank = bytearray(data)
    blank[start : start + _HASH_DIGITS] = b"0" * len(stored)
    return hashlib.sha256(blank).hexdigest().encode() == stored


def check(data: bytes) -> None:
    """Checks that a file may be handed to LCE's interpreter, which checks nothing itself.

    A file of ours must have the hash that was stored when it was converted. A file without our
    metadata passes if TFLite's own verifier accepts it, its indices and constants' sizes fit,
    and its custom operators are LCE's four (`LCE_OPERATORS`); that is no proof that it was not
    edited.

    Args:
        data: Bytes of the file.

    Raises:
        ImportError: If the `deploy` extra is missing.
        ValueError: If the file is no TFLite file, truncated, edited or not runnable.
    """
    received = f"Received: {len(data)} bytes starting with {data[:8]!r}"
    if data[4:8] != b"TFL3":
        raise ValueError(f"The file is no TFLite file: its identifier is not TFL3. {received}")
    # First, because it is the one check that no damage can mislead or crash.
    sealed = seal_matches(data)
    if sealed is False:
        raise ValueError(
            "The file was edited, truncated or damaged after conversion: its stored hash does "
            f"not match. {received}"
        )
    _verify_structure(data, received)
    model = unpack(data)
    named = any(entry.name == _METADATA_NAME for entry in _list(model.metadata))
    if named is not bool(sealed):
        raise ValueError(
            "The file was edited or damaged after conversion: half of its bnnkeras metadata is "
            f"missing. {received}"
        )
    try:
        parsed = read(data)
    except (AttributeError, IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The file is damaged: {type(error).__name__}: {error}. {received}"
        ) from error
    builtins = vars(tflite_schema().BuiltinOperator)
    custom = {item.kind for item in parsed.operators if item.kind not in builtins}
    if not custom <= LCE_OPERATORS:
        raise ValueError(
            f"The file's custom operators must be of {sorted(LCE_OPERATORS)}. "
            f"Received: {sorted(custom - LCE_OPERATORS)}"
        )


def tflite_schema() -> ModuleType:
    """The classes of TFLite's schema, as LCE brings them."""
    return import_or_explain("larq_compute_engine.mlir.python.tflite_schema")


def unpack(data: bytes) -> Any:
    """A file as objects of `tflite_schema()`, to change and `pack` again.

    Args:
        data: Bytes of a file that has passed TFLite's verifier (see `check`).

    Raises:
        ValueError: If it is larger than 2 GB.
    """
    schema = tflite_schema()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    if any(buffer.offset > 1 for buffer in model.buffers):
        raise ValueError(
            "Files above 2 GB, which keep their constants outside the flatbuffer, are not "
            f"supported. Received: {len(data)} bytes"
        )
    return model


def pack(model: Any) -> bytes:
    """The inverse of `unpack`, with constants aligned as kernels need them."""
    flatbuffers = import_or_explain("flatbuffers")
    model.buffers = [_AlignedBuffer(buffer.data) for buffer in model.buffers]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _AlignedBuffer:
    """A buffer packed at the alignment that the schema demands and its Python classes ignore.

    Kernels read constants as words and vectors straight from the mapped file.
    """

    def __init__(self, data: np.ndarray | None) -> None:
        self.data = data

    def Pack(self, builder: Any) -> int:
        """Writes the buffer, under the name that the schema's classes call."""
        schema = tflite_schema()
        if self.data is not None:
            content = np.ascontiguousarray(self.data, np.uint8).tobytes()
            builder.StartVector(1, len(content), _TFLITE_ALIGNMENT)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if self.data is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


def _drop_metadata(model: Any) -> None:
    for entry in _list(model.metadata):
        if entry.name == _METADATA_NAME:
            model.buffers[entry.buffer].data = None
    model.metadata = [item for item in _list(model.metadata) if item.name != _METADATA_NAME]


def _verify_structure(data: bytes, received: str) -> None:
    lite = import_or_explain("tensorflow").lite
    # Without a delegate the constructor verifies and builds, and prepares no operator: LCE's
    # own are unknown to it only from there on.
    resolver = lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            lite.Interpreter(model_content=data, experimental_op_resolver_type=resolver)
    except (RuntimeError, ValueError) as error:
        if "valid Flatbuffer" in str(error):
            message = "The file is truncated or damaged: TFLite's verifier refuses it"
        else:
            message = f"TFLite cannot build the file: {error}"
        raise ValueError(f"{message}. {received}") from error


def _list(values: Any) -> list[Any]:
    return [] if values is None else list(values)


def _indices(values: Any, count: int, what: str) -> tuple[int, ...]:
    indices = tuple(int(value) for value in _list(values))
    if any(index < -1 or index >= count for index in indices):
        raise ValueError(
            f"The file is damaged: {what} must be tensor indices below {count}. Received: {indices}"
        )
    return indices


def _names(entries: Any, indices: tuple[int, ...], tensors: tuple[Tensor, ...]) -> dict[str, int]:
    if not entries:
        return {tensors[index].name: index for index in indices}
    names = {entry.name.decode(): int(entry.tensorIndex) for entry in entries}
    if not set(names.values()) <= set(indices):
        raise ValueError(
            f"The file is damaged: its signature must name tensors of {indices}. Received: {names}"
        )
    return names


def _enum_name(enum: type, value: int) -> str:
    names = {number: name for name, number in vars(enum).items() if isinstance(number, int)}
    return names[value]


def _tensor(schema: ModuleType, model: Any, index: int) -> Tensor:
    tensor = model.subgraphs[0].tensors[index]
    shape = tuple(int(size) for size in _list(tensor.shape))
    kind = _enum_name(schema.TensorType, tensor.type)
    dtype = _DTYPES.get(kind)
    content = model.buffers[tensor.buffer].data if tensor.buffer else None
    value = None
    if content is not None and len(content):
        value = np.frombuffer(np.ascontiguousarray(content), np.dtype(dtype or "uint8"))
        if dtype is not None:
            if min(shape, default=0) < 0 or value.size != int(np.prod(shape, dtype=object)):
                raise ValueError(
                    f"The file is damaged: constant {index} of shape {shape} and type {dtype} "
                    f"has another size. Received: {len(content)} bytes"
                )
            value = value.reshape(shape)
    quantization = None
    stored = tensor.quantization
    if stored is not None and len(_list(stored.scale)):
        quantization = Quantization(
            np.asarray(stored.scale, np.float32),
            np.asarray(stored.zeroPoint, np.int64),
            int(stored.quantizedDimension),
        )
    name = (tensor.name or b"").decode()
    return Tensor(index, name, shape, dtype or kind.lower(), quantization, value)


def _with_filled(schema: ModuleType, model: Any, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gives the outputs of FILL their values.

    The converter writes a large constant whose entries are all equal, such as the kernel of a
    freshly initialised Bi-Real Net, as a FILL of its shape.
    """
    filled = list(tensors)
    for operator in _list(model.subgraphs[0].operators):
        code = model.operatorCodes[operator.opcodeIndex]
        if max(code.builtinCode, code.deprecatedBuiltinCode) != schema.BuiltinOperator.FILL:
            continue
        inputs = _indices(operator.inputs, len(tensors), "inputs of a FILL")
        (output,) = _indices(operator.outputs, len(tensors), "outputs of a FILL")
        shape, entry = (tensors[index].value for index in inputs)
        if shape is not None and entry is not None and tuple(shape) == tensors[output].shape:
            # A view: a damaged shape must not allocate what it claims.
            value = np.broadcast_to(entry.reshape(()), tensors[output].shape)
            filled[output] = dataclasses.replace(tensors[output], value=value)
    return tuple(filled)


def _operator(schema: ModuleType, model: Any, tensors: tuple[Tensor, ...], index: int) -> Operator:
    operator = model.subgraphs[0].operators[index]
    code = model.operatorCodes[operator.opcodeIndex]
    # Codes above 127 do not fit the old field, which then holds a place-holder.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    inputs = _indices(operator.inputs, len(tensors), f"inputs of operator {index}")
    outputs = _indices(operator.outputs, len(tensors), f"outputs of operator {index}")
    if number != schema.BuiltinOperator.CUSTOM:
        kind = _enum_name(schema.BuiltinOperator, number)
        options = _options(schema, vars(operator.builtinOptions or object))
        return Operator(index, kind, inputs, outputs, options)
    kind = code.customCode.decode()
    options = _options(schema, _flexbuffer(operator.customOptions))
    binary = _binary(tensors, inputs, options) if kind == "LceBconv2d" else None
    return Operator(index, kind, inputs, outputs, options, binary)


def _options(schema: ModuleType, values: Mapping[str, Any]) -> dict[str, Any]:
    enums = {"padding": schema.Padding, "fused_activation_function": schema.ActivationFunctionType}
    options = {}
    for name, value in values.items():
        if name.startswith("__"):
            continue
        name = re.sub("[A-Z]", lambda match: f"_{match.group().lower()}", name)
        options[name] = _enum_name(enums[name], value).lower() if name in enums else value
    return options


def _flexbuffer(content: Any) -> dict[str, Any]:
    if content is None or len(content) == 0:
        return {}
    flexbuffers = import_or_explain("flatbuffers.flexbuffers")
    values = flexbuffers.Loads(np.asarray(content, np.uint8).tobytes())
    return values if isinstance(values, dict) else {}


def _binary(
    tensors: tuple[Tensor, ...], inputs: tuple[int, ...], options: Mapping[str, Any]
) -> BinaryConvolution:
    words = tensors[inputs[1]].value
    optional = [tensors[i].value if i >= 0 else None for i in (*inputs, -1, -1, -1)[2:5]]
    if words is None or words.ndim != 4:
        raise ValueError("The file is damaged: an LceBconv2d has no constant 4-D kernel.")
    channels = options["channels_in"]
    groups = max(-(-channels // _BITS) // words.shape[3], 1)
    return BinaryConvolution(
        kernel=_unpack_bits(words, channels // groups),
        channels_in=channels,
        groups=groups,
        strides=(options["stride_height"], options["stride_width"]),
        dilation_rate=(options["dilation_height_factor"], options["dilation_width_factor"]),
        padding=options["padding"],
        pad_values=options["pad_values"],
        activation=options["fused_activation_function"],
        multiplier=optional[0],
        bias=optional[1],
        output_threshold=optional[2],
    )


def _unpack_bits(words: np.ndarray, channels: int) -> np.ndarray:
    """(F, H, W, ceil(C/32)) int32 -> (H, W, C, F) of -1 and +1; a set bit is -1."""
    octets = np.ascontiguousarray(words).astype("<i4").view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, bitorder="little")[..., :channels]
    return np.ascontiguousarray((1 - 2 * bits.astype(np.int8)).transpose(1, 2, 3, 0))
