"""FlipRatio by itself, and kept by kernel quantizers through `fit` on every backend."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import context, layers, quantizers, utils
from bnnkeras.metrics import FlipRatio


def numpy(x):
    return ops.convert_to_numpy(x)


def test_is_larqs(goldens):
    golden = goldens("larq", "optimizers")
    metric = FlipRatio()
    assert float(numpy(metric.result())) == 0
    for step, values in enumerate(golden["flip_ratio/values"]):
        metric.update_state(values)
        for name in ("result", "total", "count"):
            actual = metric.result() if name == "result" else getattr(metric, name)
            expected = golden[f"flip_ratio/{name}"][step]
            np.testing.assert_allclose(numpy(actual), expected, rtol=2**-22)
    metric.reset_state()
    assert float(numpy(metric.result())) == golden["flip_ratio/result_after_reset"]
    previous = numpy(metric.previous_values)
    np.testing.assert_array_equal(previous, golden["flip_ratio/previous_after_reset"])
    for name, index in (("first", 0), ("second", 1)):
        metric.update_state(golden["flip_ratio/values"][index])
        assert float(numpy(metric.result())) == golden[f"flip_ratio/result_reset_then_{name}"]


def test_stateless():
    metric = FlipRatio()
    metric.build((2,))
    state = [variable.value for variable in metric.variables]
    for values in ([1, 1], [2, 2], [1, 2]):
        state = metric.stateless_update_state(state, ops.convert_to_tensor(values))
    assert float(numpy(metric.stateless_result(state))) == 0.75
    assert float(numpy(metric.result())) == 0


def test_config():
    metric = FlipRatio(values_dtype="int16", name="flips", dtype="float16")
    copy = FlipRatio.from_config(metric.get_config())
    assert (copy.name, copy.values_dtype, copy.dtype) == ("flips", "int16", "float16")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(FlipRatio()))
    assert (again.name, again.values_dtype, again.dtype) == ("flip_ratio", "int8", "float32")


def test_shape_errors():
    metric = FlipRatio()
    with pytest.raises(ValueError, match=r"fixed shape.*Received: input_shape=\(None, 3\)"):
        metric.build((None, 3))
    metric.build((3,))
    with pytest.raises(ValueError, match=r"expected \(3,\). Received: shape \(2,\)"):
        metric.update_state([1, 1])


# --- Kept by quantizers -----------------------------------------------------------------------


X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(32, 3)).astype("float32")


class Kernels(keras.callbacks.Callback):
    """The latent kernels before the first and after each training step."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.values, self.logs = layer, [], []

    def _read(self):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.values.append(numpy(self.layer.kernel).copy())

    def on_epoch_begin(self, epoch, logs=None):
        self.values = []
        self._read()

    def on_train_batch_end(self, batch, logs=None):
        self._read()
        self.logs.append(dict(logs))

    def flip_ratio(self):
        # The metric sees the kernel of each forward pass: not yet the last update.
        signs = np.where(np.stack(self.values[:-1]) >= 0, 1, -1)
        return float((signs[1:] != signs[:-1]).mean())


def build_model(kernel_quantizer="ste_sign"):
    with context.metrics_scope(["flip_ratio"]):
        first = layers.QuantDense(
            4, kernel_quantizer=kernel_quantizer, kernel_constraint="weight_clip", name="first"
        )
    last = layers.QuantDense(
        3, input_quantizer="ste_sign", kernel_quantizer="ste_sign", kernel_constraint="weight_clip"
    )
    return keras.Sequential([keras.Input((6,)), first, keras.layers.BatchNormalization(), last])


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("kernel_quantizer", ["ste_sign", "magnitude_aware_sign"])
def test_fit_reports_flips(mode, kernel_quantizer, backend):
    model = build_model(kernel_quantizer)
    layer = model.get_layer("first")
    options = {"run_eagerly": True, "jit_compile": False} if mode == "eager" else {}
    model.compile(keras.optimizers.SGD(0.5), "mse", metrics=["mae"], **options)
    kernels = Kernels(layer)
    key = layer.kernel_quantizer.flip_ratio.name
    assert key.startswith(f"flip_ratio/{layer.kernel_quantizer.name}")
    ratios = []
    for _ in range(2):
        history = model.fit(
            X, Y, batch_size=4, verbose=0, callbacks=[kernels], validation_data=(X, Y)
        ).history
        np.testing.assert_allclose(history[key], [kernels.flip_ratio()], rtol=1e-6)
        assert history[f"val_{key}"] == [0.0]
        ratios += history[key]
    assert min(ratios) > 0 and ratios[0] != ratios[1]
    # Within an epoch JAX cannot know it.
    within = [logs[key] for logs in kernels.logs]
    assert all(np.isnan(within)) if backend == "jax" else not any(np.isnan(within))
    assert {"loss", "mae"} < set(history)


def test_several_epochs_in_one_fit():
    model = build_model()
    model.compile(keras.optimizers.SGD(0.5), "mse")
    key = model.get_layer("first").kernel_quantizer.flip_ratio.name
    history = model.fit(X, Y, batch_size=4, epochs=3, verbose=0).history[key]
    assert len(history) == 3 and np.isfinite(history).all() and history[0] > 0


