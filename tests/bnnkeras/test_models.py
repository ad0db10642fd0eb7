"""Profiles of models: the published counts, Larq's numbers, and MACs counted by multiplying."""

import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import layers, models, quantizers, zoo
from bnnkeras.models import LayerProfile, ModelProfile, OperationProfile

DEPTHWISE = {"input_quantizer": "ste_sign", "depthwise_quantizer": "ste_sign"}
BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
BARE = {"use_bias": False}


@pytest.fixture(autouse=True, scope="module")
def _zeros_instead_of_random_weights():
    """Values don't matter here, and JAX compiles random ones anew for each shape."""
    with pytest.MonkeyPatch.context() as patch:
        for initializer in (keras.initializers.VarianceScaling, keras.initializers.RandomUniform):
            patch.setattr(initializer, "__call__", lambda _, shape, dtype: ops.zeros(shape, dtype))
        yield


@pytest.fixture(autouse=True)
def _no_warning_of_starved_weights(caplog):
    caplog.set_level("ERROR")


@pytest.fixture(scope="session")
def larq_summaries(goldens) -> dict:
    return json.loads((goldens.folder / "larq" / "summaries.json").read_text())


def sequential(*inside, shape, name="model") -> keras.Model:
    return keras.Sequential([keras.Input(shape), *inside], name=name)


def table(model, **kwargs) -> dict[str, dict]:
    """The rows of `summary` by layer name, and their entries by column."""
    header, *rows = ModelProfile(model, **kwargs).generate_table()
    columns = [text.replace("\n", " ") for text in header]
    return {row[0]: dict(zip(columns, row, strict=True)) for row in rows}


def macs(model, precision=None, **kwargs) -> int | None:
    return ModelProfile(model, **kwargs).op_count("mac", precision)


# --- Published counts ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def birealnet18() -> keras.Model:
    return zoo.BiRealNet18(input_shape=(224, 224, 3))


def test_birealnet18_has_the_papers_counts(birealnet18):
    profile = ModelProfile(birealnet18)
    assert profile.weight_count(1) == 10_985_472
    assert profile.weight_count(trainable=True, folded=False) == 11_689_512
    assert profile.weight_count(folded=False) == birealnet18.count_params() == 11_699_112
    assert profile.memory == 33_514_752
    assert profile.unfolded_memory == 33_821_952
    assert profile.op_count("mac", 1) == 1_676_279_808
    assert profile.op_count("mac", 32) == 137_793_536
    assert profile.op_count("mac") == 1_814_073_344
    assert profile.equivalent_operations == 163_985_408
    assert profile.macs_known


def test_birealnet18_has_larqs_numbers(birealnet18, larq_summaries):
    expected = larq_summaries["BiRealNet"]
    profile = ModelProfile(birealnet18)
    assert profile.weight_count() == expected["params_total"]
    assert profile.weight_count(trainable=True) == expected["params_trainable"]
    assert profile.weight_count(trainable=False) == expected["params_non_trainable"]
    assert {str(bits): profile.weight_count(bits) for bits in profile.unique_param_bitwidths} == (
        expected["params_by_bitwidth"]
    )
    assert profile.memory == expected["memory_bits"]
    assert profile.int8_fp_weights_memory == expected["int8_fp_weights_memory_bits"]
    assert profile.fp_equivalent_memory == expected["fp_equivalent_memory_bits"]
    assert profile.compression_ratio == expected["compression_ratio"]
    assert {str(x.precision): x.n for x in profile.op_profiles} == expected["macs_by_precision"]
    larq_rows = [tuple(row) for row in expected["summary_rows"]]
    assert [tuple(row) for row in profile.generate_summary()[: len(larq_rows)]] == larq_rows


def costs(row, columns=8) -> tuple:
    """A row of either package without name and LCE column. Larq writes ? for layers without MACs,
    where 0 is known."""
    return tuple(0 if entry == "?" else entry for entry in row[1:columns])


def sorted_costs(rows) -> list[tuple]:
    return sorted(map(costs, rows), key=repr)


def test_birealnet18_has_larqs_rows(birealnet18, larq_summaries):
    expected = larq_summaries["BiRealNet"]["table"]
    rows = ModelProfile(birealnet18).generate_table()
    assert rows[0][:8] == expected[0]
    # Larq Zoo pools, flattens and classifies with four layers, and this zoo with two.
    assert sorted_costs(rows[1:-3]) == sorted_costs(expected[1:-5])
    assert costs(rows[-2]) == costs(expected[-3])
    assert costs(rows[-1]) == costs(expected[-1])


def quicknet_fragment():
    """The stem and the first two binary layers of Larq Zoo's QuickNet."""
    yield keras.layers.Conv2D(16, 3, strides=2, padding="same", **BARE)
    yield keras.layers.BatchNormalization()
    yield keras.layers.Activation("relu")
    yield layers.QuantDepthwiseConv2D(3, strides=2, padding="same", use_bias=False)
    yield keras.layers.BatchNormalization(scale=False, center=False)
    yield keras.layers.Conv2D(64, 1, **BARE)
    yield keras.layers.BatchNormalization()
    yield layers.QuantConv2D(64, 3, padding="same", pad_values=1, **BARE, **BINARY)
    yield keras.layers.BatchNormalization()


