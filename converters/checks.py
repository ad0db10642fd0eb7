"""The deploy worker's commands "verify" and "probe": is this file the deploy form, bit for bit?

Comparing logits cannot tell: one activation of 3e-7 that changes its sign becomes 0.3 at the logits
of two equally right evaluations. So the file is compared piece by piece, on its own intermediate
values, and with a probe in which no rounding happens at all.
"""

from typing import Any

import keras
import numpy as np

from bnnkeras.converters import (
    export,
    flatbuffer,
    layers,  # noqa: F401  (registers the deploy layers for loading)
)
from bnnkeras.converters.plan import BinaryUnit, binary_units
from bnnkeras.converters.worker import running
from bnnkeras.converters.worker.registry import command
from bnnkeras.converters.worker.requirements import import_or_explain

_EPSILON = 2.0**-23
# Float operations between two taps are short chains; their error relative to the largest value.
_FLOAT_TOLERANCE = 1e-5
_MULTIPLIER_TOLERANCE = 1e-5


@command("verify")
def verify(arrays, *, model_path: str, kernels: list[str]):
    """Compares a file with its deploy form: structure, then every layer on the file's own values.

    The arrays are "flatbuffer" and one "input/<name>" per input.
    """
    deployed = keras.models.load_model(model_path, compile=False)
    data = arrays["flatbuffer"].tobytes()
    inputs = _inputs(arrays)
    flatbuffer.check(data)
    file = flatbuffer.read(data)
    units = binary_units(deployed)
    matches, problems = _match(units, file)
    problems += _structure(file, deployed)
    result: dict[str, Any] = {
        "binary_layers_converted": [unit.name for unit, _ in matches],
        "binary_layers_left": [
            unit.name for unit in units if all(unit is not matched for matched, _ in matches)
        ],
        "structure_problems": problems,
        "kernels": {},
    }
    expected = _by_name(deployed, inputs)
    for kernel in kernels:
        result["kernels"][kernel] = {
            **_local_errors(data, file, matches, deployed, inputs, kernel),
            **_end_to_end(expected, _run(data, kernel, inputs)),
        }
    return result, {}


@command("probe")
def probe(arrays, *, model_path: str, kernels: list[str], batch_size: int):
    """Converts a deploy form with dyadic weights and compares it with what must come out exactly.

    The arrays are one "input/<name>" per input and one "expected/<number>" per output of the model,
    computed by the training form. Differences are absolute maxima.
    """
    deployed = keras.models.load_model(model_path, compile=False)
    data = export.flatbuffer_of(deployed, batch_size)
    inputs = _inputs(arrays)
    expected = [arrays[f"expected/{number}"] for number in range(len(deployed.outputs))]
    single = _outputs(deployed, inputs)
    double = _outputs(_in_float64(deployed), inputs)
    result: dict[str, Any] = {
        # If float32 and float64 differ the probe rounds somewhere, and would prove nothing.
        "rounding": _difference(single, double),
        "deploy_difference": _difference(single, expected),
        "binary_layers": len(binary_units(deployed)),
        "kernels": {},
    }
    for kernel in kernels:
        outputs = _run(data, kernel, inputs)
        ordered = [outputs[name] for name in sorted(outputs, key=_output_number)]
        result["kernels"][kernel] = _difference(ordered, expected)
    return result, {}


def _match(units: list[BinaryUnit], file):
    """Pairs each LceBconv2d with the unit whose bits it holds, in graph order."""
    problems, matches, left = [], [], list(units)
    for operator in file.operators:
        if operator.binary is None:
            continue
        unit = next((unit for unit in left if _same_bits(unit, operator.binary)), None)
        if unit is None:
            problems.append(
                f"operator {operator.index} is an LceBconv2d whose kernel is no layer's"
            )
            continue
        left.remove(unit)
        matches.append((unit, operator))
        problems += [f"{unit.name}: {text}" for text in _mismatches(unit, operator, file)]
    return matches, problems


def _same_bits(unit, binary):
    kernel = unit.kernel
    if binary.output_threshold is not None:
        # For packed output the converter turns the bits of channels with a negative scale.
        kernel = np.where(unit.scale < 0, -kernel, kernel)
    return binary.kernel.shape == kernel.shape and np.array_equal(binary.kernel, kernel)