def test_other_entry_points(backend):
    """evaluate, train_on_batch, predict and a direct call count too, and do not fail."""
    model = build_model()
    model.compile(keras.optimizers.SGD(0.5), "mse")
    metric = model.get_layer("first").kernel_quantizer.flip_ratio
    logs = model.train_on_batch(X, Y, return_dict=True)
    assert np.isnan(logs[metric.name]) == (backend == "jax")
    model.evaluate(X, Y, batch_size=8, verbose=0)
    assert float(numpy(metric.count)) == 4
    model.predict(X, batch_size=16, verbose=0)
    assert float(numpy(metric.count)) == 6
    model(X)
    assert float(numpy(metric.count)) == 7
    assert float(numpy(metric.result())) == 0  # The kernel did not change since evaluate began.


def test_checkpoints_do_not_change(tmp_path):
    """Files are those of the model without metrics; a loaded model keeps its metrics."""
    model = build_model()
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.fit(X, Y, batch_size=8, verbose=0)
    layer = model.get_layer("first")
    assert len(layer.weights) == 2 and len(layer.variables) == 5
    assert len(model.get_weights()) == len(model.weights) == 8
    model.save_weights(tmp_path / "model.weights.h5")
    plain = keras.Sequential(
        [
            keras.Input((6,)),
            layers.QuantDense(4, kernel_quantizer="ste_sign", kernel_constraint="weight_clip"),
            keras.layers.BatchNormalization(),
            layers.QuantDense(
                3,
                input_quantizer="ste_sign",
                kernel_quantizer="ste_sign",
                kernel_constraint="weight_clip",
            ),
        ]
    )
    plain.load_weights(tmp_path / "model.weights.h5")
    expected = model.predict(X, verbose=0)
    np.testing.assert_array_equal(plain.predict(X, verbose=0), expected)
    plain.save_weights(tmp_path / "plain.weights.h5")
    build_model().load_weights(tmp_path / "plain.weights.h5")

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), expected)
    history = loaded.fit(X, Y, batch_size=4, verbose=0).history
    assert history[layer.kernel_quantizer.flip_ratio.name][0] > 0


def test_scale_is_no_flip_and_more_bits_are_values():
    @utils.register_keras_custom_object
    class Fourths(quantizers.Quantizer):
        precision = 3

        def call(self, inputs):
            return ops.round(inputs * 4) / 4

    for quantizer, expected in (
        (quantizers.MagnitudeAwareSign(metrics=["flip_ratio"]), 0.25),
        (Fourths(metrics=["flip_ratio"]), 0.5),
    ):
        quantizer(np.array([[0.3, 0.3], [-0.3, 0.9]], "float32"))
        quantizer(np.array([[0.3, -0.3], [-0.3, 0.7]], "float32"))
        assert float(numpy(quantizer.flip_ratio.result())) == expected


def test_who_keeps_metrics():
    given = quantizers.SteSign(metrics=["flip_ratio"])
    assert given.flip_ratio.name == f"flip_ratio/{given.name}" and given.metrics
    assert given.get_config()["metrics"] == ["flip_ratio"]
    assert type(given).from_config(given.get_config()).flip_ratio is not None
    assert (
        quantizers.SteSign().flip_ratio is None
        and "metrics" not in quantizers.SteSign().get_config()
    )
    with context.metrics_scope(["flip_ratio"]):
        assert quantizers.get("ste_sign").flip_ratio is None
        assert quantizers.get_kernel_quantizer("ste_sign").flip_ratio is not None
        assert quantizers.get_kernel_quantizer(given) is given
        assert quantizers.get_kernel_quantizer(None) is None
        assert quantizers.get_kernel_quantizer(ops.sign) is ops.sign
        layer = layers.QuantDense(
            3,
            input_quantizer="ste_sign",
            kernel_quantizer="ste_sign",
            kernel_constraint="weight_clip",
        )
    assert layer.input_quantizer.flip_ratio is None
    assert [metric.name for metric in layer.metrics] == [layer.kernel_quantizer.flip_ratio.name]


def test_metric_errors():
    with pytest.raises(ValueError, match="`metrics` must be a list .*Received: metrics="):
        quantizers.SteSign(metrics=["flips"])
    built = quantizers.SteSign()
    built.build((3, 4))
    with context.metrics_scope(["flip_ratio"]), pytest.raises(ValueError, match="is built already"):
        quantizers.get_kernel_quantizer(built)
    shared = quantizers.SteSign(metrics=["flip_ratio"])
    options = {"kernel_quantizer": shared, "kernel_constraint": "weight_clip"}
    layers.QuantDense(3, **options).build((None, 4))
    with pytest.raises(ValueError, match="serves one kernel.*Received: "):
        layers.QuantDense(3, **options).build((None, 4))
    on_inputs = layers.QuantDense(3, input_quantizer=quantizers.SteSign(metrics=["flip_ratio"]))
    with pytest.raises(ValueError, match="fixed shape, such as a kernel's. Received: "):
        on_inputs.build((None, 4))
