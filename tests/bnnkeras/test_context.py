"""The scopes: exact nesting, exceptions, threads; and what sees quantized weights."""

import logging
import threading

import h5py
import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import context, layers, quantizers
from bnnkeras.optimizers import Bop


def numpy(x):
    return ops.convert_to_numpy(x)


def sign(x):
    return np.where(x >= 0, 1, -1).astype("float32")


def test_metrics_scope():
    assert context.get_training_metrics() == set()
    with context.metrics_scope(["flip_ratio"]) as inside:
        assert context.get_training_metrics() == inside == {"flip_ratio"}
        with context.metrics_scope():
            assert context.get_training_metrics() == {"flip_ratio"}
            context.get_training_metrics().clear()
        assert context.get_training_metrics() == {"flip_ratio"}
    assert context.get_training_metrics() == set()


def test_training_metrics_are_live():
    context.get_training_metrics().add("flip_ratio")
    try:
        assert quantizers.get_kernel_quantizer("ste_sign").flip_ratio is not None
    finally:
        context.get_training_metrics().clear()
    assert quantizers.get_kernel_quantizer("ste_sign").flip_ratio is None


@pytest.mark.parametrize("metrics", [["flip_ratio", "unknown"], "flip_ratio", [1]])
def test_unknown_metrics(metrics):
    with pytest.raises(ValueError, match="Unknown training metric.*Received: "):
        with context.metrics_scope(metrics):
            pytest.fail("the scope was entered")
    assert context.get_training_metrics() == set()


def test_quantized_scope_nests():
    assert not context.should_quantize()
    with context.quantized_scope(True) as inside:
        assert inside and context.should_quantize()
        with context.quantized_scope(False):
            assert not context.should_quantize()
        assert context.should_quantize()
    assert not context.should_quantize()


def test_exceptions_end_the_scopes():
    with pytest.raises(RuntimeError, match="inside"):
        with context.quantized_scope(True), context.metrics_scope(["flip_ratio"]):
            raise RuntimeError("inside")
    assert not context.should_quantize() and context.get_training_metrics() == set()


def test_threads_do_not_share_scopes():
    seen = []

    def look():
        seen.append((context.should_quantize(), set(context.get_training_metrics())))

    with context.quantized_scope(True), context.metrics_scope(["flip_ratio"]):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        look()
    assert seen == [(False, set()), (True, {"flip_ratio"})]


# --- Quantized weights ----------------------------------------


X = np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 3)).astype("float32")


def build_model():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.QuantConv2D(4, 3, kernel_quantizer="ste_sign", kernel_constraint="weight_clip"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5),
            layers.QuantDense(
                3,
                input_quantizer="ste_sign",
                kernel_quantizer="magnitude_aware_sign",
                kernel_constraint="weight_clip",
            ),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def expected_weights(model):
    kernels = {
        id(model.layers[0].kernel): sign,
        id(model.layers[-1].kernel): lambda w: sign(w) * np.abs(w).mean(axis=0),
    }
    identity = lambda w: w  # noqa: E731
    return [kernels.get(id(v), identity)(numpy(v)) for v in model.weights]


