"""The papers' own layers and the quantizers of their inputs, and whole networks of every kind."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

from bnnkeras import converters, quantizers
from bnnkeras.converters import flatbuffer, layerwise, probe
from bnnkeras.converters.deployment import deployment_of
from bnnkeras.converters.lowering import blocks, builder, registry
from bnnkeras.converters.lowering import pooling as pooling_rules
from bnnkeras.layers import (
    ChannelAdaptiveBypass,
    EntropyMaximizingAggregation,
    LearnableBias,
    MaxPooling2D,
    QuantConv1D,
    QuantConv2D,
    QuantDense,
    QuantSeparableConv1D,
    RPReLU,
    SpatialShift,
)
from bnnkeras.models import ModelProfile, lce_support

pytestmark = pytest.mark.any_backend

_spec = importlib.util.spec_from_file_location("networks", Path(__file__).with_name("networks.py"))
assert _spec is not None and _spec.loader is not None
networks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(networks)

BINARY = networks.BINARY
MAP, POINTS = (6, 8, 8), (8, 6)
BLOCKS = {
    MAP: [
        LearnableBias,
        RPReLU,
        *(lambda distance=distance: SpatialShift(distance) for distance in (1, 3, -2, 7, "half")),
        # To the same, more, fewer and twice as many channels, in both kinds of groups.
        *(
            lambda filters=filters, groups=groups: ChannelAdaptiveBypass(filters, groups)
            for filters in (1, 3, 4, 5, 8, 11, 16, 20)
            for groups in ("strided", "contiguous")
        ),
        *(
            lambda axis=axis, **options: EntropyMaximizingAggregation(axis=axis, **options)
            for axis in (1, 2, 3, -2)
        ),
        lambda: EntropyMaximizingAggregation(mode="mean", axis=2, offset=0.3),
        lambda: EntropyMaximizingAggregation(keepdims=True, offset="closed_form"),
        lambda: MaxPooling2D(3, strides=2, padding="symmetric"),
    ],
    POINTS: [
        LearnableBias,
        RPReLU,
        lambda: ChannelAdaptiveBypass(9),
        lambda: ChannelAdaptiveBypass(4),
        EntropyMaximizingAggregation,
        lambda: EntropyMaximizingAggregation(keepdims=True),
        lambda: EntropyMaximizingAggregation(mode="mean"),
        lambda: EntropyMaximizingAggregation(axis=-1, points=64),
    ],
}


def _exact(model, samples=2):
    """The deploy form, after it was compared with the model in float64."""
    deployment = deployment_of(model, "float64")
    generator = np.random.default_rng(1)
    values = [generator.normal(size=(samples, *tensor.shape[1:])) for tensor in model.inputs]
    wanted, found = (keras.tree.flatten(form(values)) for form in (model, deployment.model))
    for tensor, one, other in zip(model.outputs, wanted, found, strict=True):
        one, other = ops.convert_to_numpy(one), ops.convert_to_numpy(other)
        name = tensor._keras_history.operation.name
        assert one.shape == other.shape, name
        bound = 1e-9 * max(np.abs(one).max(), 1.0)
        np.testing.assert_allclose(other, one, rtol=0, atol=bound, err_msg=name)
    return deployment


def _all_blocks(shape, binary=False):
    """Every block on the input, or between two binary layers."""
    inputs = keras.Input(shape)
    outputs = []
    for make in BLOCKS[shape]:
        x = inputs
        if binary:
            x = layers.BatchNormalization()(QuantDense(shape[-1], **BINARY)(x))
        y = make()(x)
        outputs.append(QuantDense(3, **BINARY)(y) if binary else y)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("shape", BLOCKS)
def test_blocks_are_exact(shape, binary, float64, randomized) -> None:
    _exact(randomized(_all_blocks(shape, binary)))


@pytest.mark.slow
@pytest.mark.parametrize("shape", BLOCKS)
def test_lce_computes_the_blocks(shape, randomized, backend) -> None:
    if backend != "tensorflow":
        pytest.skip("the deploy worker runs TensorFlow whatever the backend: once is enough")
    verification = converters.convert(randomized(_all_blocks(shape, binary=True))).verification
    assert verification.passed and verification.probe_max_difference == 0
    assert verification.binary_layers_converted == 2 * len(BLOCKS[shape])


def _of_the_data():
    """Every quantizer of inputs that looks at the data, in every layer that it may stand before."""
    image, points, vector = keras.Input((5, 6, 8)), keras.Input((7, 8)), keras.Input((8,))
    contextual = quantizers.ContextualSign
    centred = quantizers.Binarizer(
        quantizers.AdaptiveThreshold(), quantizers.MeanMagnitude((-1,), of_centred=True)
    )
    pairs = [
        (image, QuantConv2D, {"kernel_size": 3, "padding": "same"}, contextual()),
        (image, QuantConv2D, {"kernel_size": 3}, contextual(2, activation="relu")),
        (image, QuantConv2D, {"kernel_size": 3, "groups": 2}, quantizers.DAB(per_layer=True)),
        (image, QuantConv2D, {"kernel_size": 1}, quantizers.DAB(per_layer=True, axes=(1,))),
        (image, QuantConv2D, {"kernel_size": 1}, quantizers.XNORInput()),
        (image, QuantConv2D, {"kernel_size": 1}, centred),
        (points, QuantConv1D, {"kernel_size": 3}, contextual()),
        (points, QuantConv1D, {"kernel_size": 3}, quantizers.DAB(per_layer=True, axes=(1,))),
        (points, QuantDense, {}, quantizers.DAB(per_layer=True, offset=0.0)),
        (points, QuantDense, {}, quantizers.XNORInput()),
        (points, QuantDense, {}, contextual()),
        (image, QuantDense, {}, quantizers.DAB(per_layer=True)),
        (image, QuantDense, {}, quantizers.XNORInput()),
        (vector, QuantDense, {}, quantizers.XNORInput()),
    ]
    outputs = []
    for inputs, kind, options, quantizer in pairs:
        size = {"units": 4} if kind is QuantDense else {"filters": 4}
        layer = kind(**size, **options, **{**BINARY, "input_quantizer": quantizer})
        outputs.append(layers.BatchNormalization()(layer(inputs)))
    separable = QuantSeparableConv1D(
        4, 3, intermediate_quantizer=contextual(), pointwise_quantizer="magnitude_aware_sign"
    )
    return keras.Model([image, points, vector], [*outputs, separable(points)])


def test_quantizers_of_the_data_are_exact_and_binary(float64, randomized) -> None:
    model = randomized(_of_the_data())
    deployment = _exact(model)
    assert deployment.float_reasons == {} and len(deployment.binary_calls) == 15
    assert all(lce_support(layer) for layer in model.layers if "quant" in layer.name)


@pytest.mark.slow
def test_lce_computes_quantizers_of_the_data(randomized, backend) -> None:
    if backend != "tensorflow":
        pytest.skip("the deploy worker runs TensorFlow whatever the backend: once is enough")
    model = randomized(_of_the_data())
    verification = converters.convert(model).verification
    assert verification.passed and verification.probe_max_difference == 0
    assert verification.binary_layers_converted == 15


NETWORKS = {
    "keyword_spotting": 5,
    "point_cloud": 4,
    "decoder": 6,
    "wide_dense": 1,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_exact(name, float64, randomized) -> None:
    small = {"wide_dense": {"units": 64}, "point_cloud": {"points": 16}}.get(name, {})
    deployment = _exact(randomized(getattr(networks, name)(**small)))
    assert len(deployment.binary_calls) == NETWORKS[name] and not deployment.float_reasons


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_run_in_one_bit(name, randomized, backend) -> None:
    """All binary multiply-accumulates are LceBconv2d's, and the probe is exact."""
    if backend != "tensorflow":
        pytest.skip("the deploy worker runs TensorFlow whatever the backend: once is enough")
    model = randomized(getattr(networks, name)())
    conversion = converters.convert(model)
    verification = conversion.verification
    assert verification.passed and verification.probe_max_difference == 0
    assert verification.binary_layers_left == () and verification.float_reasons == {}
    assert verification.binary_layers_converted == NETWORKS[name]
    # Counted from the training form, so that a layer declared float would gain nothing.
    assert ModelProfile(model).op_count("mac", 1) > 0
    kinds = [operator.kind for operator in flatbuffer.read(conversion.flatbuffer).operators]
    assert kinds.count("LceBconv2d") >= NETWORKS[name] and "LceDequantize" not in kinds
    if name == "wide_dense":
        assert conversion.file_bytes <= 145_000
    if name == "point_cloud":
        # The maximum over the points is taken on bits.
        assert "LceBMaxPool2d" in kinds
        assert "REDUCE_MAX" not in kinds and "MAX_POOL_2D" not in kinds


