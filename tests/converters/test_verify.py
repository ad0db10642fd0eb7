"""`verify` finds what can be wrong: files edited byte by byte, and lowering rules with a mistake.

A mutant that passes is a hole in the promise of `convert`; a healthy file that fails, a nuisance.
"""

import re

import keras
import numpy as np
import pytest
from keras import layers

from bnnkeras import converters
from bnnkeras.converters import checks, flatbuffer, layerwise, probe
from bnnkeras.converters import verification as verification_module
from bnnkeras.converters.lowering import (
    binary,
    builder,
    geometry,
    quantized,
    quantizers,
    registry,
)
from bnnkeras.converters.worker import WorkerCrash, get_worker
from bnnkeras.layers import QuantConv2D, QuantDense
from bnnkeras.quantizers import Binarizer, LearnedThreshold

BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": "magnitude_aware_sign"}
FAST = {"kernels": ("indirect",), "run_probe": False}


def _convolution(x, kernel, name, filters=8, **options):
    x = QuantConv2D(filters, kernel, name=name, **{**BINARY, **options})(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def _network():
    """Every form of a binary convolution, bit-packed outputs and pools, two inputs, two outputs."""
    left, right = (keras.Input((16, 16, 4), name=name) for name in ("left", "right"))
    stem = QuantConv2D(8, 7, strides=2, padding="symmetric", name="stem")(left)
    stem = layers.BatchNormalization(name="stem_bn")(stem)
    other = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="other")(right)
    x = layers.Add(name="stream")([stem, other])
    x = layers.Add(name="residual")([x, _convolution(x, 3, "same", padding="same")])
    narrow = _convolution(x, 3, "narrow", strides=2, padding="symmetric")
    flipped = _convolution(x, 5, "flipped", strides=2, padding="symmetric")
    shortcut = layers.Conv2D(8, 1, name="shortcut")(layers.AveragePooling2D(2)(x))
    y = layers.Add(name="small")([narrow, flipped, shortcut])
    tiny = layers.MaxPooling2D(2, name="tiny")(y)
    appended = _convolution(tiny, 3, "appended", strides=2, padding="symmetric")
    border = _convolution(y, 5, "border", padding="symmetric", activation="relu")
    threshold = Binarizer(threshold=LearnedThreshold())
    ones = _convolution(
        x, 3, "ones", padding="same", pad_values=1, use_bias=False, input_quantizer=threshold
    )
    packed = _convolution(layers.MaxPooling2D(2, name="packed_pool")(ones), 1, "after_pool")
    clipped = QuantConv2D(
        8,
        3,
        activation="relu",
        use_bias=False,
        input_quantizer="ste_sign",
        kernel_quantizer="ste_sign",
        name="clipped",
    )(x)
    pooled = layers.MaxPooling2D(3, strides=2, name="pool")(x)
    branches = (border, packed, y, clipped, pooled, appended)
    y = layers.Concatenate(name="all")([layers.Flatten()(z) for z in branches])
    first = QuantDense(5, activation="tanh", name="first", **BINARY)(y)
    second = layers.Dense(5, name="second")(layers.GlobalAveragePooling2D()(x))
    return keras.Model([left, right], [first, second], name="network")


@pytest.fixture(scope="module")
def model(randomized):
    return randomized(_network())


@pytest.fixture(scope="module")
def healthy(model):
    return converters.convert(model)


def test_a_healthy_file_passes(healthy) -> None:
    verification = healthy.verification
    assert verification.passed and verification.problems == ()
    assert verification.binary_layers_total == verification.binary_layers_converted == 9
    assert verification.binary_layers_left == ()
    assert verification.probe_max_difference == 0
    assert [*verification.kernels] == ["default", "reference", "indirect"]
    for result in verification.kernels.values():
        assert 0 < result.binary_error_over_bound <= 1
        assert 0 < result.float_relative_error <= 1e-5
        assert result.probe_difference == 0


