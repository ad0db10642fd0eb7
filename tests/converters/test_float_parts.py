"""`convert(quantize=...)`: float parts in fewer bits, and `verify` of such files."""

import re

import keras
import numpy as np
import pytest
from keras import layers

from bnnkeras import converters
from bnnkeras.converters import flatbuffer
from bnnkeras.converters.deployment import deployment_of
from bnnkeras.converters.float_parts import (
    Recipe,
    hybrid,
    kernels,
    make_recipe,
    recipe_of,
    representative_inputs,
    rounding,
    storage,
)
from bnnkeras.converters.float_parts.fake_quantization import (
    FakeQuantization,
    with_fake_quantization,
)
from bnnkeras.converters.worker import running
from bnnkeras.layers import QuantConv2D

BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": "magnitude_aware_sign"}
FAST = {"kernels": ("indirect",), "run_probe": False}
MODES = ("float16", "int8-weights", "int8")


def _binary(x, name, filters=32, kernel=3, **options):
    x = QuantConv2D(filters, kernel, name=name, **{**BINARY, "padding": "same", **options})(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def _network():
    """Every kind of float kernel, with and without an activation, among binary convolutions."""
    image = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(32, 5, strides=2, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.Add(name="zeros_add")([x, _binary(x, "zeros")])
    x = layers.Add(name="ones_add")([x, _binary(x, "ones", pad_values=1)])
    pooled = layers.AveragePooling2D(2, name="pool")(x)
    shortcut = layers.Conv2D(32, 1, name="shortcut")(pooled)
    narrow = _binary(x, "narrow", strides=2, pad_values=1)
    x = layers.Add(name="narrow_add")([shortcut, narrow])
    dilated = layers.Conv2D(32, 3, dilation_rate=2, padding="same", name="dilated")(x)
    dilated = layers.ReLU(name="relu")(dilated)
    depthwise = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    transposed = layers.Conv2DTranspose(32, 3, padding="same", name="transposed")(x)
    shared = layers.Conv2D(32, 1, name="shared")
    again = shared(shared(depthwise))
    x = layers.Add(name="branches")([dilated, depthwise, transposed, again])
    x = _binary(x, "last", kernel=1)
    hidden = layers.Dense(32, activation="tanh", name="hidden")(x)
    pooled = layers.GlobalAveragePooling2D(name="global_pool")(hidden)
    logits = layers.Dense(10, name="logits")(pooled)
    return keras.Model(image, {"logits": logits, "map": x}, name="network")


FLOAT_LAYERS = [
    *("stem", "shortcut", "dilated", "depthwise", "transposed", "shared", "hidden", "logits")
]


@pytest.fixture(scope="module")
def model(randomized):
    return randomized(_network())


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(12, 12, 12, 3)).astype("float32")


@pytest.fixture(scope="module")
def converted(model, images):
    """Conversions of the network, made once for each mode."""
    made = {}

    def get(mode):
        if mode not in made:
            made[mode] = converters.convert(model, quantize=mode, representative_data=images)
        return made[mode]

    return get


def _kernels(data):
    """How the kernel of each operator is stored, by the layer that the file names."""
    file = flatbuffer.read(data)
    names = flatbuffer.metadata(data)["operator_layers"]
    return {
        names[item.operator.index]: (item.dtype, item.dequantized, file.tensors[item.input].dtype)
        for item in storage.kernel_operators(file)
    }


def test_float16_files_store_and_dequantize_every_kernel(converted) -> None:
    stored = _kernels(converted("float16").flatbuffer)
    assert stored == dict.fromkeys(FLOAT_LAYERS, ("float16", True, "float32"))


def test_int8_weights_are_multiplied_as_integers_where_tflite_can(converted) -> None:
    stored = _kernels(converted("int8-weights").flatbuffer)
    dequantized = {"depthwise", "transposed", "shared"}
    assert stored == {name: ("int8", name in dequantized, "float32") for name in FLOAT_LAYERS}


def test_int8_files_compute_float_layers_in_int8(converted) -> None:
    stored = _kernels(converted("int8").flatbuffer)
    # A layer that is called twice would need two ranges.
    assert stored.pop("shared") == ("float32", False, "float32")
    assert stored == {name: ("int8", False, "int8") for name in FLOAT_LAYERS if name != "shared"}


def test_zero_padded_binary_convolutions_put_out_float32(converted) -> None:
    """As int8 they would run under the reference kernel only."""
    data = converted("int8").flatbuffer
    file, names = flatbuffer.read(data), flatbuffer.metadata(data)["operator_layers"]
    outputs = {
        names[item.index]: file.tensors[item.outputs[0]].dtype
        for item in file.operators
        if item.binary is not None
    }
    # The output of "ones" meets float32 in its addition; that of "narrow" int8 alone.
    assert outputs == {"zeros": "float32", "ones": "float32", "narrow": "int8", "last": "int8"}


@pytest.mark.parametrize("mode", MODES)
def test_a_healthy_file_passes_on_every_kernel(converted, mode) -> None:
    verification = converted(mode).verification
    assert verification.passed and verification.problems == ()
    assert verification.binary_layers_converted == verification.binary_layers_total == 4
    assert verification.probe_max_difference == 0
    assert [*verification.kernels] == ["default", "reference", "indirect"]
    for result in verification.kernels.values():
        assert 0 < result.binary_error_over_bound <= 1
        assert result.float_relative_error <= 1e-5
        if mode == "float16":
            assert result.int8_error_over_bound is None
        else:
            assert 0 < result.int8_error_over_bound <= 1


@pytest.mark.parametrize("mode", MODES)
def test_the_cost_is_that_of_both_files_on_the_data(model, images, converted, mode) -> None:
    conversion = converted(mode)
    cost = conversion.quantization
    float32 = converters.convert(model, verify=False).flatbuffer
    found, wanted = (
        np.concatenate(
            [value.ravel() for value in converters.Interpreter(data).predict(images).values()]
        )
        for data in (conversion.flatbuffer, float32)
    )
    assert (cost.mode, cost.samples, cost.measured_on) == (mode, 12, "representative_data")
    assert cost.file_bytes == len(conversion.flatbuffer) < len(float32) == cost.float32_bytes
    assert cost.largest_difference == pytest.approx(np.abs(found - wanted).max())
    assert cost.correlation == pytest.approx(np.corrcoef(found, wanted)[0, 1])
    assert cost.largest_difference > 0 and 0 < cost.argmax_agreement <= 1
    assert mode in str(cost) and "representative_data" in str(cost)


def test_a_float16_file_is_the_network_of_rounded_weights(model, images, converted) -> None:
    """To the last bit: what is dequantized is a float32 kernel like any other."""
    rounded = Recipe("float16").applied(deployment_of(model)).model
    for layer in kernels.float_layers(rounded):
        kernel = np.asarray(layer.kernel)
        assert (kernel == kernel.astype("float16").astype("float32")).all()
    wanted = _run(_float32_file(rounded), images)
    found = _run(converted("float16").flatbuffer, images)
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name])