@pytest.mark.parametrize("threshold", [None, "learned"])
def test_a_pool_feeds_its_sign_directly(threshold, float64, randomized) -> None:
    """Thresholds and positive scales go before the pool; a negative scale cannot."""
    inputs = keras.Input((8, 8, 4))
    x = layers.BatchNormalization()(QuantConv2D(4, 3, **BINARY)(inputs))
    x = layers.BatchNormalization(name="behind")(layers.MaxPooling2D(2)(x))
    options = {"input_quantizer": "rsign"} if threshold else {}
    model = randomized(keras.Model(inputs, QuantConv2D(3, 1, **{**BINARY, **options})(x)))
    gamma = model.get_layer("behind").gamma
    for sign, direct in ((1, True), (-1, False)):
        gamma.assign(np.abs(ops.convert_to_numpy(gamma)) * np.array([1, 1, 1, sign]))
        deployed = _exact(model).model
        signs = [layer for layer in deployed.layers if type(layer).__name__ == "Sign"]
        source = signs[-1]._inbound_nodes[0].input_tensors[0]._keras_history.operation
        assert isinstance(source, layers.MaxPooling2D) is direct


def _network():
    """Every rule that the mutants below break, before a binary layer each."""
    inputs = keras.Input((4, 6, 8), name="image")
    x = layers.BatchNormalization(name="stem_bn")(QuantDense(8, name="stem", **BINARY)(inputs))
    shift = SpatialShift(name="shift")(x)
    bypass = ChannelAdaptiveBypass(4, name="bypass")(shift)
    bias = LearnableBias(name="bias")(x)
    relu = RPReLU(name="relu")(bias)
    pool = EntropyMaximizingAggregation(axis=2, name="pool")(x)
    maximum = layers.GlobalMaxPooling2D(name="maximum")(x)
    outputs = [
        QuantDense(4, name=f"behind_{name}", **BINARY)(value)
        for name, value in (
            ("bypass", bypass),
            ("relu", relu),
            ("pool", pool),
            ("maximum", maximum),
        )
    ]
    return keras.Model(inputs, outputs)