def test_the_network_has_every_form(model, healthy) -> None:
    """Or the mutants below would not be what they are called."""
    kinds = {type(layer).__name__ for layer in converters.deploy(model).layers}
    assert kinds >= {"Affine", "Cropping2D", "Flip", "Sign", "SubtractFrom", "ZeroPadding2D"}
    file = flatbuffer.read(healthy.flatbuffer)
    binary = [operator.binary for operator in file.operators if operator.binary]
    assert {item.padding for item in binary} == {"same", "valid"}
    assert {item.activation for item in binary} == {"none", "relu"}
    assert any(item.output_threshold is not None for item in binary)
    assert "LceBMaxPool2d" in {operator.kind for operator in file.operators}


class _File:
    """A `.tflite` file as objects that can be edited."""

    def __init__(self, data: bytes):
        self.read = flatbuffer.read(data)
        self.model = flatbuffer.unpack(data)
        self.graph = self.model.subgraphs[0]

    def bytes(self) -> bytes:
        # Sealed again: the seal is no part of what is tested here.
        return flatbuffer.with_metadata(flatbuffer.pack(self.model), {})

    def operator(self, kind: str, number: int = 0):
        indices = [item.index for item in self.read.operators if item.kind == kind]
        return self.graph.operators[indices[number]]

    def convolution(self, test=lambda binary: True):
        """The first LceBconv2d that passes a test."""
        return next(
            self.graph.operators[item.index]
            for item in self.read.operators
            if item.binary is not None and test(item.binary)
        )

    def constant(self, operator, position: int, dtype: str):
        """Values of a constant input, to be changed in place; axis 0 is the first stored."""
        tensor = self.graph.tensors[operator.inputs[position]]
        buffer = self.model.buffers[tensor.buffer]
        values = np.array(buffer.data, np.uint8).view(dtype).reshape(tensor.shape)
        buffer.data = values.reshape(-1).view(np.uint8)
        return values

    def set_option(self, operator, name: str, value: int):
        """One custom option of an LCE operator."""
        from flatbuffers import flexbuffers

        options = flexbuffers.Loads(bytes(bytearray(operator.customOptions)))
        assert options[name] != value
        encoded = flexbuffers.Dumps({**options, name: value})
        operator.customOptions = np.frombuffer(bytes(encoded), np.uint8)


def _is_float_output(binary):
    return binary.multiplier is not None


def _is_same(binary):
    return binary.padding == "same"


def _has_kernel(size):
    return lambda binary: binary.kernel.shape[0] == size and _is_float_output(binary)


def _flip_one_bit(file):
    file.constant(file.convolution(), 1, "int32")[0, 0, 0, 0] ^= 1


def _swap_two_filters(file):
    kernel = file.constant(file.convolution(_has_kernel(5)), 1, "int32")
    assert (kernel[0] != kernel[1]).any()
    kernel[[0, 1]] = kernel[[1, 0]]


def _mirror_a_kernel(file):
    kernel = file.constant(file.convolution(_is_same), 1, "int32")
    kernel[:] = kernel[:, ::-1].copy()


def _change_a_multiplier(file):
    file.constant(file.convolution(_is_same), 2, "float32")[3] *= 1.00001


def _swap_two_multipliers(file):
    values = file.constant(file.convolution(_is_same), 2, "float32")
    values[[0, 1]] = values[[1, 0]]


def _drop_a_bias(file):
    file.constant(file.convolution(_is_same), 3, "float32")[:] = 0


def _change_a_threshold(file):
    operator = file.convolution(lambda binary: binary.output_threshold is not None)
    values = file.constant(operator, 4, "int32")
    values[np.argmin(np.abs(values))] += 1


def _pad_with_ones(file):
    file.set_option(file.convolution(_is_same), "pad_values", 1)


def _pad_nothing(file):
    schema = flatbuffer.tflite_schema()
    file.set_option(file.convolution(_is_same), "padding", schema.Padding.VALID)


def _stride_one(file):
    operator = file.convolution(lambda binary: binary.strides == (2, 2) and _is_same(binary))
    file.set_option(operator, "stride_width", 1)