def _float32_file(deployed):
    from bnnkeras.converters import export

    return export.flatbuffer_of(deployed, 1)


def _run(data, images):
    loaded = running.LoadedModel(data, "indirect", 1)
    return loaded.predict({"image": images}, batched=True)


def test_kept_layers_stay_in_float32(model, images) -> None:
    conversion = converters.convert(
        model,
        quantize="int8",
        representative_data={"image": images},
        keep_float=["stem", "logits"],
        verify=False,
    )
    stored = _kernels(conversion.flatbuffer)
    kept = {name for name, how in stored.items() if how == ("float32", False, "float32")}
    assert kept == {"stem", "logits", "shared"}
    assert conversion.quantization.keep_float == ("stem", "logits")
    assert recipe_of(flatbuffer.metadata(conversion.flatbuffer)).keep_float == ("stem", "logits")
    assert converters.verify(model, conversion.flatbuffer, images[:4], **FAST).passed


def test_a_network_without_zero_padding_is_int8_throughout(randomized, images) -> None:
    image = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="stem")(image)
    x = layers.Add()([x, _binary(x, "ones", pad_values=1)])
    x = layers.MaxPooling2D(2)(x)
    x = layers.Add()([x, _binary(x, "point", kernel=1)])
    x = layers.GlobalAveragePooling2D()(x)
    model = randomized(keras.Model(image, layers.Dense(10, activation="softmax")(x)))
    conversion = converters.convert(model, quantize="int8", representative_data=images)
    file = flatbuffer.read(conversion.flatbuffer)
    floats = {
        item.kind
        for item in file.operators
        if any(file.tensors[index].dtype == "float32" for index in item.outputs)
    }
    # The outputs of the file are float32, and a softmax has a scale of its own.
    assert floats <= {"DEQUANTIZE", "SOFTMAX"}
    assert conversion.verification.passed


