"""The deploy worker's commands "verify" and "probe": is this file the deploy form, bit for bit?

Comparing logits cannot tell: one activation of 3e-7 that changes its sign becomes 0.3 at the logits
of two equally right evaluations. So the file is compared piece by piece, on its own intermediate
values, and with a probe in which no rounding happens at all.
"""

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from bnnkeras.converters import (
    export,
    flatbuffer,
    graph,
    layers,  # noqa: F401  (registers the deploy layers for loading)
)
from bnnkeras.converters.float_parts import (
    fake_quantization,  # noqa: F401  (registers its layer for loading)
    local,
)
from bnnkeras.converters.plan import BinaryUnit, Epilogue, binary_units, float_signs, output_names
from bnnkeras.converters.worker import running
from bnnkeras.converters.worker.registry import command
from bnnkeras.converters.worker.requirements import import_or_explain

_EPSILON = 2.0**-23
# Multipliers are copied into the file; where two biases are merged, float32 rounds.
_PARAMETER_TOLERANCE = 2.0**-21
# Of activations, in one run.
_PART_BYTES = 2**31
# Values that are compared at a time.
_PIECE = 2**22


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
    eight_bit, unknown_kernels = local.matches(file, deployed)
    problems += unknown_kernels + local.foreign_scales(file, deployed)
    problems += _structure(file, deployed)
    foreign = [*_foreign_interface(file, deployed)]
    result: dict[str, Any] = {
        "binary_layers_converted": [match.unit.name for match in matches],
        "structure_problems": problems + foreign,
        "kernels": {},
    }
    # A file with other inputs and outputs cannot be run as this model.
    if foreign:
        return result, {}
    parts = _parts(inputs, file) if kernels else []
    expected = [
        dict(zip(output_names(deployed), _outputs(deployed, part), strict=True)) for part in parts
    ]
    for kernel in kernels:
        try:
            result["kernels"][kernel] = _worst(
                [
                    _local_errors(data, file, matches, eight_bit, deployed, part, kernel)
                    | _end_to_end(outputs, _run(data, kernel, part))
                    for part, outputs in zip(parts, expected, strict=True)
                ],
                [len(next(iter(part.values()))) for part in parts],
            )
        except RuntimeError as error:
            problems.append(f"{kernel} kernel: LCE refuses the file: {_last_line(error)}")
            result["structure_problems"] = problems
    return result, {}


@command("probe")
def probe(arrays, *, model_path: str, kernels: list[str], batch_size: int):
    """Converts a deploy form with dyadic weights and compares it with what must come out exactly.

    The arrays are one "input/<name>" per input and one "expected/<number>" per output of the model,
    computed by the training form. Differences are absolute maxima.
    """
    deployed = keras.models.load_model(model_path, compile=False)
    data = export.flatbuffer_of(deployed, batch_size)
    double = _in_float64(deployed)
    found = []
    for part in _parts(arrays, flatbuffer.read(data)):
        inputs = _inputs(part)
        expected = [part[f"expected/{number}"] for number in range(len(deployed.outputs))]
        single = _outputs(deployed, inputs)
        found.append(
            {
                # If float32 and float64 differ the probe rounds somewhere, and would prove nothing.
                "rounding": _difference(single, _outputs(double, inputs)),
                "deploy_difference": _difference(single, expected),
                **{kernel: _probed(data, kernel, inputs, deployed, expected) for kernel in kernels},
            }
        )
    worst = {name: _largest([item[name] for item in found]) for name in found[0]}
    result = {name: worst.pop(name) for name in ("rounding", "deploy_difference")}
    return {**result, "binary_layers": len(binary_units(deployed)), "kernels": worst}, {}


def _probed(data, kernel, inputs, deployed, expected) -> float:
    try:
        outputs = _run(data, kernel, inputs)
    except RuntimeError:
        # The kernel refuses the probe's file: nothing it computes is the right thing.
        return math.inf
    return _difference([outputs[name] for name in output_names(deployed)], expected)