def _dilate(file):
    file.set_option(file.convolution(_has_kernel(5)), "dilation_height_factor", 2)


def _lose_a_channel(file):
    file.set_option(file.convolution(_is_same), "channels_in", 7)


def _give_a_multiplier_four_axes(file):
    tensor = file.graph.tensors[file.convolution(_is_same).inputs[2]]
    tensor.shape = np.array([1, 1, 1, *tensor.shape], np.int32)


def _clip(file):
    relu = flatbuffer.tflite_schema().ActivationFunctionType.RELU
    file.set_option(
        file.convolution(lambda binary: binary.activation == "none" and _is_float_output(binary)),
        "fused_activation_function",
        relu,
    )


def _do_not_clip(file):
    none = flatbuffer.tflite_schema().ActivationFunctionType.NONE
    operator = file.convolution(lambda binary: binary.activation == "relu")
    file.set_option(operator, "fused_activation_function", none)


def _shrink_the_packed_pool(file):
    file.set_option(file.operator("LceBMaxPool2d"), "filter_width", 1)


def _shrink_the_float_pool(file):
    pools = [file.operator("MAX_POOL_2D", number).builtinOptions for number in range(2)]
    next(pool for pool in pools if pool.filterHeight == 3).filterHeight = 2


def _shift_the_stem(file):
    # The stem's explicit zeros, one row less above and one more below.
    operator = file.operator("PAD")
    pads = file.constant(operator, 1, "int32")
    assert pads[1, 0] > 0
    pads[1] += (-1, 1)


def _change_a_float_weight(file):
    weights = file.constant(file.operator("CONV_2D"), 1, "float32")
    weights.flat[np.argmax(np.abs(weights))] *= 1.01


def _change_the_border(file):
    file.constant(file.operator("SUB"), 0, "float32")[:] += 0.5


def _permute_outputs(file):
    first, second = file.model.signatureDefs[0].outputs
    first.tensorIndex, second.tensorIndex = second.tensorIndex, first.tensorIndex


def _permute_inputs(file):
    first, second = file.model.signatureDefs[0].inputs
    first.tensorIndex, second.tensorIndex = second.tensorIndex, first.tensorIndex


def _rename_an_output(file):
    file.model.signatureDefs[0].outputs[0].name = b"other"


@pytest.mark.parametrize(
    ("mutate", "finding"),
    [
        (_flip_one_bit, "kernel is no layer's"),
        (_swap_two_filters, "kernel is no layer's"),
        (_mirror_a_kernel, "kernel is no layer's"),
        (_change_a_multiplier, "multiplier differs"),
        (_swap_two_multipliers, "multiplier differs"),
        (_drop_a_bias, "bias differs"),
        (_change_a_threshold, "output thresholds of 1 filters are wrong"),
        (_pad_with_ones, "pads with 1 in the file, with 0 in the model"),
        (_pad_nothing, "padding is valid in the file, same in the model"),
        (_stride_one, r"strides is \(2, 1\) in the file"),
        (_dilate, r"dilation_rate is \(2, 1\) in the file"),
        (_lose_a_channel, "kernel is no layer's"),
        (_give_a_multiplier_four_axes, "indirect kernel: LCE refuses the file"),
        (_clip, "activation is relu in the file, none in the model"),
        (_do_not_clip, "input of first: relative error"),
        (_shrink_the_packed_pool, "input of after_pool: relative error"),
        (_shrink_the_float_pool, "input of first: relative error|refuses|killed"),
        (_shift_the_stem, "input of same: relative error"),
        (_change_a_float_weight, "relative error"),
        (_change_the_border, "relative error"),
        (_permute_outputs, "output 'output_0': relative error"),
        (_permute_inputs, "input of same: relative error"),
        (_rename_an_output, r"the file's outputs are \['other', 'output_[01]'\]"),
    ],
)
def test_an_edited_file_is_found(model, healthy, mutate, finding) -> None:
    file = _File(healthy.flatbuffer)
    mutate(file)
    verification = converters.verify(model, file.bytes(), **FAST)
    assert not verification.passed
    assert any(re.search(finding, text) for text in verification.problems), verification.problems


