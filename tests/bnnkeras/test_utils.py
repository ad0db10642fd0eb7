"""Helpers under Larq's names."""

import keras
import numpy as np
import pytest
from keras import ops

import bnnkeras
from bnnkeras import layers, utils


@pytest.fixture(autouse=True)
def _custom_objects():
    objects = keras.saving.get_custom_objects()
    before = dict(objects)
    yield
    objects.clear()
    objects.update(before)


@pytest.mark.parametrize(
    "bits, text",
    [
        (0, "0.00 B"),
        (8, "1.00 B"),
        (1, "0.12 B"),
        (8 * 1023, "1,023.00 B"),
        (8 * 1024, "1.00 KiB"),
        (8 * 1024**2, "1.00 MiB"),
        (8 * 1024**3, "1.00 GiB"),
        (8 * 5000 * 1024**3, "5,000.00 GiB"),
        (4189344 * 8, "4.00 MiB"),
    ],
)
def test_memory_as_readable_str(bits, text):
    assert utils.memory_as_readable_str(bits) == text


def test_set_precision():
    @utils.set_precision(1)
    def binarize(x):
        return bnnkeras.math.sign(x)

    @utils.set_precision()
    def full(x):
        return x

    assert (binarize.precision, full.precision) == (1, 32)
    layer = layers.QuantDense(2, kernel_quantizer=binarize, kernel_constraint="weight_clip")
    layer.build((None, 3))
    assert layer.kernel.precision == 1
    for value in (0, -1, 1.0, "1", None, True):
        with pytest.raises(ValueError, match="`precision` must be a positive integer. Received"):
            utils.set_precision(value)


def test_register_alias():
    @utils.register_alias("one_and_a_half")
    class ScaledSign(bnnkeras.quantizers.Quantizer):
        precision = 1

        def call(self, inputs):
            return 1.5 * bnnkeras.math.sign(inputs)

    layer = layers.QuantDense(1, kernel_quantizer="one_and_a_half", kernel_constraint="weight_clip")
    assert type(layer.kernel_quantizer) is ScaledSign
    output = layer(np.ones((1, 1), "float32"))
    assert abs(ops.convert_to_numpy(output).item()) == 1.5
    assert type(bnnkeras.quantizers.get("one_and_a_half")) is ScaledSign


def test_register_keras_custom_object(tmp_path):
    @utils.register_keras_custom_object
    class HalfSign(bnnkeras.quantizers.Quantizer):
        def call(self, inputs):
            return bnnkeras.math.sign(inputs) / 2

    @utils.register_keras_custom_object
    class Loose(bnnkeras.constraints.WeightClip):
        pass

    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.QuantDense(2, kernel_quantizer="HalfSign", kernel_constraint="Loose"),
        ]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0].kernel_quantizer) is HalfSign
    assert type(loaded.layers[0].kernel_constraint) is Loose
    x = np.ones((1, 3), "float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(x)), ops.convert_to_numpy(model(x)))