def xnornet_fragment():
    """XNOR-Net's AlexNet up to its fourth binary layer."""
    yield keras.layers.Conv2D(96, 11, strides=4, padding="same", **BARE)
    yield keras.layers.BatchNormalization(scale=False)
    yield keras.layers.Activation("relu")
    yield keras.layers.MaxPooling2D(3, 2)
    for filters, size, pool in ((256, 5, True), (384, 3, False), (384, 3, False), (256, 3, True)):
        yield keras.layers.BatchNormalization(scale=False)
        yield layers.QuantConv2D(filters, size, padding="same", **BARE, **BINARY)
        if pool:
            yield keras.layers.MaxPooling2D(3, 2)


@pytest.mark.parametrize(
    ("name", "fragment"), [("QuickNet", quicknet_fragment), ("XNORNet", xnornet_fragment)]
)
def test_fragments_have_larqs_rows(name, fragment, larq_summaries):
    expected = larq_summaries[name]["table"]
    x = inputs = keras.Input((224, 224, 3))
    for layer in fragment():
        x = layer(x)
    rows = ModelProfile(keras.Model(inputs, x)).generate_table()
    assert len(rows) > 9
    for row, larq_row in zip(rows[1:-1], expected[1:], strict=False):
        assert costs(row) == costs(larq_row)


def test_real_to_binary_block_has_larqs_rows(larq_summaries):
    """The squeeze and excitation around a binary convolution, block 2a of Real-to-Binary Net."""
    golden = larq_summaries["RealToBinaryNet"]["table"]
    expected = [row for row in golden if row[0].startswith("r2b_bnn_block_2a_")]
    shape = (56, 56, 64)
    inputs = keras.Input(shape)
    x = keras.layers.BatchNormalization()(inputs)
    scale = keras.layers.AveragePooling2D(56)(x)
    scale = keras.layers.Flatten()(scale)
    scale = keras.layers.Dense(8, "relu", **BARE)(scale)
    scale = keras.layers.Dense(64, "sigmoid", **BARE)(scale)
    scale = keras.layers.Reshape((1, 1, 64))(scale)
    x = layers.QuantConv2D(64, 3, padding="same", pad_values=1, **BARE, **BINARY)(x)
    x = keras.layers.Multiply()([x, scale])
    x = keras.layers.PReLU(shared_axes=(1, 2))(x)
    x = keras.layers.Add()([x, inputs])
    rows = ModelProfile(keras.Model(inputs, x)).generate_table()
    assert sorted_costs(rows[2:-1]) == sorted_costs(expected)


# The same model in Larq 0.14, with every layer class of which Larq counts MACs rightly.
LARQ_SCRIPT = """
import json
import larq as lq
import tensorflow as tf

tf.get_logger().setLevel("ERROR")
layers = tf.keras.layers
model = tf.keras.Sequential([
    layers.Input((12, 12, 8)),
    layers.Conv2D(8, 3, padding="same"),
    layers.BatchNormalization(),
    lq.layers.QuantConv2D(
        16, 3, groups=2, input_quantizer="ste_sign", kernel_quantizer="magnitude_aware_sign"
    ),
    layers.MaxPooling2D(),
    lq.layers.QuantDepthwiseConv2D(
        3, depth_multiplier=2, input_quantizer="ste_sign", depthwise_quantizer="ste_sign"
    ),
    layers.SeparableConv2D(8, 3),
    lq.layers.QuantConv2D(8, 1, kernel_quantizer="ste_sign"),
    layers.BatchNormalization(scale=False),
    layers.Reshape((1, 8)),
    lq.layers.QuantConv1D(
        6, 3, padding="same", input_quantizer="ste_sign", kernel_quantizer="dorefa_quantizer"
    ),
    layers.Flatten(),
    lq.layers.QuantDense(10, input_quantizer="ste_sign", kernel_quantizer="ste_sign"),
    layers.Activation("softmax"),
])
model.layers[0].trainable = False
profile = lq.models.ModelProfile(model)
print(json.dumps([profile.generate_table(), profile.generate_summary()]))
"""


def twin_of_the_larq_model() -> keras.Model:
    class TwoBits(quantizers.Quantizer):
        precision = 2

        def call(self, inputs):
            return inputs

    return sequential(
        keras.layers.Conv2D(8, 3, padding="same", trainable=False),
        keras.layers.BatchNormalization(),
        layers.QuantConv2D(
            16, 3, groups=2, input_quantizer="ste_sign", kernel_quantizer="magnitude_aware_sign"
        ),
        keras.layers.MaxPooling2D(),
        layers.QuantDepthwiseConv2D(3, depth_multiplier=2, **DEPTHWISE),
        keras.layers.SeparableConv2D(8, 3),
        layers.QuantConv2D(8, 1, kernel_quantizer="ste_sign"),
        keras.layers.BatchNormalization(scale=False),
        keras.layers.Reshape((1, 8)),
        layers.QuantConv1D(
            6, 3, padding="same", input_quantizer="ste_sign", kernel_quantizer=TwoBits()
        ),
        keras.layers.Flatten(),
        layers.QuantDense(10, **BINARY),
        keras.layers.Activation("softmax"),
        shape=(12, 12, 8),
    )