def _edit(data, change):
    """The file after `change(model, file)`, with its metadata, sealed anew."""
    model = flatbuffer.unpack(data)
    change(model, flatbuffer.read(data))
    return flatbuffer.with_metadata(flatbuffer.pack(model), _metadata(data))


def _metadata(data):
    return flatbuffer.metadata(data)


def _operator(file, kind, test=lambda item: True):
    return next(
        item for item in storage.kernel_operators(file) if item.operator.kind == kind and test(item)
    )


def _constant(model, tensor, dtype):
    buffer = model.buffers[model.subgraphs[0].tensors[tensor].buffer]
    values = np.array(buffer.data, np.uint8).view(dtype)
    buffer.data = values.view(np.uint8)
    return values


def _change_a_half(model, file):
    values = _constant(model, _operator(file, "CONV_2D").constant, "uint16")
    values[7] ^= 1


def _change_a_weight_by_one(model, file):
    values = _constant(model, _operator(file, "CONV_2D").constant, "int8")
    values[np.argmin(np.abs(values))] += 1


def _change_a_weight_by_two(model, file):
    values = _constant(model, _operator(file, "CONV_2D").constant, "int8")
    values[np.argmin(np.abs(values))] += 2


def _change_a_scale(model, file):
    tensor = model.subgraphs[0].tensors[_operator(file, "CONV_2D").constant]
    tensor.quantization.scale = np.array(tensor.quantization.scale, "float32")
    tensor.quantization.scale[3] *= 1.02


def _change_a_scale_little(model, file):
    tensor = model.subgraphs[0].tensors[_operator(file, "FULLY_CONNECTED").constant]
    tensor.quantization.scale = np.array(tensor.quantization.scale, "float32") * 1.0001


def _change_a_zero_point(model, file):
    item = _operator(file, "DEPTHWISE_CONV_2D")
    tensor = model.subgraphs[0].tensors[item.constant]
    tensor.quantization.zeroPoint = np.array(tensor.quantization.zeroPoint) + 1


def _swap_two_scales(model, file):
    tensor = model.subgraphs[0].tensors[_operator(file, "CONV_2D").constant]
    scale = np.array(tensor.quantization.scale, "float32")
    scale[[0, 1]] = scale[[1, 0]]
    tensor.quantization.scale = scale


def _drop_a_bias(model, file):
    _constant(model, _operator(file, "CONV_2D").operator.inputs[2], "int32")[:] = 0


def _stride_one(model, file):
    operator = _operator(file, "CONV_2D").operator
    options = model.subgraphs[0].operators[operator.index].builtinOptions
    assert options.strideH == 2
    options.strideH = 1


def _shift_the_padding(model, file):
    operator = _operator(file, "CONV_2D", lambda item: item.rows.shape[1] == 288).operator
    options = model.subgraphs[0].operators[operator.index].builtinOptions
    options.dilationHFactor = options.dilationWFactor = 1


def _clip(model, file):
    operator = _operator(file, "CONV_2D").operator
    options = model.subgraphs[0].operators[operator.index].builtinOptions
    options.fusedActivationFunction = flatbuffer.tflite_schema().ActivationFunctionType.RELU


def _move_an_activation_scale(model, file):
    operator = next(item for item in file.operators if item.kind == "ADD" and _is_int8(file, item))
    quantization = model.subgraphs[0].tensors[operator.outputs[0]].quantization
    quantization.scale = np.array(quantization.scale, "float32") * 1.1


def _move_an_activation_zero_point(model, file):
    operator = _operator(file, "CONV_2D").operator
    quantization = model.subgraphs[0].tensors[operator.outputs[0]].quantization
    quantization.zeroPoint = np.array(quantization.zeroPoint) + 30


