"""`deploy`: the same function out of plain layers, whatever the structure of the model."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from bnnkeras import converters
from bnnkeras.converters import graph
from bnnkeras.converters.deployment import deployment_of
from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.converters.plan import binary_units
from bnnkeras.layers import MaxPooling2D, QuantConv2D, QuantDense
from bnnkeras.quantizers import (
    ApproxSign,
    Binarizer,
    LearnedThreshold,
    MagnitudeAwareSign,
    Scale,
    Threshold,
)
from bnnkeras.quantizers.serialization import NAMED
from bnnkeras.zoo import BiRealNet18

pytestmark = pytest.mark.any_backend

BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": "magnitude_aware_sign"}


def _binary(x, filters=4, kernel=3, **options):
    return QuantConv2D(filters, kernel, **{"padding": "same", **BINARY, **options})(x)


def _residual():
    image = keras.Input((6, 6, 3), name="image")
    x = QuantConv2D(4, 3, strides=2, padding="symmetric")(image)
    x = layers.BatchNormalization()(x)
    y = layers.BatchNormalization()(_binary(x))
    # The convolution's output is read twice, once before and once after its BatchNorm.
    z = _binary(x)
    x = layers.Add()([x, y, z, layers.BatchNormalization()(z)])
    x = MaxPooling2D(3, strides=2, padding="symmetric")(layers.PReLU(shared_axes=[1, 2])(x))
    return keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))


def _sequential():
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Dropout(0.5),
            QuantConv2D(4, 3, **BINARY),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )


def _nested():
    inner_input = keras.Input((6, 6, 4))
    inner = keras.Model(inner_input, layers.BatchNormalization()(_binary(inner_input)))
    steps = keras.Sequential([keras.Input((6, 6, 4)), QuantConv2D(4, 1, **BINARY), layers.ReLU()])
    outer_input = keras.Input((6, 6, 4))
    outer = keras.Model(outer_input, steps(inner(outer_input)))
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 1)(image)
    # The inner model is called alone and inside the outer one.
    return keras.Model(image, layers.Add()([outer(x), inner(x)]))


def _shared():
    left, right = keras.Input((5, 7, 4), name="left"), keras.Input((5, 7, 4), name="right")
    convolution = QuantConv2D(4, 3, padding="same", **BINARY)
    normalization = layers.BatchNormalization()
    one, other = (normalization(convolution(x)) for x in (left, right))
    return keras.Model([left, right], [other, one, convolution(layers.Add()([one, other]))])


def _dictionaries():
    left, right = keras.Input((5, 7, 4), name="left"), keras.Input((5, 7, 4), name="right")
    return keras.Model(
        {"left": left, "right": right}, {"zeta": _binary(left), "alpha": _binary(right, 2)}
    )


def _operations():
    image = keras.Input((4, 4, 4))
    x = image * 0.5 + ops.mean(image, axis=(1, 2), keepdims=True)
    return keras.Model(image, ops.concatenate([_binary(x), x[..., :2]], axis=-1))


def _dense():
    vector, points = keras.Input((9,), name="vector"), keras.Input((5, 9), name="points")
    dense = QuantDense(4, activation="tanh", **BINARY)
    real = QuantDense(3, activation="relu")
    return keras.Model([vector, points], [dense(vector), dense(points), real(dense(points))])


def _merged():
    """BatchNorm behind a flip, a crop and a border map, and twice."""
    image = keras.Input((8, 8, 4))
    branches = []
    for options in (
        {"kernel": 5, "strides": 2, "padding": "symmetric"},
        {"kernel": 3, "strides": 2, "padding": "symmetric"},
        {"kernel": 7, "padding": "same", "dilation_rate": 2},
    ):
        x = layers.BatchNormalization()(_binary(image, **options))
        branches.append(layers.BatchNormalization()(x))
    return keras.Model(image, branches)


MODELS = {
    _residual: 2,
    _sequential: 1,
    _nested: 3,
    _shared: 3,
    _dictionaries: 2,
    _operations: 1,
    _dense: 3,
    _merged: 3,
}


def _inputs(deployed):
    """Random inputs, in the structure of the model's."""
    generator = np.random.default_rng(3)
    return keras.tree.map_structure(
        lambda tensor: generator.normal(size=(2, *tensor.shape[1:])), deployed.input
    )


def _assert_equal(one, other, tolerance=1e-9):
    keras.tree.assert_same_structure(one, other)
    for wanted, found in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
        wanted, found = ops.convert_to_numpy(wanted), ops.convert_to_numpy(found)
        atol = tolerance * max(np.abs(wanted).max(), 1.0)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("build", MODELS)