def test_larq_itself_says_the_same(tmp_path, backend):
    if backend != "tensorflow":
        pytest.skip("Larq and the shapes are the same on every backend")
    for package in ("larq", "tf_keras"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    result = subprocess.run(
        [sys.executable, "-c", LARQ_SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    larq_table, larq_summary = json.loads(result.stdout.splitlines()[-1])
    profile = ModelProfile(twin_of_the_larq_model())
    rows = profile.generate_table()
    assert rows[0][:-1] == larq_table[0]
    assert len(rows) == len(larq_table)
    for row, larq_row in zip(rows[1:], larq_table[1:], strict=True):
        assert costs(row, len(larq_row)) == costs(larq_row, len(larq_row))
    assert profile.generate_summary()[: len(larq_summary)] == larq_summary


# --- MACs, counted -----------------------------------------------------------------------------


def count_products(layer, input_shape) -> int:
    """Every product of a layer is 1 * 1, so the sum of its outputs is their number."""
    layer.build((None, *input_shape))
    for weight in layer.weights:
        weight.assign(np.ones(weight.shape))
    return int(ops.convert_to_numpy(ops.sum(layer(np.ones((1, *input_shape), "float32")))))


COUNTED = {
    "dense": (keras.layers.Dense(5, **BARE), (7,)),
    "dense_rank_3": (keras.layers.Dense(5, **BARE), (6, 7)),
    "dense_rank_4": (keras.layers.Dense(5, **BARE), (2, 3, 7)),
    "conv1d": (keras.layers.Conv1D(5, 3, strides=2, **BARE), (9, 4)),
    "conv1d_dilated": (keras.layers.Conv1D(5, 3, dilation_rate=2, **BARE), (9, 4)),
    "conv2d": (keras.layers.Conv2D(5, (3, 2), strides=2, **BARE), (8, 9, 4)),
    "conv2d_grouped": (keras.layers.Conv2D(6, 3, groups=2, **BARE), (8, 9, 4)),
    "conv2d_binary": (layers.QuantConv2D(6, 3, **BARE, **BINARY), (8, 9, 4)),
    "conv2d_ones_around": (
        layers.QuantConv2D(6, 3, strides=2, padding="same", pad_values=1, **BARE, **BINARY),
        (8, 9, 4),
    ),
    "conv3d": (keras.layers.Conv3D(5, 2, **BARE), (4, 5, 3, 2)),
    "depthwise_conv1d": (
        keras.layers.DepthwiseConv1D(3, depth_multiplier=2, use_bias=False),
        (9, 4),
    ),
    "depthwise_conv2d": (
        keras.layers.DepthwiseConv2D(3, strides=2, depth_multiplier=3, use_bias=False),
        (8, 9, 4),
    ),
    "conv1d_transpose": (keras.layers.Conv1DTranspose(5, 3, strides=2, **BARE), (9, 4)),
    "conv2d_transpose": (keras.layers.Conv2DTranspose(5, (3, 2), strides=2, **BARE), (4, 5, 3)),
    "conv3d_transpose": (keras.layers.Conv3DTranspose(5, 2, strides=2, **BARE), (3, 4, 2, 3)),
}


@pytest.mark.parametrize("case", COUNTED)
def test_macs_are_the_products(case):
    layer, shape = COUNTED[case]
    layer = type(layer).from_config(layer.get_config())
    expected = count_products(layer, shape)
    model = sequential(layer, shape=shape)
    assert macs(model) == expected
    assert macs(model, 1 if "quantizer" in repr(layer.get_config().keys()) else 32) == expected


@pytest.mark.parametrize("depth_multiplier", [1, 2])
def test_macs_of_separable_convolutions(depth_multiplier):
    depthwise = keras.layers.DepthwiseConv2D(3, depth_multiplier=depth_multiplier, use_bias=False)
    pointwise = keras.layers.Conv2D(6, 1, **BARE)
    expected = count_products(depthwise, (8, 9, 4))
    expected += count_products(pointwise, (6, 7, 4 * depth_multiplier))
    separable = keras.layers.SeparableConv2D(6, 3, depth_multiplier=depth_multiplier)
    assert macs(sequential(separable, shape=(8, 9, 4))) == expected
    separable = keras.layers.SeparableConv1D(6, 3, depth_multiplier=depth_multiplier)
    expected = (3 * 4 * depth_multiplier + 4 * depth_multiplier * 6) * 7
    assert macs(sequential(separable, shape=(9, 4))) == expected


def test_padding_counts_as_input():
    convolution = keras.layers.Conv2D(5, 3, padding="same")
    assert macs(sequential(convolution, shape=(8, 9, 4))) == 3 * 3 * 4 * 5 * 8 * 9
    transposed = keras.layers.Conv2DTranspose(5, 3, strides=2, padding="same")
    assert macs(sequential(transposed, shape=(8, 9, 4))) == 3 * 3 * 4 * 5 * 8 * 9


CHANNELS_FIRST = [
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.SeparableConv2D,
    layers.QuantConv2D,
]


@pytest.mark.parametrize("layer_class", CHANNELS_FIRST)
def test_channels_first_counts_the_same(layer_class):
    last = sequential(layer_class(6, 3, data_format="channels_last"), shape=(8, 9, 4))
    first = sequential(layer_class(6, 3, data_format="channels_first"), shape=(4, 8, 9))
    assert macs(first) == macs(last) > 0
    profiles = [ModelProfile(model).layer_profiles[0] for model in (first, last)]
    assert profiles[0].output_pixels == profiles[1].output_pixels


def test_precision_is_that_of_the_wider_operand():
    for input_quantizer, kernel_quantizer, expected in (
        (None, None, 32),
        ("ste_sign", None, 32),
        (None, "ste_sign", 32),
        ("ste_sign", "ste_sign", 1),
    ):
        layer = layers.QuantDense(
            3, input_quantizer=input_quantizer, kernel_quantizer=kernel_quantizer
        )
        profile = ModelProfile(sequential(layer, shape=(4,)))
        assert profile.op_profiles == [OperationProfile(12, expected)]
        assert profile.weight_count(1) == (12 if kernel_quantizer else 0)
        assert profile.layer_profiles[0].input_precision == (1 if input_quantizer else None)


def test_precision_inside_separable_convolutions():
    def profile(**quantizers_):
        layer = layers.QuantSeparableConv2D(6, 3, use_bias=False, **quantizers_)
        return ModelProfile(sequential(layer, shape=(8, 8, 4)))

    pointwise = {"pointwise_quantizer": "ste_sign"}
    depthwise_macs, pointwise_macs = 9 * 4 * 36, 4 * 6 * 36
    # Larq counts these as 1-bit MACs, but the pointwise convolution reads sums.
    assert profile(**DEPTHWISE, **pointwise).op_profiles == [
        OperationProfile(depthwise_macs, 1),
        OperationProfile(pointwise_macs, 32),
    ]
    bits = profile(**DEPTHWISE, **pointwise, intermediate_quantizer="ste_sign")
    assert bits.op_profiles == [OperationProfile(depthwise_macs + pointwise_macs, 1)]
    assert bits.unique_param_bitwidths == [1]
    assert profile(**pointwise).weight_count(1) == 24
    assert profile(**DEPTHWISE).weight_count(1) == 36


@pytest.mark.parametrize(
    ("layer_class", "arguments", "shape"),
    [
        (layers.QuantConv1D, (5, 3), (9, 4)),
        (layers.QuantConv3D, (5, 2), (4, 5, 3, 2)),
        (layers.QuantConv1DTranspose, (5, 3), (9, 4)),
        (layers.QuantConv2DTranspose, (5, 3), (4, 5, 3)),
        (layers.QuantConv3DTranspose, (5, 2), (3, 4, 2, 3)),
        (layers.QuantDepthwiseConv1D, (3,), (9, 4)),
        (layers.QuantDepthwiseConv2D, (3,), (8, 9, 4)),
    ],
)
def test_binary_layers_count_like_their_keras_layers(layer_class, arguments, shape):
    kernel = "depthwise_quantizer" if "Depthwise" in layer_class.__name__ else "kernel_quantizer"
    binary = layer_class(*arguments, input_quantizer="ste_sign", **{kernel: "ste_sign"})
    (base,) = [cls for cls in layer_class.__mro__ if cls.__name__ == layer_class.__name__[5:]]
    binary, plain = (
        ModelProfile(sequential(layer, shape=shape)) for layer in (binary, base(*arguments))
    )
    assert binary.op_count("mac", 1) == plain.op_count("mac", 32) > 0
    assert binary.weight_count() == plain.weight_count()
    bias = plain.layer_profiles[0].weight_profiles[-1].count
    assert binary.weight_count(1) == plain.weight_count() - bias


def test_precision_of_other_quantizers():
    class TwoBits(quantizers.Quantizer):
        precision = 2

        def call(self, inputs):
            return inputs

    layer = layers.QuantDense(3, input_quantizer=TwoBits(), kernel_quantizer="ste_sign")
    rows = dict(ModelProfile(sequential(layer, shape=(4,))).generate_summary())
    assert rows["Ratio of MACs that are ternarized"] == "1.0000"
    assert "Ratio of MACs that are binarized" not in rows

    untagged = layers.QuantDense(3, input_quantizer=lambda x: x, kernel_quantizer=lambda x: x)
    profile = ModelProfile(sequential(untagged, shape=(4,)))
    assert profile.op_profiles == [OperationProfile(12, 32)]
    assert profile.layer_profiles[0].input_precision is None


def test_matrix_products_of_a_graph_are_counted():
    left, right = keras.Input((5, 3)), keras.Input((3, 7))
    model = keras.Model([left, right], ops.relu(ops.matmul(left, right)))
    assert macs(model) == 5 * 3 * 7
    assert ModelProfile(model).macs_known


def test_unknown_layers_are_marked():
    class Mystery(keras.layers.Layer):
        def call(self, x):
            return x

    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="dense")(Mystery(name="mystery")(inputs))
    profile = ModelProfile(keras.Model(inputs, x))
    assert [row[-2] for row in profile.generate_table()[1:]] == [0, "?", 12, 12]
    assert not profile.macs_known
    assert dict(profile.generate_summary())["Number of MACs"] == "12, without what is marked ?"
    assert profile.layer_profiles[1].op_count("mac") is None


@pytest.mark.parametrize("wrapper", ["lstm", "time_distributed"])
def test_loops_are_unknown_and_not_wrong(wrapper):
    if wrapper == "lstm":
        layer = keras.layers.LSTM(3)
    else:
        layer = keras.layers.TimeDistributed(layers.QuantDense(3, use_bias=False, **BINARY))
    profile = ModelProfile(sequential(layer, shape=(5, 4)))
    assert profile.layer_profiles[0].op_count("mac") is None
    assert profile.weight_count(folded=False) == layer.count_params()
    assert profile.generate_table()[1][-2] == "?"
    if wrapper == "time_distributed":
        assert profile.weight_count(1) == 12


def test_own_layers_can_have_rules():
    class Gram(keras.layers.Layer):
        def call(self, x):
            return ops.matmul(ops.transpose(x, (0, 2, 1)), x)

    @models.compute_macs.register(Gram)
    def _(layer, input_shapes, output_shapes):
        _, rows, columns = input_shapes[0]
        return [OperationProfile(rows * columns**2, 32)]

    assert macs(sequential(Gram(), shape=(5, 3))) == 45


# --- Structure of models -----------------------------------------------------------------------


def test_shared_layer_counts_its_weights_once_and_its_macs_per_call():
    dense = keras.layers.Dense(4, name="dense")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, dense(dense(inputs)))
    profile = ModelProfile(model)
    assert profile.weight_count() == 20
    assert profile.op_count("mac") == 32
    rows = table(model)
    assert rows["dense (2 calls)"]["Outputs"] == "(-1, 4)"
    assert len(rows) == 3


def test_shared_layer_with_different_outputs():
    convolution = keras.layers.Conv2D(2, 3, name="conv")
    inputs = keras.Input((8, 8, 2))
    model = keras.Model(inputs, convolution(convolution(inputs)))
    row = table(model)["conv (2 calls)"]
    assert row["Outputs"] == "multiple"
    assert row["32-bit MACs"] == 9 * 2 * 2 * (36 + 16)
    layer = ModelProfile(model).layer_profiles[1]
    assert layer.output_shape is None and layer.output_pixels is None


def nested_model():
    inner = sequential(
        layers.QuantConv2D(4, 3, use_bias=False, name="binary", **BINARY),
        keras.layers.BatchNormalization(name="bn"),
        shape=(None, None, 4),
        name="inner",
    )
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 1, name="first")(inputs)
    x = inner(inner(x))
    return keras.Model(inputs, keras.layers.Flatten(name="flat")(x), name="outer")