def _move_the_input_zero_point(model, file):
    operator = next(item for item in file.operators if item.kind == "QUANTIZE")
    quantization = model.subgraphs[0].tensors[operator.outputs[0]].quantization
    quantization.zeroPoint = np.array(quantization.zeroPoint) + 40


def _is_int8(file, operator):
    return file.tensors[operator.outputs[0]].dtype == "int8"


NO_LAYERS = "kernel is no layer's"


@pytest.mark.parametrize(
    ("mode", "change", "finding"),
    [
        ("float16", _change_a_half, NO_LAYERS),
        ("float16", _stride_one, "relative error|refuses"),
        ("int8-weights", _change_a_weight_by_one, NO_LAYERS),
        ("int8-weights", _change_a_scale, NO_LAYERS),
        ("int8-weights", _change_a_scale_little, NO_LAYERS),
        ("int8-weights", _change_a_zero_point, NO_LAYERS),
        ("int8-weights", _swap_two_scales, NO_LAYERS),
        ("int8-weights", _stride_one, "refuses"),
        ("int8-weights", _drop_a_bias, "times the bound of its 8 bits"),
        ("int8-weights", _shift_the_padding, "times the bound of its 8 bits"),
        ("int8-weights", _clip, "times the bound of its 8 bits"),
        ("int8", _change_a_weight_by_two, NO_LAYERS),
        ("int8", _change_a_scale, NO_LAYERS),
        ("int8", _swap_two_scales, NO_LAYERS),
        ("int8", _drop_a_bias, "times the bound of its 8 bits"),
        ("int8", _clip, "times the bound of its 8 bits"),
        ("int8", _move_an_activation_scale, "has the scale .* zero point"),
        ("int8", _move_an_activation_zero_point, "has the scale .* zero point"),
        ("int8", _move_the_input_zero_point, "has the scale .* zero point"),
    ],
)
def test_an_edited_file_is_found(model, images, converted, mode, change, finding) -> None:
    data = _edit(converted(mode).flatbuffer, change)
    verification = converters.verify(model, data, images[:4], **FAST)
    assert not verification.passed
    assert any(re.search(finding, text) for text in verification.problems), verification.problems


@pytest.mark.parametrize("mode", MODES)
def test_editing_without_a_change_stays_healthy(model, images, converted, mode) -> None:
    """So it is the mutation that the test above finds, and not the editing."""
    data = _edit(converted(mode).flatbuffer, lambda model, file: None)
    assert converters.verify(model, data, images[:4], **FAST).passed


def test_a_recipe_of_another_network_or_none_at_all_is_refused(model, converted) -> None:
    data = converted("int8").flatbuffer
    stored = _metadata(data)
    other = {**stored, "quantize": {**stored["quantize"], "ranges": {"other": [0, 1]}}}
    with pytest.raises(ValueError, match="ranges of another network"):
        converters.verify(model, flatbuffer.with_metadata(data, other), **FAST)
    for broken in ("int8", {"mode": "int4", "keep_float": [], "ranges": {}}, {"mode": "int8"}):
        with pytest.raises(ValueError, match="must hold a recipe. Received: "):
            recipe_of({"quantize": broken})
    assert recipe_of(None) is None and recipe_of({}) is None