def _mismatches(unit, operator, file):
    binary, layer = operator.binary, unit.layer
    for attribute in ("strides", "dilation_rate", "padding"):
        wanted, found = getattr(layer, attribute), getattr(binary, attribute)
        if wanted != found:
            yield f"{attribute} is {found} in the file, {wanted} in the model"
    if binary.padding == "same":
        if binary.pad_values != 0:
            yield f"pads with {binary.pad_values} in the file, with 0 in the model"
        size = file.tensors[operator.inputs[0]].shape[1:3]
        extent = [
            (length - 1) * dilation + 1
            for length, dilation in zip(unit.kernel.shape, binary.dilation_rate, strict=False)
        ]
        if any(k > n for k, n in zip(extent, size, strict=True)):
            yield f"SAME zero padding of a {size} map is wrong in LCE for a kernel of {extent}"
    for name, wanted in (("multiplier", unit.scale), ("bias", unit.bias)):
        found = getattr(binary, name)
        if binary.output_threshold is not None:
            continue
        if found is None or found.shape != wanted.shape:
            yield f"{name} has shape {None if found is None else found.shape}, not {wanted.shape}"
        elif np.abs(found - wanted).max() > _MULTIPLIER_TOLERANCE * np.abs(wanted).max():
            yield f"{name} differs by {np.abs(found - wanted).max():.3g}"


def _structure(file, deployed):
    custom = {item.kind for item in file.operators if item.kind.startswith("Lce")}
    if "LceDequantize" in custom:
        yield "an LceDequantize feeds signs to a float operation"
    names = set(file.signature_inputs)
    wanted = {tensor.name for tensor in deployed.inputs}
    if names != wanted:
        yield f"the signature's inputs are {sorted(names)}, the model's {sorted(wanted)}"
    if len(file.signature_outputs) != len(deployed.outputs):
        yield f"{len(file.signature_outputs)} outputs instead of {len(deployed.outputs)}"


def _local_errors(data, file, matches, deployed, inputs, kernel):
    """The largest error of any layer, evaluated on the file's own inputs of that layer.

    Binary convolutions are sums of +-1, exact in float32, times one multiplier: an output may be
    off by (4 K |multiplier| + 2 |bias|) 2^-23. Float segments may be off by 1e-5 of their largest
    value.
    """
    taps = sorted(
        {
            tensor
            for _, operator in matches
            for tensor in (_signed_tensor(file, operator), operator.outputs[0])
        }
    )
    values = _tapped(data, file, taps, inputs, kernel)
    problems, worst_binary = [], 0.0
    for unit, operator in matches:
        signs = _signs(values[_signed_tensor(file, operator)], unit.kernel.shape[2])
        wanted, bound = _oracle(unit, operator.binary, signs)
        found = values[operator.outputs[0]]
        if operator.binary.output_threshold is not None:
            # A decision may differ only where the value is within rounding of zero.
            differs = _signs(found, wanted.shape[-1]) != np.where(wanted >= 0, 1, -1)
            ratio = float((np.abs(wanted) * differs / bound).max())
        else:
            ratio = float((np.abs(found - wanted) / bound).max())
        worst_binary = max(worst_binary, ratio)
        if not ratio <= 1:
            problems.append(f"{unit.name}: error {ratio:.3g} times its bound")
    outputs = _run(data, kernel, inputs)
    worst_float, float_problems = _float_segments(file, matches, deployed, inputs, values, outputs)
    return {
        "binary_error_over_bound": worst_binary,
        "float_relative_error": worst_float,
        "local_problems": problems + float_problems,
    }


def _signed_tensor(file, operator) -> int:
    """The tensor whose sign a binary convolution takes, or that holds its packed signs."""
    source = file.producer(operator.inputs[0])
    if source is not None and source.kind == "LceQuantize":
        return source.inputs[0]
    return operator.inputs[0]


def _signs(values, channels):
    """+-1 from real values or from packed bits (a set bit is -1)."""
    if values.dtype == np.int32:
        octets = np.ascontiguousarray(values).view(np.uint8)
        bits = np.unpackbits(octets, axis=-1, bitorder="little")[..., :channels]
        return np.where(bits, -1, 1)
    return np.where(values >= 0, 1, -1)


