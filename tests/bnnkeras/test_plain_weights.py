"""Weights of plain Keras models in their quantized twins."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import layers, models, quantizers

QUANTIZED = {
    "input_quantizer": lambda: quantizers.Binarizer(quantizers.LearnedThreshold("ones")),
    "kernel_quantizer": lambda: quantizers.SteSign(),
    "kernel_constraint": lambda: "weight_clip",
}


def network(quantized: bool, nested: bool = True) -> keras.Model:
    """The same layers, plain or quantized; the first convolution is plain in both."""
    source, prefix = (layers, "Quant") if quantized else (keras.layers, "")

    def make(name, *arguments, **options):
        if quantized:
            options |= {key: value() for key, value in QUANTIZED.items()}
        return getattr(source, prefix + name)(*arguments, **options)

    block = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            make("Conv2D", 4, 3, padding="same"),
            keras.layers.BatchNormalization(),
            make("Conv2D", 4, 3, padding="same"),
        ]
    )
    inputs = keras.Input((6, 6, 4))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x = make("Conv2D", 4, 3, padding="same")(x)
    x = block(x) if nested else x
    separable = (layers.QuantSeparableConv2D, {"intermediate_quantizer": "ste_sign"})
    cls, options = separable if quantized else (keras.layers.SeparableConv2D, {})
    x = cls(3, 3, **options)(x)
    x = make("Conv2DTranspose", 2, 2, strides=2, use_bias=False)(x)
    x = make("Dense", 5)(keras.layers.Flatten()(x))
    return keras.Model(inputs, x)


def own_weights(model) -> list[np.ndarray]:
    """Without the variables of quantizers, which the plain model does not have."""
    return [
        ops.convert_to_numpy(variable) for variable in model.weights if variable.name != "threshold"
    ]


def filled(model, seed):
    for index, variable in enumerate(model.weights):
        values = np.random.default_rng((seed, index)).uniform(-1, 1, variable.shape)
        variable.assign(abs(values) if "variance" in variable.name else values)
    return model


@pytest.mark.parametrize("file", ["plain.weights.h5", "plain.keras"])
@pytest.mark.parametrize("nested", [True, False])
def test_loads_plain_weights(file, nested, tmp_path):
    plain, twin = filled(network(False, nested), 1), filled(network(True, nested), 2)
    thresholds = [v.numpy().copy() for v in twin.weights if v.name == "threshold"]
    assert len(thresholds) == (5 if nested else 3)
    save = plain.save if file.endswith(".keras") else plain.save_weights
    save(tmp_path / file)
    classes = [type(layer) for layer in twin.layers]
    models.load_plain_weights(twin, tmp_path / file)
    assert [type(layer) for layer in twin.layers] == classes
    loaded, expected = own_weights(twin), own_weights(plain)
    assert len(loaded) == len(expected)
    for value, original in zip(loaded, expected, strict=True):
        np.testing.assert_array_equal(value, original)
    kept = [v.numpy() for v in twin.weights if v.name == "threshold"]
    for value, original in zip(kept, thresholds, strict=True):
        np.testing.assert_array_equal(value, original)
    # It is the plain model up to what its quantizers do, and saves as a quantized model.
    twin.save(tmp_path / "twin.keras")
    again = keras.saving.load_model(tmp_path / "twin.keras")
    x = np.random.default_rng(0).uniform(-1, 1, (2, 6, 6, 4)).astype("float32")
    y = twin.predict(x, verbose=0)
    assert np.isfinite(y).all()
    np.testing.assert_array_equal(again.predict(x, verbose=0), y)


@pytest.mark.parametrize("file", ["plain.weights.h5", "plain.keras"])
def test_load_weights_explains_itself(file, tmp_path):
    plain, twin = network(False), network(True)
    save = plain.save if file.endswith(".keras") else plain.save_weights
    save(tmp_path / file)
    with pytest.raises(ValueError, match=r"load_plain_weights\(model, path\)"):
        twin.load_weights(tmp_path / file)


def test_other_files_are_refused(tmp_path):
    twin = network(True)
    twin.save_weights(tmp_path / "twin.weights.h5")
    classes = [type(layer) for layer in twin.layers]
    with pytest.raises(ValueError, match="those of quantized layers by model.load_weights"):
        models.load_plain_weights(twin, tmp_path / "twin.weights.h5")
    assert [type(layer) for layer in twin.layers] == classes
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    small = keras.Sequential([keras.Input((4,)), layers.QuantDense(2)])
    with pytest.raises(ValueError, match="[Ss]hape"):
        models.load_plain_weights(small, tmp_path / "other.weights.h5")