def test_nested_models_have_rows_of_their_own():
    model = nested_model()
    rows = table(model)
    assert list(rows)[1:] == [
        "first",
        "inner (2 calls)",
        "  binary (2 calls)",
        "  bn (2 calls)",
        "flat",
        "Total",
    ]
    # The inner model's own sizes are open; here they follow from the calls.
    one_bit = 9 * 4 * 4 * (36 + 16)
    assert rows["inner (2 calls)"]["1-bit MACs"] == one_bit
    assert rows["  binary (2 calls)"]["1-bit MACs"] == one_bit
    assert rows["Total"]["1-bit MACs"] == one_bit
    assert rows["inner (2 calls)"]["# 1-bit x 1"] == rows["Total"]["# 1-bit x 1"] == 144
    assert rows["Total"]["# 32-bit x 1"] == 20 + 8
    assert ModelProfile(model).weight_count(folded=False) == model.count_params()


def test_models_in_nested_models():
    inner = sequential(keras.layers.Dense(3, name="dense"), shape=(4,), name="inner")
    middle = sequential(inner, shape=(4,), name="middle")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, middle(inputs))
    assert list(table(model))[1:] == ["middle", "  inner", "    dense", "Total"]
    assert macs(model) == 12


def test_layer_shared_with_a_nested_model_has_one_row():
    dense = keras.layers.Dense(4, name="dense")
    inner = sequential(dense, shape=(4,), name="inner")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, inner(dense(inputs)))
    profile = ModelProfile(model)
    assert profile.weight_count() == model.count_params() == 20
    assert profile.op_count("mac") == 32
    assert profile.macs_known
    assert list(table(model))[1:] == ["dense (2 calls)", "inner", "Total"]