def assert_equal(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_get_weights():
    model = build_model()
    latent = [numpy(variable) for variable in model.weights]
    assert_equal(model.get_weights(), latent)
    with context.quantized_scope(True):
        quantized = model.get_weights()
        assert_equal(quantized, expected_weights(model))
        assert_equal(model.layers[0].get_weights(), quantized[:2])
        np.testing.assert_array_equal(model.layers[0].kernel.numpy(), sign(latent[0]))
        with context.quantized_scope(False):
            assert_equal(model.get_weights(), latent)
    assert_equal(model.get_weights(), latent)
    assert not np.array_equal(quantized[0], latent[0])
    assert {array.dtype for array in quantized} == {np.dtype("float32")}


def test_reading_does_not_count_flips():
    layer = layers.QuantDense(
        3,
        kernel_quantizer=quantizers.SteSign(metrics=["flip_ratio"]),
        kernel_constraint="weight_clip",
    )
    layer(np.ones((1, 2), "float32"))
    with context.quantized_scope(True):
        assert set(np.unique(layer.get_weights()[0])) <= {-1.0, 1.0}
    assert float(numpy(layer.kernel_quantizer.flip_ratio.count)) == 1


@pytest.mark.parametrize("kind", ["model.keras", "model.weights.h5"])
def test_saved_files(kind, tmp_path):
    """A file saved inside holds quantized kernels, and loads to the same outputs, repeatedly."""
    model = build_model()
    outputs = model.predict(X, verbose=0)
    path = tmp_path / kind
    save = model.save if kind == "model.keras" else model.save_weights

    def load():
        if kind == "model.keras":
            return keras.saving.load_model(path)
        other = build_model()
        other.load_weights(path)
        return other

    save(path)
    assert_equal(load().get_weights(), [numpy(variable) for variable in model.weights])
    for _ in range(2):
        expected = expected_weights(model)
        with context.quantized_scope(True):
            save(path)
        loaded = load()
        assert_equal(loaded.get_weights(), expected)
        np.testing.assert_allclose(loaded.predict(X, verbose=0), outputs, rtol=1e-5, atol=1e-6)
    if kind == "model.weights.h5":
        with h5py.File(path) as file:
            kernel = file["layers/quant_conv2d/vars/0"][()]
        np.testing.assert_array_equal(kernel, sign(numpy(model.layers[0].kernel)))


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_training_never_sees_the_scope(mode):
    options = {"run_eagerly": True, "jit_compile": False} if mode == "eager" else {}
    results = []
    for quantize in (False, True):
        keras.utils.set_random_seed(0)
        model = build_model()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", **options)
        with context.quantized_scope(quantize):
            model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
            outputs = model.predict(X, verbose=0)
            direct = numpy(model(X))
        results.append([outputs, direct, *map(numpy, model.variables), *model.get_weights()])
    for outside, inside in zip(*results, strict=True):
        np.testing.assert_array_equal(inside, outside)
    assert np.unique(np.abs(results[0][2])).size > 2


def test_stateless_call_never_sees_the_scope():
    layer = layers.QuantDense(3, kernel_quantizer=quantizers.ste_sign)
    layer.build((None, 2))
    values = [ops.convert_to_tensor(np.full(v.shape, 0.5, "float32")) for v in layer.weights]
    with context.quantized_scope(True):
        output, _ = layer.stateless_call(values, [], ops.ones((1, 2)))
        assert not np.array_equal(np.abs(numpy(layer.kernel)), np.ones((2, 3)))
    np.testing.assert_array_equal(numpy(output), np.full((1, 3), 2.5))


# --- Tags and the warning ----------------------------------------


def test_precision_tag():
    layer = layers.QuantDense(3, kernel_quantizer="ste_sign", kernel_constraint="weight_clip")
    layer.build((None, 2))
    assert layer.kernel.precision == 1 and Bop.is_binary_variable(layer.kernel)
    assert not Bop.is_binary_variable(layer.bias)
    plain = layers.QuantDense(3, input_quantizer="ste_sign")
    plain.build((None, 2))
    assert not Bop.is_binary_variable(plain.kernel)


def starved(caplog, build):
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="bnnkeras.layers"):
        result = build()
    return result, [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    "cls, arguments", [(layers.QuantDense, (3,)), (layers.QuantConv2D, (3, 1))]
)
def test_starved_weights_warning(cls, arguments, caplog):
    layer, messages = starved(caplog, lambda: cls(*arguments, kernel_quantizer="ste_sign"))
    assert len(messages) == 1 and "`kernel_constraint` may result in starved" in messages[0]
    for options in (
        {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip"},
        {"input_quantizer": "ste_sign"},
        {"kernel_quantizer": lambda x: x},
    ):
        assert starved(caplog, lambda options=options: cls(*arguments, **options))[1] == []
    # Loading and cloning repeat no warning.
    assert starved(caplog, lambda: cls.from_config(layer.get_config()))[1] == []


def test_no_op_is_a_tag(caplog):
    no_op = quantizers.NoOp(precision=1)
    layer, messages = starved(caplog, lambda: layers.QuantDense(3, kernel_quantizer=no_op))
    layer.build((None, 2))
    assert messages == [] and Bop.is_binary_variable(layer.kernel)


@pytest.mark.parametrize("weight", ["depthwise", "pointwise"])
def test_other_kernels(weight, caplog):
    """Separable layers: both kernels are tagged, read quantized and warned of by their name."""
    both = {"depthwise_constraint": "weight_clip", "pointwise_constraint": "weight_clip"}
    options = {"depthwise_quantizer": "ste_sign", "pointwise_quantizer": "ste_sign", **both}
    del options[f"{weight}_constraint"]
    layer, messages = starved(caplog, lambda: layers.QuantSeparableConv2D(4, 3, **options))
    assert len(messages) == 1 and f"`{weight}_constraint` may result in starved" in messages[0]
    layer.build((None, 6, 6, 2))
    latent = layer.get_weights()
    with context.quantized_scope(True):
        quantized = layer.get_weights()
    assert_equal(quantized, [sign(latent[0]), sign(latent[1]), latent[2]])
    assert [Bop.is_binary_variable(v) for v in layer.weights] == [True, True, False]


def test_zoo_models_log_no_warning(caplog, monkeypatch):
    from bnnkeras.zoo import registry

    monkeypatch.setattr(registry, "_MODELS", {})

    @registry.register_model
    def Published(units=3):
        """A published network."""
        return layers.QuantDense(units, kernel_quantizer="ste_sign")

    assert Published.__doc__ == "A published network." and registry.list_models() == ["published"]
    for build in (Published, lambda: registry.get("Published", units=2)):
        layer, messages = starved(caplog, build)
        assert messages == [] and layer.kernel_constraint is None
    assert starved(caplog, lambda: layers.QuantDense(3, kernel_quantizer="ste_sign"))[1] != []