def test_a_file_that_crashes_lce_is_found(model, healthy, monkeypatch) -> None:
    class Worker:
        def request(self, command, *args, kernels, **parameters):
            if kernels:
                raise WorkerCrash('The deploy worker was killed by SIGSEGV during "verify"\nmore')
            return get_worker().request(command, *args, kernels=kernels, **parameters)

    monkeypatch.setattr(verification_module, "get_worker", Worker)
    verification = converters.verify(model, healthy.flatbuffer, **FAST)
    assert verification.problems == ('The deploy worker was killed by SIGSEGV during "verify"',)
    assert not verification.passed and verification.kernels == {}


def test_editing_without_a_change_stays_healthy(model, healthy) -> None:
    """So it is the mutation that the tests above find, and not the editing."""
    verification = converters.verify(model, _File(healthy.flatbuffer).bytes(), **FAST)
    assert verification.passed and verification.problems == ()


def test_the_weights_of_another_training_are_found(healthy, randomized) -> None:
    verification = converters.verify(randomized(_network(), seed=1), healthy.flatbuffer, **FAST)
    assert not verification.passed
    assert verification.binary_layers_converted < 9


def test_one_changed_weight_of_the_model_is_found(model, healthy) -> None:
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    kernel = keras.ops.convert_to_numpy(twin.get_layer("first").kernel)
    kernel[7, 2] *= -1
    twin.get_layer("first").kernel.assign(kernel)
    verification = converters.verify(twin, healthy.flatbuffer, **FAST)
    assert verification.binary_layers_left == ("first",)
    assert not verification.passed


def test_the_file_of_another_architecture_is_found(healthy, randomized) -> None:
    x = keras.Input((16, 16, 4), name="left")
    other = randomized(keras.Model(x, QuantConv2D(8, 3, **BINARY)(x)))
    verification = converters.verify(other, healthy.flatbuffer, **FAST)
    assert not verification.passed
    assert any("the file's inputs are ['left', 'right']" in text for text in verification.problems)
    # What cannot be run as this model is not run.
    assert verification.kernels == {}


# Lowering rules with a mistake. The deploy form that the file is compared with has the mistake too,
# so the comparison with the training form has to find it.


def _wrong_border(patch):
    border = binary._border
    patch.setattr(binary, "_border", lambda *args: np.roll(border(*args), 1, axis=1))


def _flip_without_kernel(patch):
    patch.setattr(binary.np, "flip", lambda kernel, axes: kernel)


def _crop_at_the_start(patch):
    def crop(self, x, rows, columns, name):
        if not any((*rows, *columns)):
            return x
        return keras.layers.Cropping2D(
            (rows[::-1], columns[::-1]), name=self.name(f"{name}_crop"), dtype=self.dtype
        )(x)

    patch.setattr(builder.Builder, "crop", crop)


def _forget_epsilon(patch):
    rule = registry._RULES[layers.BatchNormalization]

    def fold(builder, layer, inputs):
        epsilon, layer.epsilon = layer.epsilon, 0.0
        try:
            return rule(builder, layer, inputs)
        finally:
            layer.epsilon = epsilon

    patch.setitem(registry._RULES, layers.BatchNormalization, fold)


def _scale_of_the_next_filter(patch):
    parts = quantizers.kernel_parts

    def kernel_parts(*args):
        signs, scale = parts(*args)
        return signs, np.roll(scale, 1)

    patch.setattr(quantizers, "kernel_parts", kernel_parts)


def _no_scale(patch):
    parts = quantizers.kernel_parts

    def kernel_parts(*args):
        signs, scale = parts(*args)
        return signs, np.ones_like(scale)

    patch.setattr(quantizers, "kernel_parts", kernel_parts)


def _negated_kernel(patch):
    parts = quantizers.kernel_parts

    def kernel_parts(*args):
        signs, scale = parts(*args)
        return -signs, scale

    patch.setattr(quantizers, "kernel_parts", kernel_parts)