class Block(keras.layers.Layer):
    """A composite layer: y = x + conv(x) w."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolution = layers.QuantConv2D(4, 3, padding="same", use_bias=False, **BINARY)

    def build(self, input_shape):
        self.convolution.build(input_shape)
        self.gain = self.add_weight(shape=(4,), initializer="ones", name="gain")

    def call(self, x):
        return x + self.convolution(x) * self.gain


class Network(keras.Model):
    """A subclassed model that calls one block twice."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = keras.layers.Conv2D(4, 3, strides=2)
        self.block = Block(name="block")
        self.head = sequential(
            keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5), shape=(None, None, 4)
        )
        self.unused = keras.layers.Dense(7, name="unused")

    def build(self, input_shape):
        self.stem.build(input_shape)
        self.block.build((None, 4, 4, 4))
        self.unused.build((None, 2))

    def call(self, x):
        return self.head(self.block(self.block(self.stem(x))))


def test_composite_layers_are_looked_into():
    inputs = keras.Input((4, 4, 4))
    model = keras.Model(inputs, Block(name="block")(inputs))
    profile = ModelProfile(model)
    block = profile.layer_profiles[1]
    assert block.weight_count(1) == 144
    assert block.weight_count(32) == 4  # The gain, which the block holds itself.
    assert profile.op_count("mac", 1) == 144 * 16
    assert profile.macs_known


def subclassed_model() -> keras.Model:
    network = Network()
    network(np.zeros((2, 9, 9, 3), "float32"))
    return network


def test_subclassed_models_are_traced():
    model = subclassed_model()
    profile = ModelProfile(model)
    assert profile.trace_error is None
    assert profile.op_count("mac", 1) == 2 * 144 * 16
    assert profile.op_count("mac", 32) == 27 * 4 * 16 + 20
    assert profile.macs_known
    assert profile.weight_count(folded=False) == model.count_params()
    rows = table(model)
    assert rows["block (2 calls)"]["Outputs"] == "(-1, 4, 4, 4)"
    assert rows["unused"]["Outputs"] == "not called"
    assert rows["unused"]["32-bit MACs"] == 0
    assert profile.output_shape == (-1, 5)


def test_subclassed_model_with_several_inputs():
    class Sum(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, inputs):
            return self.dense(inputs[0]) + self.dense(inputs[1])

    for kind in (list, tuple):
        model = Sum()
        model(kind(np.zeros((2, 4), "float32") for _ in range(2)))
        assert macs(model) == 2 * 16
        assert macs(model, input_shape=kind([(1, 9, 4), (1, 9, 4)])) == 2 * 16 * 9