def test_recipes_survive_metadata() -> None:
    recipe = Recipe("int8", ("stem",), {"x": (-1.5, 2.25)})
    assert recipe_of({"quantize": recipe.as_metadata()}) == recipe


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(6, (3, 2)),
        layers.Conv1D(6, 3),
        layers.Dense(6),
        layers.DepthwiseConv2D((3, 2), depth_multiplier=2),
        layers.Conv2DTranspose(6, (3, 2)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_kernels_are_rows_of_filters_and_back(layer) -> None:
    layer.build((None, 8, 4) if isinstance(layer, layers.Conv1D) else (None, 8, 8, 4))
    kernel = np.random.default_rng(0).normal(size=layer.kernel.shape)
    rows = kernels.filters_first(layer, kernel)
    assert rows.shape[0] == (8 if isinstance(layer, layers.DepthwiseConv2D) else 6)
    np.testing.assert_array_equal(kernels.filters_in_place(layer, rows), kernel)
    # One filter is one output channel.
    scaled = kernels.filters_in_place(layer, rows * np.arange(len(rows))[:, None])
    layer.kernel.assign(kernel)
    x = np.random.default_rng(1).normal(size=(1, 8, 8, 4)[: len(layer.input_spec.shape or "1234")])
    before = np.asarray(layer(x)) if x.ndim == 4 and not isinstance(layer, layers.Conv1D) else None
    if before is not None:
        layer.kernel.assign(scaled)
        np.testing.assert_allclose(np.asarray(layer(x)), before * np.arange(len(rows)), atol=1e-4)


def test_int8_weights_are_within_half_a_step() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 40)).astype("float32")
    rows[1], rows[2, :] = 0, 1e-42
    for per_filter, count in ((True, 5), (False, 1)):
        integers, scales = rounding.as_int8(rows, per_filter)
        assert integers.dtype == np.int8 and scales.dtype == np.float32 and scales.shape == (count,)
        assert np.abs(integers).max() == 127
        error = np.abs(integers * scales[:, None].astype("float64") - rows)
        assert (error <= 0.5000001 * scales[:, None]).all()
        # What is rounded already stays as it is.
        once = rounding.rounded_to_int8(rows, per_filter)
        np.testing.assert_allclose(rounding.rounded_to_int8(once, per_filter), once, rtol=2e-7)
    np.testing.assert_array_equal(rounding.as_int8(rows, True)[0][1:3], 0)


def test_weights_beyond_float16_stay_in_float32(images) -> None:
    rows = np.array([[1.0, 65504.0], [1e-9, -3.3333]], "float32")
    assert rounding.as_float16(rows).dtype == np.float16
    assert rounding.as_float16(rows * 1.01) is None
    np.testing.assert_array_equal(rounding.rounded_to_float16(rows * 1.01), rows * np.float32(1.01))


def test_scales_are_folded_and_activations_split(randomized, images) -> None:
    image = keras.Input((12, 12, 3), name="image")
    shared = layers.Conv2D(8, 3, padding="same", name="shared")
    first = layers.BatchNormalization()(shared(image))
    second = layers.BatchNormalization()(shared(layers.AveragePooling2D(2)(image)))
    transposed = layers.Conv2DTranspose(8, 2, strides=2, use_bias=False, name="transposed")(second)
    transposed = layers.BatchNormalization()(transposed)
    squashed = layers.Dense(8, activation="tanh", name="squashed")(first)
    read_twice = layers.Conv2D(8, 1, name="read_twice")(image)
    x = layers.Add()([layers.BatchNormalization()(read_twice), read_twice, squashed, transposed])
    deployed = converters.deploy(randomized(keras.Model(image, x)))
    folded = kernels.with_folded_scales(deployed)
    names = {layer.name for layer in folded.layers}
    assert {"shared", "shared_1", "transposed", "squashed", "squashed_activation"} <= names
    affines = [x for x in folded.layers if type(x).__name__ == "Affine"]
    assert len(affines) == 1, "the convolution that is read twice keeps its scale apart"
    assert folded.get_layer("squashed").activation is keras.activations.linear
    wanted, found = np.asarray(deployed(images)), np.asarray(folded(images))
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_hybrid_inputs_have_256_values_and_a_zero() -> None:
    values = np.random.default_rng(0).normal(size=(2, 500)).astype("float32")
    values[1] *= 100
    values[:, 0] = 0
    for kind, per_filter in (("CONV_2D", True), ("CONV_2D", False), ("FULLY_CONNECTED", True)):
        symmetric = kind == "FULLY_CONNECTED" or not per_filter
        rounded, undecided = hybrid.rounded_inputs(kind, values, per_filter)
        assert np.count_nonzero(undecided) <= 2
        for one, other in zip(values, rounded, strict=True):
            step = (max(one.max(), 0) - min(one.min(), 0)) / 255
            step = np.abs(one).max() / 127 if symmetric else step
            assert other[0] == 0 and np.unique(other).size <= 256
            assert np.abs(one - other).max() <= step * 1.001
        zeros = hybrid.rounded_inputs(kind, np.zeros((1, 3), "float32"), per_filter)
        np.testing.assert_array_equal(zeros, 0)
        # All in the middle of two integers, but the one that sets the range.
        middles = np.append(np.arange(-50, 51) + 0.5, 127).astype("float32")[None]
        middles[0, 0] = -128 if not symmetric else 0
        _, undecided = hybrid.rounded_inputs(kind, middles, per_filter)
        np.testing.assert_allclose(undecided[0, 1:-1], 1, rtol=1e-5)
        assert undecided[0, 0] == undecided[0, -1] == 0
    # A range of positive values starts at 0.
    np.testing.assert_allclose(
        hybrid.rounded_inputs("CONV_2D", np.float32([[51, 255]]), True)[0], [[51, 255]], rtol=1e-6
    )