def _shift_backwards(patch):
    rolled = blocks._rolled
    patch.setattr(
        blocks,
        "_rolled",
        lambda builder, x, axis, cut, name: rolled(builder, x, axis, -cut % x.shape[axis], name),
    )


def _swap_slices(patch):
    mean_of = blocks._mean_of

    def swapped(builder, tensors, name):
        return ops.flip(mean_of(builder, tensors, name), axis=-1)

    patch.setattr(blocks, "_mean_of", swapped)


def _drop_the_offset(patch):
    patch.setattr(pooling_rules, "shifted", lambda builder, x, offset, name, **_: x)


def _pool_one_less(patch):
    max_pool = builder.Builder.max_pool

    def smaller(self, x, pool_size, name):
        rows, columns = (slice(None, size - 1 if size > 1 else None) for size in pool_size)
        pooled = [max(size - 1, 1) for size in pool_size]
        cut = x[:, rows, columns] if tuple(x.shape[1:3]) == tuple(pool_size) else x[:, :, columns]
        return max_pool(self, cut, pooled, name)

    patch.setattr(builder.Builder, "max_pool", smaller)


def _drop_the_bias(patch):
    patch.setitem(registry._RULES, LearnableBias, lambda builder, layer, inputs: inputs)


def _drop_the_second_bias(patch):
    rule = registry._RULES[RPReLU]

    def lower(builder, layer, inputs):
        with patch.context() as inner:
            inner.setattr(builder, "offset", lambda x, bias, name: x)
            return rule(builder, layer, inputs)

    patch.setitem(registry._RULES, RPReLU, lower)