def test_tracing_leaves_the_model_as_it_was():
    model = subclassed_model()
    random = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape))
    x = random.normal(size=(2, 9, 9, 3)).astype("float32")
    before = ops.convert_to_numpy(model(x))
    weights = [ops.convert_to_numpy(w) for w in model.weights]
    ModelProfile(model)
    assert all("call" not in vars(layer) for layer in model._flatten_layers())
    np.testing.assert_array_equal(before, ops.convert_to_numpy(model(x)))
    for weight, old in zip(model.weights, weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), old)

    functional = nested_model()
    nodes = [len(layer._inbound_nodes) for layer in functional._flatten_layers()]
    ModelProfile(functional)
    assert nodes == [len(layer._inbound_nodes) for layer in functional._flatten_layers()]


def test_model_that_cannot_be_traced_still_has_its_weights():
    class Picky(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def build(self, input_shape):
            self.dense.build(input_shape)

        def call(self, x):
            raise RuntimeError("not today")

    model = Picky()
    model.build((None, 4))
    profile = ModelProfile(model)
    assert "not today" in profile.trace_error
    assert profile.weight_count() == 15
    assert not profile.macs_known
    assert profile.generate_table()[1][2] == "?"
    assert "not today" in dict(profile.generate_summary())["Shapes unknown"]
    assert "call" not in vars(model.dense)
    with pytest.raises(ValueError, match="`input_shape` does not fit.*Received"):
        ModelProfile(model, input_shape=(None, 4))


def test_several_inputs_and_outputs():
    left, right = keras.Input((4,), name="left"), keras.Input((6,), name="right")
    x = keras.layers.Concatenate(name="join")([left, right])
    outputs = [keras.layers.Dense(2)(x), keras.layers.Dense(3)(x)]
    model = keras.Model({"left": left, "right": right}, outputs)
    profile = ModelProfile(model)
    assert list(table(model))[:3] == ["left", "right", "join"]
    assert profile.op_count("mac") == 10 * 5
    assert profile.output_shape == [(-1, 2), (-1, 3)]
    resized = {"left": (None, 4), "right": (None, 6)}
    assert macs(model, input_shape=resized) == 50


def test_layer_with_several_outputs():
    class Halves(keras.layers.Layer):
        def call(self, x):
            return x[..., :2], x[..., 2:]

        def compute_output_shape(self, input_shape):
            return (*input_shape[:-1], 2), (*input_shape[:-1], input_shape[-1] - 2)

    inputs = keras.Input((5,))
    model = keras.Model(inputs, Halves(name="halves")(inputs))
    assert table(model)["halves"]["Outputs"] == "[(-1, 2), (-1, 3)]"


def test_open_sizes():
    model = sequential(
        layers.QuantConv2D(4, 3, name="conv", **BINARY),
        keras.layers.GlobalAveragePooling2D(name="pool"),
        keras.layers.Dense(2, name="dense"),
        shape=(None, None, 3),
    )
    rows = table(model)
    assert rows["conv"]["Outputs"] == "(-1, -1, -1, 4)"
    assert rows["conv"]["32-bit MACs"] == "?"
    assert rows["dense"]["32-bit MACs"] == 8
    profile = ModelProfile(model)
    assert profile.peak_activation_memory_bytes is None
    assert profile.layer_profiles[0].output_pixels is None
    assert not profile.macs_known

    fixed = ModelProfile(model, input_shape=(None, 8, 8, 3))
    assert fixed.op_count("mac", 1) == 27 * 4 * 36
    assert fixed.peak_activation_memory_bytes is not None
    with pytest.raises(ValueError, match="`input_shape` does not fit"):
        ModelProfile(model, input_shape=(None, 8, 8, 5))


def test_open_sizes_of_composite_layers():
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, Block(name="block")(inputs))
    profile = ModelProfile(model)
    assert not profile.macs_known
    assert profile.op_count("mac") == 0
    assert profile.layer_profiles[1].layer_profiles[0].op_count("mac") is None
    assert macs(model, input_shape=(None, 4, 4, 4)) == 144 * 16


def test_numbers_are_those_of_one_sample():
    inputs = keras.Input(batch_shape=(8, 5, 4))
    x = ops.reshape(inputs, (-1, 4))
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(x))
    profile = ModelProfile(model)
    assert profile.op_count("mac") == 5 * 4 * 3
    assert profile.layer_profiles[0].output_shape == (8, 5, 4)