def _no_bias(patch):
    patch.setattr(quantized, "_bias", lambda layer, filters: np.zeros(filters))


def _no_threshold(patch):
    patch.setattr(quantizers, "centred_input", lambda builder, layer, x, quantizer: x)


def _no_activation(patch):
    patch.setattr(quantized, "_activated", lambda builder, layer, x: x)


def _sign_of_zero(patch):
    sign = builder.Builder.sign

    def strict(self, x, name):
        return sign(self, self.offset(x, np.full(x.shape[-1], -1e-6), name), name)

    patch.setattr(builder.Builder, "sign", strict)


def _no_sign(patch):
    patch.setattr(builder.Builder, "sign", lambda self, x, name: x)


def _shifted_padding(patch):
    explicit = geometry.Axis.explicit.fget
    patch.setattr(geometry.Axis, "explicit", property(lambda axis: explicit(axis)[::-1]))
    patch.setattr(geometry.Axis, "is_flipped_same", property(lambda axis: False))
    patch.setattr(geometry.Axis, "is_appended_same", property(lambda axis: False))


def _always_same(patch):
    patch.setattr(geometry.Axis, "is_same", property(lambda axis: True))


def _threshold_behind_the_padding(patch):
    """Zeros that are padded first are compared with the threshold, and not with 0."""
    centred_input, pad = quantizers.centred_input, builder.Builder.pad
    late = []

    def postpone(builder, layer, x, quantizer):
        late[:] = [(layer, quantizer)]
        return x

    def pad_first(self, x, pads, name, value=0.0):
        x = pad(self, x, pads, name, value)
        if not late or late[0][0].name != name:
            return x
        return centred_input(self, late[0][0], x, late[0][1])

    patch.setattr(quantizers, "centred_input", postpone)
    patch.setattr(builder.Builder, "pad", pad_first)


@pytest.mark.parametrize(
    ("mutate", "layer", "probed"),
    [
        (_wrong_border, "border", "border"),
        (_flip_without_kernel, "flipped", "narrow"),
        (_crop_at_the_start, "appended", "appended"),
        (_scale_of_the_next_filter, "same", "same"),
        (_no_scale, "same", "same"),
        (_negated_kernel, "same", "same"),
        (_no_bias, "stem", "stem"),
        (_no_threshold, "ones", "ones"),
        (_threshold_behind_the_padding, "ones", "ones"),
        (_shifted_padding, "stem", "stem"),
        (_always_same, "stem", "stem"),
        (_forget_epsilon, "stem_bn", "stem_bn"),
        # Padding is exactly 0, whatever the weights.
        (_sign_of_zero, "ones", "same"),
        # The probe leaves out the tanh of "first", but not the relu of "border".
        (_no_activation, "first", "border"),
    ],
)
def test_a_wrong_lowering_rule_is_found(model, monkeypatch, mutate, layer, probed) -> None:
    twin = probe.dyadic_twin(model)
    inputs = probe.dyadic_inputs(twin, samples=2)
    assert layerwise.differences(model) == [] and probe.compared(twin, inputs)[1] == []
    with monkeypatch.context() as patch:
        mutate(patch)
        by_layer, by_probe = layerwise.differences(model), probe.compared(twin, inputs)[1]
    names = {text.partition(":")[0] for text in by_layer}
    assert layer in names
    assert any(f"differ from {probed}" in text for text in by_probe), by_probe


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutate", "finding"),
    [
        (_wrong_border, "border: its deploy form differs"),
        (_forget_epsilon, "probe: deploy and training form differ from stem_bn on"),
        (_no_sign, "0 of 9 binary layers are LceBconv2d"),
    ],
)
def test_convert_finds_a_wrong_lowering_rule(model, monkeypatch, mutate, finding) -> None:
    with monkeypatch.context() as patch:
        mutate(patch)
        verification = converters.convert(model, strict=False).verification
    assert not verification.passed
    assert any(re.search(finding, text) for text in verification.problems), verification.problems