def test_the_deploy_form_is_the_same_function(float64, randomized, build) -> None:
    model = randomized(build())
    deployed = converters.deploy(model, dtype="float64")
    inputs = _inputs(deployed)
    _assert_equal(model(inputs), deployed(inputs))
    assert len(binary_units(deployed)) == MODELS[build]
    assert [x.name for x in deployed.inputs] == [graph.input_name(x) for x in model.inputs]


@pytest.mark.parametrize("build", MODELS)
def test_the_deploy_form_saves_and_loads(randomized, tmp_path, build) -> None:
    model = randomized(build())
    deployed = converters.deploy(model)
    deployed.save(tmp_path / "deployed.keras")
    inputs = _inputs(deployed)
    _assert_equal(
        deployed(inputs), keras.models.load_model(tmp_path / "deployed.keras")(inputs), 1e-6
    )


_OF_INPUTS = {"contextual_sign", "dab", "rsign", "xnor_input"}
_EXACT = {
    "input_quantizer": {"approx_sign", "ede_sign", "rsign", "ste_sign", "swish_sign"},
    "kernel_quantizer": {
        *("approx_sign", "bivit_kernel", "ede_sign", "libra_kernel", "lsr_kernel"),
        *("magnitude_aware_sign", "ste_sign", "swish_sign"),
    },
}


@pytest.mark.parametrize(
    ("place", "name"),
    [("input_quantizer", name) for name in sorted(NAMED) if not name.endswith("_kernel")]
    + [("kernel_quantizer", name) for name in sorted(NAMED) if name not in _OF_INPUTS],
)
def test_every_quantizer_deploys_exactly_or_not_at_all(float64, randomized, place, name) -> None:
    image = keras.Input((5, 5, 4))
    layer = QuantConv2D(3, 3, padding="same", **{**BINARY, place: name})
    model = randomized(keras.Model(image, layer(image)))
    try:
        deployed = converters.deploy(model, dtype="float64")
    except UnsupportedLayerError as error:
        assert layer.name in str(error)
        assert name not in _EXACT[place]
        return
    inputs = _inputs(deployed)
    _assert_equal(model(inputs), deployed(inputs))


def test_deploying_leaves_the_model_alone(randomized) -> None:
    image = keras.Input((6, 6, 3))
    model = randomized(keras.Model(image, _nested()(image) * 0.5))
    before = [*model.get_weights()]
    config = model.get_config()
    calls = [len(operation._inbound_nodes) for operation in model.operations]
    converters.deploy(model)
    assert model.get_config() == config
    assert [len(operation._inbound_nodes) for operation in model.operations] == calls
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_binary_kernels_hold_exactly_plus_and_minus_one(randomized) -> None:
    for unit in binary_units(converters.deploy(randomized(_merged()))):
        assert set(np.unique(unit.kernel)) == {-1.0, 1.0}


def test_batch_normalization_is_folded(randomized) -> None:
    deployed = converters.deploy(randomized(_merged()))
    kinds = [type(layer).__name__ for layer in deployed.layers]
    assert "BatchNormalization" not in kinds
    # One map behind each convolution, straight behind it: LCE fuses it nowhere else.
    assert kinds.count("Affine") == 3
    for unit in binary_units(deployed):
        assert len(unit.epilogues) == 2


def test_a_stack_of_flips_cancels(randomized) -> None:
    image = keras.Input((16, 16, 4))
    x = _binary(image, kernel=5, strides=2, padding="symmetric")
    x = _binary(x, kernel=5, strides=2, padding="symmetric")
    deployed = converters.deploy(randomized(keras.Model(image, x)))
    flips = [layer for layer in deployed.layers if type(layer).__name__ == "Flip"]
    # Both convolutions flip before and behind; the two in the middle are nothing.
    assert len(flips) == 2


@pytest.mark.parametrize("size", [32, 64])
def test_bireal_net_18(float64, randomized, size) -> None:
    model = randomized(BiRealNet18(input_shape=(size, size, 3), classes=10))
    deployed = converters.deploy(model, dtype="float64")
    assert len(binary_units(deployed)) == 16
    inputs = np.random.default_rng(0).normal(size=(1, size, size, 3))
    _assert_equal(model(inputs), deployed(inputs))


def test_half_floats_deploy_in_full_precision(randomized) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = _sequential()
    finally:
        keras.config.set_dtype_policy("float32")
    randomized(half)
    single = _sequential()
    single.set_weights(half.get_weights())
    deployed = converters.deploy(half)
    inputs = _inputs(deployed)
    assert {layer.dtype_policy.name for layer in deployed.layers} == {"float32"}
    _assert_equal(single(inputs), deployed(inputs), 1e-5)


