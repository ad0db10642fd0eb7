"""WeightClip, its names, and the layers that accept them."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import constraints, layers
from bnnkeras.constraints import WeightClip


def test_values():
    values = np.array([-np.inf, -2.5, -1.0, -0.0, 0.3, 1.0, 7.0], "float32")
    for clip, expected in ((1, np.clip(values, -1, 1)), (2.0, np.clip(values, -2, 2))):
        np.testing.assert_array_equal(ops.convert_to_numpy(WeightClip(clip)(values)), expected)
    variable = keras.Variable(values)
    np.testing.assert_array_equal(ops.convert_to_numpy(WeightClip()(variable)), values.clip(-1, 1))


def test_config_and_names():
    assert WeightClip().get_config() == {"clip_value": 1}
    constraint = keras.constraints.deserialize(keras.constraints.serialize(WeightClip(1.25)))
    assert type(constraint) is WeightClip and constraint.clip_value == 1.25
    assert isinstance(constraints.weight_clip(clip_value=2), WeightClip)
    for name in ("weight_clip", "WeightClip"):
        assert type(constraints.get(name)) is WeightClip
    assert type(constraints.get("max_norm")) is keras.constraints.MaxNorm
    assert constraints.get(None) is None and constraints.get(constraint) is constraint


@pytest.mark.parametrize("clip_value", [0, -1.0, float("nan")])
def test_bad_values(clip_value):
    with pytest.raises(ValueError, match="`clip_value` must be a positive.*Received: clip_value="):
        WeightClip(clip_value)
    with pytest.raises(ValueError, match="weight_clap"):
        constraints.get("weight_clap")


@pytest.mark.parametrize(
    "cls, arguments", [(layers.QuantDense, (4,)), (layers.QuantConv2D, (4, 3))]
)
def test_layers_accept_the_name(cls, arguments):
    layer = cls(*arguments, kernel_constraint="weight_clip", bias_constraint="non_neg")
    assert type(layer.kernel_constraint) is WeightClip
    assert type(layer.bias_constraint) is keras.constraints.NonNeg
    copy = cls.from_config(layer.get_config())
    assert type(copy.kernel_constraint) is WeightClip
    with pytest.raises(ValueError, match="weight_clap"):
        cls(*arguments, kernel_constraint="weight_clap")


def test_training_keeps_weights_in_range():
    layer = layers.QuantDense(3, kernel_quantizer="ste_sign", kernel_constraint="weight_clip")
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile(keras.optimizers.SGD(100.0), loss="mse")
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model.fit(x, x[:, :3], verbose=0)
    kernel = ops.convert_to_numpy(layer.kernel)
    assert np.abs(kernel).max() == 1.0 and np.isfinite(kernel).all()