def test_arguments_of_verify(model, healthy, tmp_path) -> None:
    good = {name: np.zeros((1, 16, 16, 4), "float32") for name in ("left", "right")}
    data = healthy.flatbuffer
    for wrong in (
        np.zeros((1, 16, 16, 4)),
        {"left": good["left"]},
        {**good, "third": good["left"]},
        {**good, "right": np.zeros((1, 16, 15, 4))},
    ):
        with pytest.raises(ValueError, match="`inputs` must .*(left|right).* Received: "):
            converters.verify(model, data, wrong, **FAST)
    assert converters.verify(model, data, good, **FAST).passed
    with pytest.raises(ValueError, match="`kernel` must be .* Received: 'fast'"):
        converters.verify(model, data, kernels=("fast",), run_probe=False)
    with pytest.raises(FileNotFoundError):
        converters.verify(model, tmp_path / "missing.tflite")
    with pytest.raises(TypeError, match="`flatbuffer` must be .* Received: int"):
        converters.verify(model, 1)
    with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: str"):
        converters.verify("model", data)


def test_a_path_serves_as_well_as_bytes(model, healthy, tmp_path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(healthy.flatbuffer)
    assert converters.verify(model, path, **FAST).passed
    assert converters.verify(model, str(path), kernels=(), run_probe=False).passed


def test_damaged_files_are_errors(model, healthy) -> None:
    data = bytearray(healthy.flatbuffer)
    data[len(data) // 2] ^= 1
    for damaged, reason in (
        (bytes(data), "edited, truncated or damaged"),
        (healthy.flatbuffer[:-100], "edited, truncated or damaged"),
        (healthy.flatbuffer[:100], "truncated or damaged"),
        (b"", "no TFLite file"),
        (b"not a model at all", "no TFLite file"),
    ):
        with pytest.raises(ValueError, match=reason):
            converters.verify(model, damaged, **FAST)
    # The worker lives on.
    assert converters.verify(model, healthy.flatbuffer, **FAST).passed


def test_samples_are_checked_in_parts_where_maps_are_large(
    model, healthy, tmp_path, monkeypatch
) -> None:
    path = tmp_path / "deploy.keras"
    converters.deploy(model).save(path)
    inputs = verification_module.named_inputs(model, None)
    arrays = {f"input/{name}": value for name, value in inputs.items()}
    arrays["flatbuffer"] = np.frombuffer(healthy.flatbuffer, np.uint8)

    def result():
        found, _ = checks.verify(arrays, model_path=path, kernels=["indirect"])
        return found

    whole = result()
    monkeypatch.setattr(checks, "_PART_BYTES", 1)
    lengths = [
        len(part["left"]) for part in checks._parts(inputs, flatbuffer.read(healthy.flatbuffer))
    ]
    assert lengths == [1, 1, 1, 1]
    parts = result()
    # Relative to the largest value of each part.
    errors = [item["kernels"]["indirect"].pop("float_relative_error") for item in (whole, parts)]
    assert 0 < errors[0] <= errors[1] <= 1e-5
    assert parts == whole


def test_the_worst_of_all_parts_counts() -> None:
    one = {"argmax_agreement": 1.0, "local_problems": ["a"], "error": 0.5, "int8": None}
    other = {"argmax_agreement": 0.0, "local_problems": ["a", "b"], "error": np.nan, "int8": None}
    found = checks._worst([one, other], [3, 1])
    assert np.isnan(found.pop("error"))
    assert found == {"argmax_agreement": 0.75, "local_problems": ["a", "b"], "int8": None}


def test_large_arrays_are_compared_to_their_end(monkeypatch) -> None:
    monkeypatch.setattr(checks, "_PIECE", 4)
    one, other = np.zeros((3, 3), "float32"), np.zeros((3, 3), "float32")
    other[2, 2] = -2.0
    assert checks._difference([one], [other]) == 2.0
    other[1, 1] = np.nan
    assert np.isnan(checks._difference([one], [other]))
    assert checks._difference([one], [other.ravel()]) == np.inf