def _parts(inputs, file):
    """The samples in as many parts as their activations need: taps are all in memory at once."""
    computed = {index for item in file.operators for index in item.outputs}
    size = sum(flatbuffer.activation_bytes(file.tensors[index]) for index in computed)
    step = max(1, _PART_BYTES // max(size, 1))
    samples = max((len(value) for value in inputs.values()), default=0)
    return [
        {name: value[start : start + step] for name, value in inputs.items()}
        for start in range(0, samples, step)
    ]


def _worst(results: list[dict[str, Any]], samples: list[int]) -> dict[str, Any]:
    """What was found in several parts of the samples, as if it had been one."""
    agreement = [result["argmax_agreement"] for result in results]
    problems = [text for result in results for text in result["local_problems"]]
    merged: dict[str, Any] = {
        "argmax_agreement": float(np.average(agreement, weights=samples)),
        "local_problems": list(dict.fromkeys(problems)),
    }
    for name in results[0].keys() - merged.keys():
        merged[name] = _largest([result[name] for result in results])
    return merged


@dataclasses.dataclass(frozen=True)
class _Match:
    """An LceBconv2d of the file, and what it has to be."""

    operator: flatbuffer.Operator
    unit: BinaryUnit
    epilogue: Epilogue

    @property
    def output(self) -> int:
        return self.operator.outputs[0]


def _match(units: list[BinaryUnit], file) -> tuple[list[_Match], list[str]]:
    """Pairs each LceBconv2d with the unit whose bits it holds."""
    problems, matches, left = [], [], list(units)
    for operator in file.operators:
        if operator.binary is None:
            continue
        candidates = [
            _Match(operator, unit, epilogue)
            for unit in left
            for epilogue in reversed(unit.epilogues)
            if _same_bits(unit, epilogue, operator.binary)
        ]
        if not candidates:
            problems.append(
                f"operator {operator.index} is an LceBconv2d whose kernel is no layer's"
            )
            continue
        # Small kernels may have the same bits, and a shared layer has them on maps of several
        # sizes: the fewest other differences decide, then the size, the order of the layers and the
        # longest epilogue.
        faults = [[*_mismatches(candidate, file)] for candidate in candidates]
        best = min(
            range(len(candidates)),
            key=lambda number: (len(faults[number]), _other_size(candidates[number], file)),
        )
        match = candidates[best]
        left = [unit for unit in left if unit is not match.unit]
        matches.append(match)
        problems += [f"{match.unit.name}: {text}" for text in faults[best]]
    # The converter computes a convolution once where layers have the same bits and the same input.
    for unit in left:
        sharing = (
            _Match(m.operator, unit, e) for m in [*matches] for e in reversed(unit.epilogues)
        )
        matches += [
            match
            for match in sharing
            if _same_bits(unit, match.epilogue, match.operator.binary)
            and not [*_mismatches(match, file)]
        ][:1]
    return matches, problems


def _same_bits(unit, epilogue, binary):
    kernel = unit.kernel
    if binary.kernel.shape != kernel.shape:
        return False
    if binary.output_threshold is not None:
        # For packed output the converter turns the bits of channels with a negative scale.
        kernel = np.where(epilogue.scale < 0, -kernel, kernel)
    return np.array_equal(binary.kernel, kernel)


def _mismatches(match, file):
    unit, epilogue, binary = match.unit, match.epilogue, match.operator.binary
    for attribute in ("strides", "dilation_rate", "padding"):
        wanted, found = getattr(unit.layer, attribute), getattr(binary, attribute)
        # Where nothing is padded, both names mean the same.
        if wanted != found and not (attribute == "padding" and _pads_nothing(unit, match, file)):
            yield f"{attribute} is {found} in the file, {wanted} in the model"
    if binary.padding == "same" and not _pads_nothing(unit, match, file):
        if binary.pad_values != 0:
            yield f"pads with {binary.pad_values} in the file, with 0 in the model"
        size = _size(match, file)
        if any(k > n for k, n in zip(_extents(unit), size, strict=True)):
            yield f"SAME zero padding of a {size} map is wrong in LCE for a kernel of its size"
    if binary.activation != epilogue.activation:
        yield f"activation is {binary.activation} in the file, {epilogue.activation} in the model"
    if binary.output_threshold is not None:
        wrong = _wrong_decisions(unit, epilogue, binary)
        if wrong.any():
            yield f"output thresholds of {np.count_nonzero(wrong)} filters are wrong"
        return
    for name, wanted, magnitude in (
        ("multiplier", epilogue.scale, np.abs(epilogue.scale)),
        ("bias", epilogue.bias, epilogue.magnitude),
    ):
        found = getattr(binary, name)
        if found is None or found.shape != wanted.shape:
            yield f"{name} has shape {None if found is None else found.shape}, not {wanted.shape}"
        elif not (np.abs(found - wanted) <= _PARAMETER_TOLERANCE * magnitude).all():
            yield f"{name} differs by {np.abs(found - wanted).max():.3g}"


def _size(match, file):
    return file.tensors[match.operator.inputs[0]].shape[1:3]


def _other_size(match, file) -> bool:
    """Whether the operator reads a map of another size than the unit."""
    return tuple(_size(match, file)) != tuple(match.unit.before_sign.shape[1:3])


def _extents(unit):
    return [
        (length - 1) * dilation + 1
        for length, dilation in zip(unit.kernel.shape, unit.layer.dilation_rate, strict=False)
    ]


def _pads_nothing(unit, match, file):
    return all(
        (-(-size // stride) - 1) * stride + extent <= size
        and (size - extent) // stride + 1 == -(-size // stride)
        for size, stride, extent in zip(
            _size(match, file), unit.layer.strides, _extents(unit), strict=True
        )
    )


def _wrong_decisions(unit, epilogue, binary):
    """Filters whose packed output is not the sign, for any of the K + 1 possible sums."""
    mismatches = np.arange(unit.products + 1)[:, None]
    sums = unit.products - 2.0 * mismatches
    # In the file the kernels of filters with a negative scale are turned.
    sums = np.where(epilogue.scale < 0, -sums, sums)
    values = epilogue(sums)
    certain = np.abs(values) > _PARAMETER_TOLERANCE * (
        np.abs(sums * epilogue.scale) + epilogue.magnitude
    )
    negative = mismatches > binary.output_threshold
    return (certain & (negative != (values < 0))).any(axis=0)


def _structure(file, deployed):
    found = sum(item.kind == "LceDequantize" for item in file.operators)
    wanted = len(float_signs(deployed))
    if found > wanted:
        yield f"{found} LceDequantize feed signs to float operations, {wanted} in the model"


def _foreign_interface(file, deployed):
    """Differences of inputs and outputs that keep the file from running as this model."""
    for what, found, names, tensors in (
        ("input", file.signature_inputs, [item.name for item in deployed.inputs], deployed.inputs),
        ("output", file.signature_outputs, output_names(deployed), deployed.outputs),
    ):
        if set(found) != set(names):
            yield f"the file's {what}s are {sorted(found)}, the model's {sorted(names)}"
            continue
        for name, tensor in zip(names, tensors, strict=True):
            stored = file.tensors[found[name]]
            wanted = tuple(tensor.shape[1:])
            if stored.shape[1:] != wanted or stored.dtype != tensor.dtype:
                yield (
                    f"{what} {name!r} is {stored.dtype} of shape {stored.shape} in the file, "
                    f"{tensor.dtype} of shape {('batch', *wanted)} in the model"
                )


def _local_errors(data, file, matches, eight_bit, deployed, inputs, kernel):
    """The largest error of any layer, evaluated on the file's own inputs of that layer.

    Binary convolutions are sums of +-1, exact in float32, times one multiplier: an output may be
    off by (4 K |multiplier| + 2 |bias|) 2^-23. Float segments may be off by 1e-5 of their largest
    value. What is int8 may be off by a step of its scale beside.
    """
    values = _tapped(data, file, matches, eight_bit, inputs, kernel)
    matches = _in_order_of_values(matches, file, deployed, inputs, values)
    problems, worst_binary = [], 0.0
    for match in matches:
        signs = _signs(values[_signed_tensor(file, match)], match.unit.kernel.shape[2])
        wanted, bound = _oracle(match, signs)
        found = values[match.output]
        if match.operator.binary.output_threshold is not None:
            # A decision may differ only where the value is within rounding of zero.
            differs = _signs(found, wanted.shape[-1]) != np.where(wanted >= 0, 1, -1)
            ratio = float((np.abs(wanted) * differs / bound).max())
        elif found.shape != wanted.shape:
            ratio = math.inf
        else:
            if local.step_of(file, match.output):
                wanted = np.clip(wanted, *local.limits_of(file, match.output))
                bound = bound + local.step_of(file, match.output)
            ratio = float((np.abs(found - wanted) / bound).max())
        worst_binary = max(worst_binary, ratio)
        if not ratio <= 1:
            problems.append(f"{match.unit.name}: error {ratio:.3g} times its bound")
    worst_eight_bit = None
    for item in eight_bit:
        rounded, allowance = item.rounded_inputs(values[item.item.input])
        (wanted,) = _evaluate([(item.input, rounded)], [item.output])
        ratio = local.errors_over_bound(file, item, values, wanted, allowance)
        worst_eight_bit = max(worst_eight_bit or 0.0, ratio)
        if not ratio <= 1:
            problems.append(f"{item.layer.name}: error {ratio:.3g} times the bound of its 8 bits")
    outputs = _run(data, kernel, inputs)
    worst_float, float_problems = _float_segments(
        file, matches, eight_bit, deployed, inputs, values, outputs
    )
    return {
        "binary_error_over_bound": worst_binary,
        "float_relative_error": worst_float,
        "int8_error_over_bound": worst_eight_bit,
        "local_problems": problems + float_problems,
    }


def _signed_tensor(file, match) -> int:
    """The tensor whose sign a binary convolution takes, or that holds its packed signs."""
    source = file.producer(match.operator.inputs[0])
    if source is not None and source.kind == "LceQuantize":
        return source.inputs[0]
    return match.operator.inputs[0]


def _in_order_of_values(matches, file, deployed, inputs, values):
    """Matches with equal units (a layer called twice) told apart by what they read."""
    groups: dict[tuple, list[int]] = {}
    for position, match in enumerate(matches):
        arrays = (match.unit.kernel, match.epilogue.scale, match.epilogue.bias)
        shape = values[_signed_tensor(file, match)].shape
        key = (shape, *(array.tobytes() for array in arrays))
        groups.setdefault(key, []).append(position)
    groups = {key: positions for key, positions in groups.items() if len(positions) > 1}
    twins = [position for positions in groups.values() for position in positions]
    if not twins:
        return matches
    starts = [(tensor, inputs[tensor.name]) for tensor in deployed.inputs]
    # Signs near zero differ here and there: the closest is meant, and is then checked strictly.
    expected = dict(
        zip(
            twins,
            _evaluate(starts, [matches[position].unit.before_sign for position in twins]),
            strict=True,
        )
    )
    result = list(matches)
    for positions in groups.values():
        left = list(positions)
        for position in positions:
            match = matches[position]
            signs = _signs(values[_signed_tensor(file, match)], match.unit.kernel.shape[2])
            chosen = min(left, key=lambda other: np.mean(signs != _signs(expected[other], None)))
            left.remove(chosen)
            result[position] = dataclasses.replace(
                match, unit=matches[chosen].unit, epilogue=matches[chosen].epilogue
            )
    return result


def _signs(values, channels):
    """+-1 from real values or from packed bits (a set bit is -1)."""
    if values.dtype == np.int32:
        octets = np.ascontiguousarray(values).view(np.uint8)
        bits = np.unpackbits(octets, axis=-1, bitorder="little")[..., :channels]
        return np.where(bits, np.int8(-1), np.int8(1))
    return np.where(values >= 0, np.int8(1), np.int8(-1))


def _oracle(match, signs):
    """What the unit's layer makes of these signs, and the error that float32 allows."""
    tensorflow = import_or_explain("tensorflow")
    unit, epilogue = match.unit, match.epilogue
    sums = tensorflow.nn.conv2d(
        signs.astype("float32"),
        unit.kernel,
        unit.layer.strides,
        unit.layer.padding.upper(),
        dilations=unit.layer.dilation_rate,
    ).numpy()
    bound = (4 * unit.products * np.abs(epilogue.scale) + 2 * epilogue.magnitude) * _EPSILON
    return epilogue(sums.astype("float64")), np.maximum(bound, np.finfo("float32").tiny)


def _float_segments(file, matches, eight_bit, deployed, inputs, values, outputs):
    """Everything between binary convolutions and operators of 8 bits, run by Keras on what the
    file's own ones put out."""
    starts = [(tensor, inputs[tensor.name]) for tensor in deployed.inputs]
    for match in matches:
        value = values[match.output]
        if value.dtype == np.int32:
            # Only the sign, or a max pool and then the sign, can follow: +-1 serve as well.
            value = _signs(value, match.unit.kernel.shape[3]).astype("float32")
        starts.append((match.epilogue.output, value))
    for item in eight_bit:
        value = values[item.item.operator.outputs[0]]
        starts.append((item.output, value.reshape(-1, *item.output.shape[1:])))
    ends = [match.unit.before_sign for match in matches]
    ends += [item.input for item in eight_bit] + deployed.outputs
    names = [f"input of {match.unit.name}" for match in matches]
    names += [f"input of {item.layer.name}" for item in eight_bit]
    names += [f"output {name!r}" for name in output_names(deployed)]
    tensors = [_signed_tensor(file, match) for match in matches]
    tensors += [item.item.input for item in eight_bit]
    found = [values[tensor] for tensor in tensors]
    for number, item in enumerate(eight_bit, start=len(matches)):
        found[number] = found[number].reshape(-1, *item.input.shape[1:])
    tensors += [file.signature_outputs[name] for name in output_names(deployed)]
    found += [outputs[name] for name in output_names(deployed)]
    taps = {match.output for match in matches}
    taps |= {item.item.operator.outputs[0] for item in eight_bit}
    allowances = local.rounding_allowances(file, tensors, taps)
    worst, problems = 0.0, []
    for name, allowance, one, other in zip(
        names, allowances, _evaluate(starts, ends), found, strict=True
    ):
        if other.dtype == np.int32 and one.dtype != np.int32:
            one, other = _certain_signs(one, other)
        elif one.shape != other.shape:
            problems.append(f"{name} has shape {other.shape}, not {one.shape}")
            continue
        error = max(float(np.abs(one - other).max()) - allowance, 0.0)
        error /= max(float(np.abs(one).max()), 1e-30)
        worst = max(worst, error)
        if not error <= local.FLOAT_TOLERANCE:
            problems.append(f"{name}: relative error {error:.3g}")
    return worst, problems


def _certain_signs(values, packed):
    """Signs of real values and packed ones, made equal where rounding may decide."""
    signs = _signs(packed, values.shape[-1])
    certain = np.abs(values) > local.FLOAT_TOLERANCE * np.abs(values).max()
    return np.where(certain, np.where(values >= 0, 1, -1), signs), signs


def _evaluate(starts, ends):
    """Values of symbolic tensors, from those of others: (tensor, value) pairs."""
    known = {id(tensor): value for tensor, value in starts}
    unknown = {id(tensor): tensor for tensor in ends if id(tensor) not in known}
    if unknown:
        model = keras.Model([tensor for tensor, _ in starts], [*unknown.values()])
        computed = graph.outputs(model, [value for _, value in starts])
        known.update(zip(unknown, computed, strict=True))
    return [known[id(tensor)] for tensor in ends]


def _tapped(data, file, matches, eight_bit, inputs, kernel):
    """Values inside the file: what each binary convolution signs, and what it puts out; inputs and
    outputs of operators of 8 bits."""
    values = {index: inputs[name] for name, index in file.signature_inputs.items()}
    wanted = {tensor for match in matches for tensor in (_signed_tensor(file, match), match.output)}
    for item in eight_bit:
        wanted |= {item.item.input, item.item.operator.outputs[0]}
    taps = sorted(wanted - set(values))
    if taps:
        tapped = _run(flatbuffer.with_outputs(data, taps), kernel, inputs)
        values.update(
            {tensor: local.as_real(file, tensor, tapped[f"tensor_{tensor}"]) for tensor in taps}
        )
    return values


def _end_to_end(expected, found):
    """Agreement of the whole; a report and no test, because signs near 0 differ legitimately."""
    ones, others = ([values[name] for name in expected] for values in (expected, found))
    agreement = (
        np.mean(ones[0].argmax(-1) == others[0].argmax(-1))
        if ones[0].shape == others[0].shape
        else 0.0
    )
    return {
        "largest_output_difference": _difference(ones, others),
        "argmax_agreement": float(agreement),
    }


def _run(data, kernel, inputs):
    return running.LoadedModel(data, kernel, 1).predict(inputs, batched=True)


def _outputs(model, inputs):
    return graph.outputs(model, [inputs[tensor.name] for tensor in model.inputs])


def _last_line(error) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _in_float64(model):
    """The same model with every layer in float64."""
    floatx = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:

        def clone(layer):
            # An operation of keras.ops has neither weights nor a dtype.
            if not isinstance(layer, keras.layers.Layer):
                return layer
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


def _difference(ones, others) -> float:
    if any(one.shape != other.shape for one, other in zip(ones, others, strict=True)):
        return math.inf
    differences = [
        np.abs(part.astype("float64") - other.astype("float64")).max()
        for pair in zip(ones, others, strict=True)
        for part, other in zip(*map(_pieces, pair), strict=True)
    ]
    return _largest(differences)


def _largest(errors):
    """The largest of some errors, `None` if that is what one of them is."""
    # Python's max would lose a NaN.
    return None if None in errors else float(np.max(errors))


def _pieces(array):
    """A large array in pieces, of which few are in memory in float64."""
    flat = array.reshape(-1)
    return np.array_split(flat, max(1, -(-flat.size // _PIECE)))