def test_inputs_between_two_integers_may_be_rounded_either_way(randomized) -> None:
    """The last bit of a product decides, and compilers form it in different orders."""
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="stem")(image)
    x = layers.Dense(4, name="classifier")(layers.Flatten()(x))
    model = randomized(keras.Model(image, x))
    generator = np.random.default_rng(0)
    images = (generator.integers(-70, 160, (4, 8, 8, 3)) + 0.5).astype("float32")
    images[:, 0, 0, :2] = [-80.3, 174.7]
    made = converters.convert(
        model, quantize="int8-weights", inputs=images * 0.01371, keep_float=("classifier",)
    )
    assert made.verification.passed
    found = {result.int8_error_over_bound for result in made.verification.kernels.values()}
    assert max(found) <= 1


def test_fake_quantization_is_that_of_the_converter(images) -> None:
    for limits in ((-1.0, 3.0), (0.0, 2.55), (-2.0, 0.0), (-0.001, 5.0)):
        layer = FakeQuantization(*limits, "x")
        found = np.asarray(layer(images))
        scale, lowest, highest = layer.nudged()
        wanted = np.round((np.clip(images, lowest, highest) - lowest) / scale) * scale + lowest
        assert (np.abs(found - wanted) < 1e-5).mean() > 0.999
        assert np.abs(found - wanted).max() <= scale * 1.001
        assert abs(float(layer(np.zeros(1, "float32"))[0])) < 1e-6
        assert FakeQuantization.from_config(layer.get_config()).get_config() == layer.get_config()
    np.testing.assert_array_equal(FakeQuantization()(images), images)


def test_signs_keep_what_only_they_read(randomized) -> None:
    """A chain of binary convolutions stays packed bits; nothing is rounded in between."""
    image = keras.Input((8, 8, 32), name="image")
    x = _binary(image, "first", padding="valid")
    x = _binary(x, "second", padding="valid")
    model = randomized(keras.Model(image, layers.Dense(4, name="logits")(layers.Flatten()(x))))
    plan = with_fake_quantization(kernels.with_folded_scales(converters.deploy(model)))
    names = [x.range_name for x in plan.model.layers if isinstance(x, FakeQuantization)]
    assert plan.layers == ("logits",) and plan.float_reasons == {}
    assert not any("first" in name for name in names) and len(set(names)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int4"}, "`quantize` must be None or one of"),
        ({"quantize": "int8"}, '`representative_data` is needed for quantize="int8"'),
        ({"representative_data": 0}, "`representative_data` serves `quantize`, which is None"),
        ({"keep_float": ["stem"]}, "`keep_float` names layers that `quantize` leaves"),
        ({"quantize": "float16", "keep_float": "stem"}, "`keep_float` must be a sequence"),
        ({"quantize": "float16", "keep_float": ["zeros"]}, "`keep_float` must name layers with"),
    ],
)
def test_wrong_arguments_are_named(model, images, arguments, message) -> None:
    if "representative_data" in arguments:
        arguments = {**arguments, "representative_data": images}
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        converters.convert(model, **arguments)
    assert "Received: " in str(error.value)


