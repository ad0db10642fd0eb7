"""BCDNet in LCE: every binary convolution on bits, nothing but what has to be beside them."""

from collections import Counter

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import converters
from bnnkeras.converters.plan import binary_units
from bnnkeras.zoo import BCDNetA, BCDNetB

SMALL = {"width": 0.125, "depths": (0, 1, 0, 0), "mlp_blocks": 1, "classes": 10}


def network(function, **arguments) -> keras.Model:
    """With values as training leaves them: no bias of 0, thresholds within the activations."""
    model = function(**arguments)
    generator = np.random.default_rng(1)
    for variable in model.weights:
        name, shape = variable.path, variable.shape
        if name.endswith(("moving_variance", "gamma")):
            value = generator.uniform(0.5, 1.5, shape)
        elif name.endswith("kernel"):
            value = generator.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        elif "context" in name:
            value = 0.1 * generator.normal(size=shape)
        else:
            value = generator.uniform(-0.3, 0.3, shape)
        variable.assign(value)
    return model


@pytest.mark.parametrize("size", [(64, 96), (32, 32)])
@pytest.mark.parametrize("function", [BCDNetA, BCDNetB])
def test_the_deploy_form_is_the_same_function(float64, function, size):
    for arguments in ({}, {"classifier_activation": None, "long_shift": "half"}):
        model = network(function, input_shape=(*size, 3), **SMALL, **arguments)
        x = np.random.default_rng(0).uniform(-2, 2, (2, *size, 3))
        wanted, found = (
            ops.convert_to_numpy(form(x)) for form in (model, converters.deploy(model, "float64"))
        )
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@pytest.mark.parametrize("function", [BCDNetA, BCDNetB])
def test_constants_are_folded(function):
    """One addition in front of a sign, none behind an activation or a normalization."""
    deployed = converters.deploy(network(function, input_shape=(64, 64, 3), **SMALL))
    kinds = Counter(type(layer).__name__ for layer in deployed.layers)
    blocks, mlp_layers, shifted = 6, 4, 3
    assert len(binary_units(deployed)) == 2 * blocks + mlp_layers + 2 * shifted == 22
    assert kinds["PReLU"] == 2 * blocks + mlp_layers
    assert kinds["Convolution"] == 22 + 1 and kinds["BatchNormalization"] == 0
    # Behind each convolution one, which LCE fuses; before each sign one. The last RPReLU's bias
    # ends in the classifier, and shifts stand behind the offset.
    offsets, contexts = (2 * blocks + mlp_layers, 2 * blocks if function is BCDNetB else 0)
    # A context's constants are in the threshold's offset and in the convolution.
    assert kinds["Affine"] == 23 + offsets
    assert kinds["Dense"] == 1 + 3 * contexts
    sums = 2 * blocks + mlp_layers + shifted
    assert kinds["Add"] == sums + 2 * contexts


def test_a_sum_that_others_read_keeps_its_value(float64):
    """The bias of an RPReLU must not move into a sum that is a shortcut as well."""
    from bnnkeras.layers import QuantConv2D, RPReLU

    binary = {"input_quantizer": "ste_sign", "kernel_quantizer": "magnitude_aware_sign"}
    inputs = keras.Input((4, 4, 8))
    y = QuantConv2D(8, 1, **binary)(inputs)
    y = keras.layers.Add()([y, inputs])
    z = keras.layers.BatchNormalization()(RPReLU()(y))
    model = keras.Model(inputs, keras.layers.Add()([y, z, keras.layers.BatchNormalization()(y)]))
    for seed, variable in enumerate(model.weights):
        variable.assign(np.random.default_rng(seed).uniform(0.2, 1, variable.shape))
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 8))
    deployed = converters.deploy(model, "float64")
    wanted, found = (ops.convert_to_numpy(form(x)) for form in (model, deployed))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert len(binary_units(deployed)) == 1


@pytest.mark.parametrize("activation", [None, "relu"])
def test_contextual_layers_alone(float64, activation):
    """Any layer, not only this family's: another output, a bias, an activation, real kernels."""
    from bnnkeras.layers import QuantConv1D, QuantConv2D
    from bnnkeras.quantizers import ContextualSign

    for layer, shape in (
        (QuantConv2D, (6, 5, 8)),
        (QuantConv1D, (7, 8)),
    ):
        for kernel_quantizer in ("ste_sign", None):
            inputs = keras.Input(shape)
            outputs = layer(
                6,
                3,
                padding="same",
                activation="relu",
                input_quantizer=ContextualSign(2, activation, embedding=6),
                kernel_quantizer=kernel_quantizer,
            )(inputs)
            model = keras.Model(inputs, keras.layers.BatchNormalization()(outputs))
            for seed, variable in enumerate(model.weights):
                variable.assign(np.random.default_rng(seed).uniform(0.1, 1, variable.shape))
            x = np.random.default_rng(0).normal(size=(2, *shape))
            forms = (model, converters.deploy(model, "float64"))
            wanted, found = (ops.convert_to_numpy(form(x)) for form in forms)
            np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("function", [BCDNetA, BCDNetB])
def test_small_networks_convert_strictly(function):
    model = network(function, input_shape=(64, 64, 3), **SMALL)
    conversion = converters.convert(model)
    verification = conversion.verification
    assert verification.binary_layers_converted == verification.binary_layers_total == 22
    assert verification.probe_max_difference == 0
    # Deep networks have long names, and the converter cuts them: all are read in spite of it.
    assert conversion.report.layers_in_float == ()
    if function is BCDNetB:
        # The matrices of contextual thresholds as well.
        quantized = converters.convert(model, quantize="int8-weights")
        assert quantized.verification.passed and quantized.verification.probe_max_difference == 0
        assert quantized.file_bytes < conversion.file_bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    "function, megabytes, quantized_megabytes", [(BCDNetA, 10.2, 7.05), (BCDNetB, 17.9, 9.0)]
)
def test_networks_of_224_pixels(function, megabytes, quantized_megabytes):
    """A widening block's two convolutions are one: 50 of 50, which were 55."""
    model = network(function)
    conversion = converters.convert(model)
    verification = conversion.verification
    assert verification.binary_layers_converted == verification.binary_layers_total == 50
    assert verification.probe_max_difference == 0
    assert conversion.file_bytes <= megabytes * 1e6
    # The structure alone, as the small networks are verified in whole: this one takes a minute.
    quantized = converters.convert(model, quantize="int8-weights", verify=False)
    assert quantized.verification.binary_layers_converted == 50
    assert quantized.file_bytes <= quantized_megabytes * 1e6
