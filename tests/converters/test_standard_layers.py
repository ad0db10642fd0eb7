"""Keras's own layers and operations: exact in the deploy form, right in LCE, or refused by name."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from bnnkeras import converters
from bnnkeras.converters.deployment import deployment_of
from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.layers import QuantConv1D, QuantConv2D, QuantDense

BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": "magnitude_aware_sign"}
MAP, POINTS, VECTOR, VOLUME = (6, 8, 4), (8, 4), (4,), (4, 5, 4, 4)

# On maps, points (or sequences), vectors and volumes.
LAYERS = {
    MAP: [
        lambda: layers.Conv2D(3, 3, strides=2, activation="gelu"),
        lambda: layers.Conv2D(4, 3, dilation_rate=2, padding="same"),
        lambda: layers.Conv2D(4, 3, groups=2),
        lambda: layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
        lambda: layers.DepthwiseConv2D(3, dilation_rate=2, activation="softsign"),
        lambda: layers.SeparableConv2D(3, 3, strides=2, padding="same"),
        lambda: layers.Conv2DTranspose(3, 3, strides=2),
        lambda: layers.Conv2DTranspose(3, 2, strides=2, padding="same", output_padding=1),
        lambda: layers.Dense(3, activation="softsign"),
        lambda: layers.EinsumDense("bhwc,cd->bhwd", (6, 8, 3), activation="gelu"),
        lambda: layers.LayerNormalization(),
        lambda: layers.LayerNormalization(axis=(1, 2, 3)),
        lambda: layers.GroupNormalization(2),
        lambda: layers.UnitNormalization(),
        lambda: layers.BatchNormalization(axis=1),
        lambda: layers.BatchNormalization(axis=-2, scale=False),
        lambda: layers.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[2.0, 1.0, 0.5, 3.0]),
        lambda: layers.Normalization(mean=0.5, variance=2.0, axis=None, invert=True),
        lambda: layers.Normalization(axis=1, mean=np.arange(6.0), variance=np.arange(6.0) + 1),
        lambda: layers.Rescaling(1 / 128, offset=-1.0),
        lambda: layers.Rescaling([1.0, 2.0, 3.0, 0.0], offset=[0.0, 1.0, 0.0, -1.0]),
        lambda: layers.UpSampling2D((2, 3)),
        lambda: layers.UpSampling2D(2, interpolation="bilinear"),
        lambda: layers.Resizing(9, 5),
        lambda: layers.Resizing(5, 11, interpolation="nearest"),
        lambda: layers.ZeroPadding2D(((0, 1), (2, 0))),
        lambda: layers.Cropping2D(((1, 0), (2, 1))),
        lambda: layers.CenterCrop(4, 4),
        lambda: layers.MaxPooling2D(3, strides=2, padding="same"),
        lambda: layers.AveragePooling2D(3, strides=2, padding="same"),
        lambda: layers.GlobalAveragePooling2D(keepdims=True),
        lambda: layers.GlobalMaxPooling2D(),
        lambda: layers.GlobalMaxPooling2D(keepdims=True),
        lambda: layers.AdaptiveAveragePooling2D((4, 3)),
        lambda: layers.AdaptiveMaxPooling2D((4, 3)),
        lambda: layers.Permute((3, 1, 2)),
        lambda: layers.Reshape((12, -1)),
        lambda: layers.Flatten(),
        lambda: layers.Softmax(axis=-1),
        lambda: layers.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.25),
        lambda: layers.LeakyReLU(0.2),
        lambda: layers.PReLU(),
        lambda: layers.PReLU(shared_axes=[1, 2]),
        lambda: layers.ELU(0.7),
        lambda: layers.Dropout(0.5),
        lambda: layers.SpatialDropout2D(0.5),
        lambda: layers.GaussianNoise(1.0),
        lambda: layers.GaussianDropout(0.5),
        lambda: layers.AlphaDropout(0.5),
        lambda: layers.ActivityRegularization(0.1),
        lambda: layers.RandomFlip(),
    ],
    POINTS: [
        lambda: layers.Conv1D(3, 3, strides=2, padding="same", activation="relu"),
        lambda: layers.Conv1D(4, 3, padding="causal", dilation_rate=2, groups=2),
        lambda: layers.Conv1D(4, 2, strides=2, padding="causal", use_bias=False),
        lambda: layers.DepthwiseConv1D(3, padding="same"),
        lambda: layers.SeparableConv1D(3, 3, strides=2),
        lambda: layers.Conv1DTranspose(3, 3, strides=2, padding="same"),
        lambda: layers.Dense(3),
        lambda: layers.LayerNormalization(),
        lambda: layers.GroupNormalization(2),
        lambda: layers.BatchNormalization(axis=1),
        lambda: layers.UpSampling1D(3),
        lambda: layers.ZeroPadding1D((1, 2)),
        lambda: layers.Cropping1D((1, 2)),
        lambda: layers.MaxPooling1D(3, strides=2, padding="same"),
        lambda: layers.AveragePooling1D(2),
        lambda: layers.GlobalAveragePooling1D(),
        lambda: layers.GlobalMaxPooling1D(keepdims=True),
        lambda: layers.AdaptiveAveragePooling1D(3),
        lambda: layers.Permute((2, 1)),
        lambda: layers.Softmax(axis=1),
        lambda: layers.SpatialDropout1D(0.5),
    ],
    VECTOR: [
        lambda: layers.Dense(3, activation="gelu"),
        lambda: layers.BatchNormalization(),
        lambda: layers.RepeatVector(3),
        lambda: layers.Reshape((2, 2)),
        lambda: layers.LayerNormalization(),
        lambda: layers.Softmax(),
    ],
    VOLUME: [
        lambda: layers.Conv3D(3, 3),
        lambda: layers.ZeroPadding3D(1),
        lambda: layers.Cropping3D(((1, 0), (1, 1), (0, 2))),
        lambda: layers.UpSampling3D(2),
        lambda: layers.GlobalAveragePooling3D(),
        lambda: layers.GlobalMaxPooling3D(),
        lambda: layers.SpatialDropout3D(0.5),
    ],
}
ACTIVATIONS = (
    "celu elu exponential hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear "
    "log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus "
    "softsign sparse_plus squareplus tanh tanh_shrink"
).split()


def _random(*shape):
    return np.random.default_rng(5).normal(size=shape)


# Of a map, and of two maps.
OPERATIONS = [
    lambda x: x + 1.5,
    lambda x: 2 - x,
    lambda x: x / 3,
    lambda x: 1 / (x * x + 1.0),
    lambda x: -x * _random(4),
    lambda x: x * _random(1, 1, 1, 4),
    lambda x: x + _random(6, 8, 4),
    lambda x: x * _random(6, 8, 1) - _random(1, 8, 4),
    lambda x: ops.subtract(_random(6, 1, 1), x),
    lambda x: x[..., :1] + _random(7),
    lambda x: x / (_random(8, 4) ** 2 + 0.5),
    lambda x: ops.reshape(x, (-1, 48, 4)),
    lambda x: ops.transpose(x, (0, 3, 1, 2)),
    lambda x: ops.mean(x, axis=(1, 2), keepdims=True) * x,
    lambda x: ops.max(x, axis=1) + ops.sum(x, axis=2, keepdims=True)[:, 0],
    lambda x: ops.concatenate([x[:, 1:, ::2], x[:, :-1, 1::2]], axis=-1),
    lambda x: ops.stack(ops.split(x, 2, axis=2), axis=1),
    lambda x: ops.roll(ops.flip(x, axis=1), 2, axis=2),
    lambda x: ops.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0))),
    lambda x: ops.clip(x, -1.0, 2.0),
    lambda x: ops.where(x > 0.5, x, ops.abs(x) * 2.0),
    lambda x: ops.softmax(ops.matmul(x, ops.swapaxes(x, -1, -2))),
    lambda x: ops.squeeze(ops.expand_dims(x, 1), 1) ** 2,
    lambda x: ops.repeat(ops.tile(x, (1, 2, 1, 1)), 2, axis=2),
    lambda x: ops.gelu(x, approximate=True) + ops.softsign(x),
    lambda x: ops.sqrt(ops.square(x) + 0.1) - ops.tanh(x),
    lambda x: ops.glu(x, axis=-1),
    lambda x: ops.hard_sigmoid(x),
    lambda x: ops.log1p(ops.square(x)) * 2.0,
    lambda x: ops.maximum(x, 0.0) - ops.minimum(x, ops.sigmoid(x)),
]
PAIRS = [
    *(
        lambda x, y, kind=kind: kind()([x, y])
        for kind in (
            layers.Add,
            layers.Subtract,
            layers.Multiply,
            layers.Average,
            layers.Maximum,
            layers.Minimum,
            layers.Concatenate,
        )
    ),
    lambda x, y: layers.Concatenate(axis=1)([x, y]),
    lambda x, y: layers.Dot(axes=(3, 3))([x, y]),
    lambda x, y: x * y + y / (x * x + 1.0),
    lambda x, y: layers.Attention()([layers.Reshape((48, 4))(z) for z in (x, y)]),
    lambda x, y: layers.MultiHeadAttention(2, 3)(*(layers.Reshape((48, 4))(z) for z in (x, y))),
]


def _binary(x, filters=4):
    """A binary layer of the rank of x, with a scale behind it."""
    if len(x.shape) == 2:
        return QuantDense(filters, **BINARY)(x)
    kind = {3: QuantConv1D, 4: QuantConv2D}[len(x.shape)]
    # The next operation is directly behind the convolution, where LCE's converter fuses.
    return kind(filters, 3, padding="same", pad_values=1, **BINARY)(x)


def _branches(shape, behind_binary):
    """One model: every layer of this input shape, behind a binary layer or not.

    Operations stand between two binary layers: fused into the sign behind them, a constant of the
    wrong shape would be wrong without a word.
    """
    inputs = keras.Input(shape)
    outputs = []

    def put(function, before_binary=False):
        y = function(_binary(inputs) if behind_binary else inputs)
        between = behind_binary and before_binary and len(y.shape) <= 4
        outputs.append(_binary(y) if between else y)

    for make in LAYERS[shape]:
        put(make())
    if shape == MAP:
        for name in ACTIVATIONS:
            put(layers.Activation(name))
        for operation in OPERATIONS:
            put(operation, before_binary=True)
        for pair in PAIRS:
            put(lambda x, pair=pair: pair(x, _binary(inputs) if behind_binary else inputs * 0.5))
    return keras.Model(inputs, outputs)


# Bounded: a few activations overflow float32 where the weights of all layers are Gaussian.
def _quieten(model):
    for variable in model.variables:
        if "variance" not in variable.path:
            variable.assign(variable * 0.5)
    return model


def _outputs(model, seed=2):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(2, *model.inputs[0].shape[1:]))
    # Said aloud: behind a random augmentation Keras takes True for its default.
    outputs = model(values, training=False)
    return [ops.convert_to_numpy(value) for value in keras.tree.flatten(outputs)]


@pytest.mark.parametrize("shape", LAYERS)
def test_the_deploy_form_is_the_same_function(shape, float64, randomized) -> None:
    model = _quieten(randomized(_branches(shape, behind_binary=False)))
    deployment = deployment_of(model, "float64")
    approximate = {
        number
        for number, tensor in enumerate(model.outputs)
        if tensor._keras_history.operation.name in deployment.notes
    }
    assert all("exact gelu became" in note for note in deployment.notes.values())
    pairs = zip(_outputs(model), _outputs(deployment.model), strict=True)
    for number, (wanted, found) in enumerate(pairs):
        name = model.outputs[number]._keras_history.operation.name
        assert found.shape == wanted.shape, name
        tolerance = 1e-3 if number in approximate else 1e-9 * max(np.abs(wanted).max(), 1.0)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "behind_binary"),
    # LCE has no 3-D binary layer that a layer of volumes could stand behind.
    [(MAP, False), (MAP, True), (POINTS, True), (VECTOR, True), (VOLUME, False)],
)
def test_lce_computes_it(shape, behind_binary, randomized) -> None:
    model = _quieten(randomized(_branches(shape, behind_binary)))
    verification = converters.convert(model, strict=False).verification
    assert list(verification.problems) == []
    wanted = sum(
        isinstance(layer, (QuantConv1D, QuantConv2D, QuantDense)) for layer in model.layers
    )
    assert verification.binary_layers_converted == verification.binary_layers_total == wanted


def _of_image(operation):
    image = keras.Input(MAP)
    return keras.Model(image, operation(image))


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (layers.Lambda(lambda x: x + 1), "a Lambda hides a Python function: call keras.ops"),
        (layers.UpSampling2D(2, interpolation="bicubic"), "does not resize with 'bicubic'"),
        (layers.Conv2DTranspose(2, 3, dilation_rate=2), "no dilated transposed convolution"),
        (layers.SeparableConv2D(2, 3, data_format="channels_first"), "channels_last"),
        (layers.Masking(), "no masks"),
        (layers.TimeDistributed(layers.Dense(2)), "no lowering rule for this class. Supported: "),
        (layers.Activation("glu"), "glu halves the channels"),
        (ops.erf, "nothing is known of how LCE computes the operation Erf"),
        (lambda x: ops.argmax(x, axis=-1), "the operation Argmax of keras.ops. Known: Absolute"),
        (lambda x: x + np.ones((2, 1, 1, 4)), r"its constant of shape \(2, 1, 1, 4\)"),
    ],
)
def test_what_lce_does_not_know_is_refused_by_name(operation, reason) -> None:
    with pytest.raises(UnsupportedLayerError, match=reason):
        converters.deploy(_of_image(operation))


def test_other_inputs_are_refused_by_name() -> None:
    sequence, volume = keras.Input((5, 4)), keras.Input((4, 4, 4, 2))
    tokens = keras.Input((5,), dtype="int32")
    for inputs, layer, reason in (
        (sequence, layers.LSTM(3), "recurrent layers have no deploy form"),
        (sequence, layers.Bidirectional(layers.GRU(3)), "recurrent layers have no deploy form"),
        (volume, layers.MaxPooling3D(2), "LCE has no 3-D pooling"),
        (tokens, layers.Embedding(7, 3), "no integer inputs"),
    ):
        with pytest.raises(UnsupportedLayerError, match=reason):
            converters.deploy(keras.Model(inputs, layer(inputs)))


def test_exact_gelu_is_named() -> None:
    image = keras.Input(MAP)
    x = layers.Conv2D(4, 1, activation="gelu", name="first")(image)
    x = QuantConv2D(4, 1, activation="gelu", name="second", **BINARY)(x)
    x = layers.Activation("gelu", name="third")(x)
    model = keras.Model(image, ops.gelu(ops.gelu(x, approximate=True), approximate=False))
    notes = deployment_of(model).notes
    assert set(notes) >= {"first", "second", "third"} and len(notes) == 4
    assert set(notes.values()) == {
        "exact gelu became the approximation with tanh (differs by up to 5e-4)"
    }


def test_pads_before_strided_convolutions_are_trimmed(float64, randomized) -> None:
    """Of every kind: LCE's converter takes (1, 1) at stride 2 for SAME's (0, 1)."""
    image, sequence = keras.Input((8, 8, 4)), keras.Input((8, 4))
    padded = layers.ZeroPadding2D(1)(image)
    row = layers.ZeroPadding1D(1)(sequence)
    outputs = [
        layers.Conv2D(3, 3, strides=2)(padded),
        layers.DepthwiseConv2D(3, strides=2)(padded),
        layers.SeparableConv2D(3, 3, strides=2)(padded),
        layers.Conv1D(3, 3, strides=2)(row),
        layers.DepthwiseConv1D(3, strides=2)(row),
        layers.SeparableConv1D(3, 3, strides=2)(row),
        layers.Conv2D(3, 3, strides=2)(ops.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))),
    ]
    model = randomized(keras.Model([image, sequence], outputs))
    deployed = converters.deploy(model, "float64")
    generator = np.random.default_rng(0)
    values = [generator.normal(size=(2, *tensor.shape[1:])) for tensor in model.inputs]
    for one, other in zip(model(values), deployed(values), strict=True):
        one, other = ops.convert_to_numpy(one), ops.convert_to_numpy(other)
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-9)
    pads = [
        layer.padding
        for layer in deployed.layers
        if isinstance(layer, (layers.ZeroPadding1D, layers.ZeroPadding2D))
    ]
    assert pads and all(1 in np.ravel(pad) and (np.ravel(pad)[-1] == 0) for pad in pads)