def test_mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        layer = layers.QuantConv2D(4, 3, use_bias=False, **BINARY)
        model = sequential(keras.layers.ReLU(), layer, shape=(8, 8, 2))
    finally:
        keras.config.set_dtype_policy(policy)
    profile = ModelProfile(model)
    assert profile.weight_count(1) == 72
    # The float32 input and relu's float16; relu is read by the binary layer only.
    assert profile.peak_activation_memory_bytes == max(128 * 4 + 128 // 8, 128 // 8 + 144 * 2)


def test_half_precision_weights():
    model = sequential(keras.layers.Dense(3, dtype="float16"), shape=(4,))
    profile = ModelProfile(model)
    assert profile.unique_param_bitwidths == [16]
    assert (profile.memory, profile.int8_fp_weights_memory) == (15 * 16, 15 * 8)
    assert profile.fp_equivalent_memory == 15 * 32


def test_integer_weights():
    model = sequential(keras.layers.Dense(3, use_bias=False), shape=(4,))
    model.quantize("int8")
    profile = ModelProfile(model)
    assert profile.weight_count(8) == 12
    assert profile.op_count("mac") == 12


def test_metrics_of_quantizers_are_no_weights():
    quantizer = quantizers.SteSign(metrics=["flip_ratio"])
    layer = layers.QuantDense(3, use_bias=False, kernel_quantizer=quantizer)
    profile = ModelProfile(sequential(layer, shape=(4,)))
    assert profile.weight_count(1) == profile.weight_count() == 12


def test_frozen_layers():
    model = sequential(keras.layers.Dense(3, trainable=False), keras.layers.Dense(2), shape=(4,))
    profile = ModelProfile(model)
    assert profile.weight_count(trainable=True) == 8
    assert profile.weight_count(trainable=False) == 15


@pytest.mark.parametrize(
    ("center", "scale", "expected"), [(True, True, 8), (True, False, 8), (False, False, 8)]
)
def test_batch_normalization_counts_two_per_channel(center, scale, expected):
    bn = keras.layers.BatchNormalization(center=center, scale=scale)
    profile = ModelProfile(sequential(bn, shape=(6, 6, 4)))
    assert profile.weight_count() == expected
    assert profile.weight_count(folded=False) == expected + 4 * (center + scale)


def test_quantizers_with_weights():
    quantizer = quantizers.Binarizer(threshold=quantizers.LearnedThreshold())
    layer = layers.QuantDense(
        3, use_bias=False, input_quantizer=quantizer, kernel_quantizer="ste_sign"
    )
    model = sequential(layer, shape=(4,))
    profile = ModelProfile(model)
    assert len(profile.layer_profiles) == 1
    assert profile.weight_count(1) == 12
    assert profile.weight_count(32) == model.count_params() - 12 > 0


# --- Activations -------------------------------------------------------------------------------


def peak(model, **kwargs) -> int:
    return ModelProfile(model, **kwargs).peak_activation_memory_bytes


def test_activations_of_a_chain():
    model = sequential(
        keras.layers.Dense(100), keras.layers.Dense(10), keras.layers.Dense(50), shape=(20,)
    )
    assert peak(model) == 4 * (20 + 100)


def test_activations_of_a_shortcut():
    inputs = keras.Input((64,))
    x = keras.layers.Dense(64)(inputs)
    x = keras.layers.Dense(64)(x)
    model = keras.Model(inputs, keras.layers.Add()([x, inputs]))
    assert peak(model) == 4 * (64 + 64 + 64)


def test_activations_between_binary_layers_take_one_bit():
    def network(quantizer):
        dense = [
            layers.QuantDense(256, use_bias=False, input_quantizer=quantizer) for _ in range(3)
        ]
        return sequential(keras.layers.Dense(8), *dense, keras.layers.Dense(1), shape=(8,))

    assert peak(network(None)) == 4 * (256 + 256)
    # What the last binary layer writes is read in float.
    assert peak(network("ste_sign")) == 256 // 8 + 4 * 256


def test_quantized_copies_beside_a_shortcut():
    inputs = keras.Input((64,))
    x = keras.layers.Dense(64)(inputs)
    y = layers.QuantDense(64, input_quantizer="ste_sign")(x)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Add()([x, y])))
    # x in float for the shortcut, its signs and y; then x, y and their sum.
    assert peak(model) == max(4 * 64 + 8 + 4 * 64, 3 * 4 * 64)


def test_quantizers_as_layers_write_bits():
    inputs = keras.Input((64,))
    x = keras.layers.Dense(64)(inputs)
    x = quantizers.SteSign()(x)
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    assert peak(model) == 4 * 64 + 4 * 64


def test_traced_and_functional_models_agree():
    class Chain(keras.Model):
        def __init__(self):
            super().__init__()
            self.inside = [layers.QuantDense(n, input_quantizer="ste_sign") for n in (90, 80, 3)]

        def build(self, input_shape):
            for layer in self.inside:
                layer.build(input_shape)
                input_shape = layer.compute_output_shape(input_shape)

        def call(self, x):
            for layer in self.inside:
                x = layer(x)
            return x

    chain = Chain()
    chain.build((None, 70))
    functional = sequential(
        *(type(x).from_config(x.get_config()) for x in chain.inside), shape=(70,)
    )
    profiles = [ModelProfile(model) for model in (chain, functional)]
    assert profiles[0].op_count("mac") == profiles[1].op_count("mac") == 70 * 90 + 90 * 80 + 80 * 3
    assert len({x.peak_activation_memory_bytes for x in profiles}) == 1


def test_composite_layers_keep_their_input_for_the_shortcut():
    inputs = keras.Input((4, 4, 4))
    model = keras.Model(inputs, Block()(inputs))
    # x, its signs and the convolution; then x, the convolution and the sum.
    assert peak(model) == 64 * 4 * 3


# --- What LCE will run --------------------------------------------------------------------------


class Scale(quantizers.Scale):
    """A scale of the input: by channel, by position, or one."""

    def __init__(self, axes=None, per_layer=False):
        self.axes, self.per_layer = axes, per_layer

    def __call__(self, x):
        raise NotImplementedError


def scaled(layer_class, *arguments, **scale) -> keras.layers.Layer:
    quantizer = quantizers.Binarizer(scale=Scale(**scale))
    return layer_class(*arguments, input_quantizer=quantizer, kernel_quantizer="ste_sign")


class Bit(quantizers.Quantizer):
    """1 bit, but 0 and 1."""

    precision = 1

    def call(self, inputs):
        return ops.cast(inputs > 0, inputs.dtype)