def _oracle(unit, binary, signs):
    """What the unit's layer makes of these signs, and the error that float32 allows."""
    tensorflow = import_or_explain("tensorflow")
    sums = tensorflow.nn.conv2d(
        signs.astype("float32"),
        unit.kernel,
        unit.layer.strides,
        unit.layer.padding.upper(),
        dilations=unit.layer.dilation_rate,
    ).numpy()
    scale, bias = unit.scale.astype("float64"), unit.bias.astype("float64")
    wanted = sums.astype("float64") * scale + bias
    low, high = {"relu": (0, np.inf), "relu6": (0, 6), "relu_n1_to_1": (-1, 1)}.get(
        binary.activation, (-np.inf, np.inf)
    )
    bound = (4 * unit.products * np.abs(scale) + 2 * np.abs(bias)) * _EPSILON
    return np.clip(wanted, low, high), np.maximum(bound, np.finfo("float32").tiny)


def _float_segments(file, matches, deployed, inputs, values, outputs):
    """Everything between binary convolutions, run by Keras on what the file's own ones put out."""
    known = [pair for pair in matches if values[pair[1].outputs[0]].dtype != np.int32]
    read = [
        (unit, _signed_tensor(file, operator))
        for unit, operator in matches
        if values[_signed_tensor(file, operator)].dtype != np.int32
    ]
    if len(known) < len(matches):
        # A packed output holds no real values to start the next segment from.
        return 0.0, []
    segments = keras.Model(
        [*deployed.inputs, *(unit.after_scale for unit, _ in known)],
        [*(unit.before_sign for unit, _ in read), *deployed.outputs],
    )
    starts = [inputs[tensor.name] for tensor in deployed.inputs]
    starts += [values[operator.outputs[0]] for _, operator in known]
    wanted = [keras.ops.convert_to_numpy(y) for y in segments(starts)]
    found = [values[tensor] for _, tensor in read]
    found += [outputs[name] for name in sorted(outputs, key=_output_number)]
    names = [f"input of {unit.name}" for unit, _ in read]
    names += [f"output {number}" for number in range(len(deployed.outputs))]
    worst, problems = 0.0, []
    for name, one, other in zip(names, wanted, found, strict=True):
        error = float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-30))
        worst = max(worst, error)
        if not error <= _FLOAT_TOLERANCE:
            problems.append(f"{name}: relative error {error:.3g}")
    return worst, problems


def _tapped(data, file, taps, inputs, kernel):
    """Values of tensors inside the file."""
    if not taps:
        return {}
    tapped = _run(flatbuffer.with_outputs(data, taps), kernel, inputs)
    return {tensor: tapped[f"tensor_{tensor}"] for tensor in taps}


def _end_to_end(expected, found):
    """Agreement of the whole; a report and no test, because signs near 0 differ legitimately."""
    ones, others = (
        [values[name] for name in sorted(values, key=_output_number)]
        for values in (expected, found)
    )
    return {
        "largest_output_difference": _difference(ones, others),
        "argmax_agreement": float(np.mean(ones[0].argmax(-1) == others[0].argmax(-1))),
    }


def _run(data, kernel, inputs):
    return running.LoadedModel(data, kernel, 1).predict(inputs, batched=True)


def _by_name(model, inputs):
    values = _outputs(model, inputs)
    return {f"output_{number}": value for number, value in enumerate(values)}


def _outputs(model, inputs):
    outputs = model([inputs[tensor.name] for tensor in model.inputs])
    return [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(outputs)]


def _in_float64(model):
    """The same model with every layer in float64."""
    floatx = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:

        def clone(layer):
            return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

        inputs = [
            keras.Input(batch_shape=tensor.shape, dtype="float64", name=tensor.name)
            for tensor in model.inputs
        ]
        structured = keras.tree.pack_sequence_as(model.input, inputs)
        twin = keras.models.clone_model(model, input_tensors=structured, clone_function=clone)
        twin.set_weights(model.get_weights())
        return twin
    finally:
        keras.config.set_floatx(floatx)


def _inputs(arrays):
    prefix = "input/"
    return {name[len(prefix) :]: value for name, value in arrays.items() if name.startswith(prefix)}


def _output_number(name: str) -> int:
    return int(name.rpartition("_")[2])


def _difference(ones, others) -> float:
    return max(
        float(np.abs(one.astype("float64") - other.astype("float64")).max())
        for one, other in zip(ones, others, strict=True)
    )