@pytest.mark.parametrize(
    ("mutate", "layer"),
    [
        (_shift_backwards, "shift"),
        (_swap_slices, "bypass"),
        (_drop_the_offset, "pool"),
        (_pool_one_less, "pool"),
        (_pool_one_less, "maximum"),
        (_drop_the_bias, "bias"),
        (_drop_the_second_bias, "relu"),
    ],
)
def test_a_wrong_rule_is_found(mutate, layer, randomized, monkeypatch) -> None:
    model = randomized(_network())
    twin = probe.dyadic_twin(model)
    inputs = probe.dyadic_inputs(twin, samples=2)
    assert layerwise.differences(model) == [] and probe.compared(twin, inputs)[1] == []
    with monkeypatch.context() as patch:
        mutate(patch)
        by_layer, by_probe = layerwise.differences(model), probe.compared(twin, inputs)[1]
    assert by_probe
    assert layer in {text.partition(":")[0] for text in by_layer}


def test_the_probe_says_what_it_leaves_out(randomized) -> None:
    image = keras.Input((7, 7, 8), name="image")
    options = {**BINARY, "input_quantizer": "contextual_sign"}
    x = QuantConv2D(8, 3, padding="same", name="contextual", **options)(image)
    x = layers.LayerNormalization(name="normalization")(x)
    x = QuantConv2D(8, 3, padding="same", activation="gelu", name="second", **BINARY)(x)
    x = layers.GlobalAveragePooling2D(name="average")(layers.Dropout(0.5)(x))
    x = layers.Softmax(name="softmax")(QuantDense(4, name="last", **BINARY)(x))
    model = randomized(keras.Model(image, x))
    found = probe.dyadic_probe(model)
    assert found.cuts == {
        "normalization": "LayerNormalization rounds",
        "average": "GlobalAveragePooling2D takes a mean over 49 values",
        "softmax": "Softmax rounds",
    }
    assert found.replaced == {"contextual": "its input_quantizer ContextualSign rounds"}
    # Every binary layer is in the twin, each segment with inputs of its own.
    names = {layer.name for layer in found.twin.layers}
    assert names >= {"contextual", "second", "last"} and len(found.twin.inputs) == 3
    assert probe.compared(found.twin, probe.dyadic_inputs(found.twin, 2))[1] == []
    nothing = probe.dyadic_probe(keras.Model(image, layers.Softmax(name="only")(image)))
    assert nothing.twin is None and set(nothing.cuts) == {"only"}


def test_the_probe_replaces_scales_of_inputs() -> None:
    """A mean of magnitudes is exact for kernels of one magnitude per filter, not for inputs."""
    points = keras.Input((5, 24))
    xnor = {"input_quantizer": quantizers.XNORInput(), "kernel_quantizer": quantizers.XNORKernel()}
    x = QuantDense(48, name="first", **xnor)(points)
    found = probe.dyadic_probe(keras.Model(points, QuantDense(16, name="second", **xnor)(x)))
    reasons = "its input_quantizer XNORInput rounds; its kernel_quantizer XNORKernel rounds"
    assert found.cuts == {} and found.replaced == {"first": reasons, "second": reasons}
    plain = {"input_quantizer": "approx_sign", "kernel_quantizer": "magnitude_aware_sign"}
    found = probe.dyadic_probe(keras.Model(points, QuantDense(16, name="only", **plain)(points)))
    assert found.replaced == {}