@pytest.mark.parametrize(
    ("data", "received"),
    [
        (np.zeros((2, 12, 12, 4), "float32"), "(2, 12, 12, 4)"),
        (np.zeros((0, 12, 12, 3), "float32"), "(0, 12, 12, 3)"),
        (np.zeros((12, 12, 3), "float32"), "(12, 12, 3)"),
        (np.float32(1.0), "()"),
        (np.full((2, 12, 12, 3), np.nan, "float32"), "864 values of NaN or infinity"),
        (np.full((2, 12, 12, 3), np.inf, "float64"), "864 values of NaN or infinity"),
        (np.zeros((2, 12, 12, 3), "uint8"), "dtype uint8"),
        ("images", "dtype <U6"),
        ([[1.0], [1.0, 2.0]], "inhomogeneous"),
        ({"picture": np.zeros((2, 12, 12, 3), "float32")}, "['picture']"),
        ({}, "[]"),
    ],
    ids=str,
)
def test_wrong_representative_data_are_named(model, data, received) -> None:
    with pytest.raises(ValueError, match="`representative_data` must") as error:
        converters.convert(model, quantize="int8", representative_data=data)
    assert received in str(error.value).split("Received", 1)[1]


def test_several_inputs_are_given_by_name() -> None:
    left, right = (keras.Input((4,), name=name) for name in ("left", "right"))
    model = keras.Model([left, right], layers.Add()([left, right]))
    data = {"left": np.ones((3, 4)), "right": np.ones((3, 4), "float16")}
    arrays = representative_inputs(model, data)
    assert {name: value.dtype.name for name, value in arrays.items()} == dict.fromkeys(
        ("left", "right"), "float32"
    )
    with pytest.raises(ValueError, match="must be a dict with the keys"):
        representative_inputs(model, np.ones((3, 4)))
    with pytest.raises(ValueError, match="as many samples for every input"):
        representative_inputs(model, {**data, "right": np.ones((2, 4))})


def test_ranges_hold_zero_and_all_that_was_seen(randomized, images) -> None:
    image = keras.Input((12, 12, 3), name="image")
    x = layers.ZeroPadding2D(1)(image)
    x = layers.Conv2D(8, 3, name="stem")(x)
    x = layers.ReLU(name="relu")(x)
    model = randomized(keras.Model(image, layers.MaxPooling2D(2)(x)))
    deployment = deployment_of(model)
    recipe = make_recipe(deployment, "int8", {"image": images})
    stem = np.asarray(keras.Model(image, x)(images))
    assert recipe.ranges["relu"] == pytest.approx((0.0, stem.max()))
    (name,) = set(recipe.ranges) - {"relu"}
    assert recipe.ranges[name] == pytest.approx((images.min(), images.max()))
    silent = make_recipe(deployment, "int8", {"image": np.zeros_like(images)})
    assert silent.ranges[name] == (0.0, 1.0), "a range of zeros alone has no scale"


@pytest.mark.parametrize("mode", ["float16", "int8-weights"])
def test_small_and_uniform_kernels(randomized, images, mode) -> None:
    """One scale, be it of one filter or of equal ones: another rounding in TFLite's kernel."""
    image = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(8, 3, name="small")(image)
    x = layers.Conv2D(64, 3, name="uniform")(x)
    x = layers.Conv2D(8, 3, name="large")(x)
    one = layers.Conv2D(1, 6, name="one_filter")(x)
    alike = layers.Conv2DTranspose(8, 3, name="alike")(x)
    model = randomized(keras.Model(image, [one, alike]))
    for name in ("uniform", "alike"):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.where(np.asarray(kernel) < 0, -0.3, 0.3))
    conversion = converters.convert(model, quantize=mode, inputs=images[:3], batch_size=2)
    stored = {name: dtype for name, (dtype, _, _) in _kernels(conversion.flatbuffer).items()}
    expected = "float16" if mode == "float16" else "int8"
    assert stored == {name: expected for name in stored} | {"small": "float32"}
    assert len(stored) == 5
    assert conversion.verification.passed
    assert conversion.quantization.measured_on == "inputs"


@pytest.mark.slow
def test_bi_real_net_18_at_224_is_small(randomized) -> None:
    from bnnkeras.zoo import BiRealNet18

    model = randomized(BiRealNet18())
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype("float32")
    for mode, largest in (("float16", 2_850_000), ("int8-weights", 2_150_000)):
        conversion = converters.convert(
            model, quantize=mode, representative_data=images, verify=False
        )
        assert conversion.file_bytes <= largest
        assert conversion.quantization.float32_bytes <= 4_250_000
        assert converters.verify(model, conversion.flatbuffer, images[:1], **FAST).passed