def test_zeros_are_reported() -> None:
    image = keras.Input((4, 4, 2))
    layer = QuantConv2D(
        3,
        3,
        input_quantizer=ApproxSign(sign_of_zero=0),
        kernel_quantizer=MagnitudeAwareSign(sign_of_zero=0),
        name="official",
    )
    model = keras.Model(image, [layer(image), layer(image), _binary(image)])
    kernel = np.ones(layer.kernel.shape)
    kernel[0, 0, 0, :2] = 0
    layer.kernel.assign(kernel)
    notes = deployment_of(model).notes
    assert notes == {
        "official": "2 kernel entries are exactly 0 and became +1; "
        "inputs that are exactly 0 become +1"
    }


@keras.saving.register_keras_serializable("tests")
class _PerInputChannel(Scale):
    def __call__(self, x):
        return ops.mean(ops.abs(x), axis=(0, 1, 3), keepdims=True)


class _OwnThreshold(Threshold):
    def __call__(self, x):
        return ops.max(x, axis=(1, 2), keepdims=True)


class _OwnScale(Scale):
    per_layer = True

    def __call__(self, x):
        return ops.max(ops.abs(x), axis=(1, 2, 3), keepdims=True)


def _own_activation(x):
    return x


def _model_of(layer, shape=(6, 6, 4)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: layers.TimeDistributed(layers.Conv1D(2, 3)), "no lowering rule for this class"),
        (lambda: layers.Lambda(_own_activation), "a Lambda hides a Python function"),
        (lambda: layers.Dense(2, activation=_own_activation), "its activation _own_activation"),
        (
            lambda: QuantConv2D(2, 3, activation=_own_activation, **BINARY),
            "its activation _own_activation is not one of Keras's",
        ),
        (
            lambda: QuantConv2D(2, 3, **{**BINARY, "input_quantizer": Binarizer(_OwnThreshold())}),
            "_OwnThreshold, which its input quantizer computes from the data",
        ),
        (
            lambda: QuantConv2D(
                2, 3, **{**BINARY, "input_quantizer": Binarizer(scale=_OwnScale())}
            ),
            "_OwnScale, which its input quantizer computes from the data",
        ),
        (lambda: QuantConv2D(2, 3, activation=layers.PReLU()), r"activation is a layer \(PReLU\)"),
    ],
)
def test_what_has_no_deploy_form_is_named(layer, reason) -> None:
    layer = layer()
    with pytest.raises(UnsupportedLayerError, match=reason) as caught:
        converters.deploy(_model_of(layer))
    assert f"Layer {layer.name!r} ({type(layer).__name__})" in str(caught.value)


def test_channels_first_is_named(backend) -> None:
    layer = QuantConv2D(4, 3, data_format="channels_first", **BINARY)
    inputs = keras.Input((4, 6, 6))
    with pytest.raises(UnsupportedLayerError, match='only data_format="channels_last"'):
        converters.deploy(keras.Model(inputs, layer(inputs)))


class _Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def test_models_without_a_graph_are_named() -> None:
    with pytest.raises(ValueError, match="hides its graph. Received: .* of class _Subclassed"):
        converters.deploy(_Subclassed())
    with pytest.raises(ValueError, match="needs a known input shape: .* which is not built"):
        converters.deploy(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(TypeError, match="`model` must be a keras.Model. Received: list"):
        converters.deploy([layers.Dense(2)])


def test_a_subclassed_model_inside_is_named() -> None:
    inner = _Subclassed()
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match="hides its graph. Received: .* of class _Subclassed"):
        converters.deploy(keras.Model(inputs, inner(inputs)))


def test_open_sizes_are_named() -> None:
    model = BiRealNet18(input_shape=(None, None, 3))
    with pytest.raises(ValueError, match=r"fixed input sizes.*\(None, None, None, 3\)"):
        converters.deploy(model)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(randomized, value) -> None:
    for number, name in ((0, "conv2d"), (-1, "dense")):
        model = randomized(_sequential())
        weights = model.get_weights()
        weights[number].flat[0] = value
        model.set_weights(weights)
        with pytest.raises(ValueError, match=f"finite weights. .* layer '{name}"):
            converters.deploy(model)


def test_a_threshold_is_subtracted_before_padding(float64, randomized) -> None:
    """What is padded is compared with 0, not with the threshold."""
    image = keras.Input((4, 4, 2))
    quantizer = Binarizer(threshold=LearnedThreshold())
    model = randomized(
        keras.Model(
            image,
            [
                _binary(image, input_quantizer=quantizer, pad_values=pad_values, strides=strides)
                for pad_values in (0, 1)
                for strides in (1, 2, 3)
            ],
        )
    )
    deployed = converters.deploy(model, dtype="float64")
    inputs = _inputs(deployed)
    _assert_equal(model(inputs), deployed(inputs))