LCE = {
    "None": lambda: keras.layers.MaxPooling2D(),
    "yes": lambda: layers.QuantConv2D(4, 3, **BINARY),
    "yes: split into 2 groups": lambda: layers.QuantConv2D(4, 3, groups=2, **BINARY),
    "yes: as a 1x1 convolution": lambda: layers.QuantDense(4, **BINARY),
    "yes: as a 2-D convolution": lambda: layers.QuantConv1D(4, 3, **BINARY),
    "yes: as convolutions, interleaved": lambda: layers.QuantConv2DTranspose(4, 2, **BINARY),
    "yes: pointwise part only": lambda: layers.QuantSeparableConv2D(
        4, 3, intermediate_quantizer="ste_sign", pointwise_quantizer="ste_sign"
    ),
    "no: 32-bit input": lambda: layers.QuantConv2D(4, 3, kernel_quantizer="ste_sign"),
    "no: 32-bit kernel": lambda: layers.QuantDense(4, input_quantizer="ste_sign"),
    "no: 32-bit intermediate": lambda: layers.QuantSeparableConv2D(
        4, 3, **DEPTHWISE, pointwise_quantizer="ste_sign"
    ),
    "no: input not -1 or +1": lambda: layers.QuantDense(
        4, input_quantizer=Bit(), kernel_quantizer="ste_sign"
    ),
    "no: scaled input": lambda: scaled(layers.QuantConv2D, 4, 1),
    "no: kernel scaled by input channel": lambda: layers.QuantConv2DTranspose(
        4, 2, input_quantizer="ste_sign", kernel_quantizer="magnitude_aware_sign"
    ),
    "no: 3-D": lambda: layers.QuantConv3D(4, 3, **BINARY),
    "no: depthwise": lambda: layers.QuantDepthwiseConv2D(3, **DEPTHWISE),
    "no: kernel smaller than its stride": lambda: layers.QuantConv1DTranspose(
        4, 2, strides=3, **BINARY
    ),
    "no: channels_first": lambda: layers.QuantConv2D(4, 3, data_format="channels_first", **BINARY),
    "no: pad_values=0.5": lambda: layers.QuantConv2D(
        4, 3, padding="same", pad_values=0.5, **BINARY
    ),
}


@pytest.mark.parametrize("expected", LCE)
def test_lce_column(expected):
    assert str(models.lce_support(LCE[expected]())) == expected


def test_lce_column_of_scaled_inputs():
    by_position = {"axes": (-1,)}
    for layer, runs in (
        (scaled(layers.QuantConv2D, 4, 3, per_layer=True), True),
        (scaled(layers.QuantConv2D, 4, 1, **by_position), True),
        (scaled(layers.QuantDense, 4, **by_position), True),
        (scaled(layers.QuantConv2D, 4, 3, **by_position), False),
        (scaled(layers.QuantDense, 4), False),
    ):
        assert models.lce_support(layer).one_bit == runs


def test_lce_column_of_the_table():
    rows = table(sequential(layers.QuantDense(4, name="dense", **BINARY), shape=(3,)))
    assert rows["dense"]["1-bit in LCE"] == "yes: as a 1x1 convolution"


# --- Reports ------------------------------------------------------------------------------------


def test_summary_prints_two_tables(capsys):
    model = nested_model()
    models.summary(model)
    printed = capsys.readouterr().out
    collected = []
    models.summary(model, print_fn=collected.append)
    assert printed == "\n".join(collected) + "\n"
    assert len(collected) == 2
    assert collected[0].startswith("+outer stats--")
    assert collected[1].startswith("+outer summary--")
    for text in collected:
        assert len({len(line) for line in text.splitlines()}) == 1


def test_summary_without_macs():
    collected = []
    models.summary(nested_model(), print_fn=collected.append, include_macs=False)
    assert not any("MAC" in text for text in collected)


def test_summary_at_another_size():
    model = sequential(keras.layers.Conv2D(2, 1), shape=(None, None, 3))
    collected = []
    models.summary(model, print_fn=collected.append, input_shape=(None, 2, 2, 3))
    assert "(-1, 2, 2, 2)" in collected[0]


def test_to_dict_is_json():
    profile = ModelProfile(nested_model())
    numbers = profile.to_dict()
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["memory_bits"] == profile.memory
    assert numbers["macs"] == sum(numbers["macs_by_precision_bits"].values())
    inner = next(x for x in numbers["layers"] if x["name"] == "inner")
    assert inner["call_count"] == 2
    assert inner["layers"][0]["lce_one_bit"] is True
    assert inner["layers"][1]["lce_one_bit"] is None


def test_unbuilt_models_are_refused():
    for model in (keras.Sequential([keras.layers.Dense(2)]), Network()):
        for function in (models.summary, ModelProfile):
            with pytest.raises(ValueError, match="must be built.*Received"):
                function(model)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: Dense"):
        models.summary(keras.layers.Dense(2))
    profile = ModelProfile(sequential(keras.layers.Dense(2), shape=(3,)))
    for op_type in (None, "add"):
        with pytest.raises(ValueError, match='`op_type` must be "mac". Received'):
            profile.op_count(op_type)


def test_layer_profile_alone():
    layer = keras.layers.Dense(3)
    layer.build((None, 4))
    profile = LayerProfile(layer)
    assert (profile.weight_count(), profile.memory) == (15, 480)
    assert profile.op_count("mac") is None and profile.output_shape is None
    assert profile.fp_equivalent_memory == 480
