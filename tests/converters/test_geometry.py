"""Every alignment of a convolution: the deploy form is the training form, and LCE computes it."""

import itertools
import random

import keras
import numpy as np
import pytest
from keras import layers

from bnnkeras import converters
from bnnkeras.converters.plan import binary_units
from bnnkeras.layers import QuantConv2D
from bnnkeras.quantizers import Binarizer, LearnedThreshold

SIZES = [*range(1, 10), 14]
KERNELS = (1, 2, 3, 5, 7)
# Keras allows no stride together with a dilation.
STEPS = ((1, 1), (2, 1), (3, 1), (1, 2))
PADDINGS = (("valid", 0), ("same", 0), ("same", 1), ("symmetric", 0), ("symmetric", 1))
BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": "magnitude_aware_sign"}


def _pair(value):
    return value if isinstance(value, tuple) else (value, value)


def _has_outputs(shape, kernel, step, padding):
    """Whether a window fits at all."""
    for size, length, dilation in zip(shape, _pair(kernel), _pair(step[1]), strict=True):
        extent = (length - 1) * dilation + 1
        pads = 2 * ((extent - 1) // 2) if padding == "symmetric" else 0
        if padding != "same" and size + pads < extent:
            return False
    return True


def _branch(x, number, kernel, step, padding, pad_values, quantizers, filters=3):
    """A convolution, and in turns what may stand around it."""
    binary = bool(quantizers)
    if binary and number % 4 == 1:
        threshold = Binarizer(threshold=LearnedThreshold())
        quantizers = {**quantizers, "input_quantizer": threshold}
    if binary and number % 5 == 2:
        quantizers = {**quantizers, "kernel_quantizer": "ste_sign"}
    x = QuantConv2D(
        filters,
        kernel,
        strides=step[0],
        dilation_rate=step[1],
        padding=padding,
        pad_values=pad_values,
        use_bias=number % 2 == 0,
        activation=(None, "relu", None)[number % 3],
        **quantizers,
    )(x)
    if number % 7 in (1, 2, 3, 4):
        x = layers.BatchNormalization(scale=number % 7 != 2, center=number % 7 != 3)(x)
    if number % 7 == 4:
        x = layers.BatchNormalization()(x)
    return layers.Activation("tanh")(x) if number % 11 == 3 else x


def _model(cases, quantizers, channels=2):
    """One model with a branch for each case: (height, width), kernel, step, padding, pad_values."""
    inputs: dict[tuple, keras.KerasTensor] = {}
    outputs = []
    for number, (shape, *case) in enumerate(cases):
        if shape not in inputs:
            inputs[shape] = keras.Input((*shape, channels))
        outputs.append(_branch(inputs[shape], number, *case, quantizers))
    return keras.Model([*inputs.values()], outputs)


def _values(model, samples=2):
    """Random inputs with zeros among them, where sign(0) = +1 must hold."""
    generator = np.random.default_rng(1)
    return [
        generator.normal(size=(samples, *x.shape[1:])) * generator.integers(0, 4, x.shape[1:])
        for x in model.inputs
    ]


def _assert_equal(model):
    deployed = converters.deploy(model, dtype="float64")
    values = _values(model)
    pairs = zip(
        keras.tree.flatten(model(values)), keras.tree.flatten(deployed(values)), strict=True
    )
    for number, (wanted, found) in enumerate(pairs):
        wanted, found = (keras.ops.convert_to_numpy(value) for value in (wanted, found))
        np.testing.assert_allclose(
            found,
            wanted,
            rtol=0,
            atol=1e-9 * max(np.abs(wanted).max(), 1.0),
            err_msg=f"output {number}",
        )
    return deployed


def _square_cases(size):
    return [
        ((size, size), kernel, step, *padding)
        for kernel, step, padding in itertools.product(KERNELS, STEPS, PADDINGS)
        if _has_outputs((size, size), kernel, step, padding[0])
    ]


def _mixed_cases(count, seed, sizes=SIZES):
    """Height and width that differ in everything."""
    draw = random.Random(seed)
    cases = []
    while len(cases) < count:
        shape, kernel = ((draw.choice(of), draw.choice(of)) for of in (sizes, KERNELS))
        if draw.random() < 0.3:
            step = ((1, 1), (draw.choice((1, 2)), draw.choice((1, 2))))
        else:
            step = ((draw.choice((1, 2, 3)), draw.choice((1, 2, 3))), (1, 1))
        padding = draw.choice(PADDINGS)
        if _has_outputs(shape, kernel, step, padding[0]):
            cases.append((shape, kernel, step, *padding))
    return cases


@pytest.mark.parametrize("size", SIZES)
def test_the_deploy_form_of_a_binary_convolution_is_exact(float64, randomized, size) -> None:
    deployed = _assert_equal(randomized(_model(_square_cases(size), BINARY)))
    assert len(binary_units(deployed)) == len(_square_cases(size))


@pytest.mark.parametrize("channels", [2, 3])
def test_the_axes_of_a_convolution_are_independent(float64, randomized, channels) -> None:
    _assert_equal(randomized(_model(_mixed_cases(120, seed=channels), BINARY, channels)))


def test_the_deploy_form_of_a_float_convolution_is_exact(float64, randomized) -> None:
    """A `QuantConv2D` without quantizers, such as the stem of a network."""
    cases = [
        (*case[:-1], 0)
        for case in [case for size in (1, 2, 5, 8) for case in _square_cases(size)]
        + _mixed_cases(60, seed=4)
        if case[-1] == 0
    ]
    _assert_equal(randomized(_model(cases, {})))


def _assert_verified(model, binary):
    verification = converters.convert(model, strict=False).verification
    assert list(verification.problems) == []
    assert verification.passed
    assert verification.binary_layers_total == verification.binary_layers_converted == binary
    assert verification.probe_max_difference == 0
    assert set(verification.kernels) == {"default", "reference", "indirect"}


@pytest.mark.slow
def test_lce_computes_every_form_of_a_binary_convolution(randomized) -> None:
    """All forms that the square cases know, with channels of 1, 3, 33 and an even number."""
    draw = random.Random(5)
    sizes = (1, 2, 3, 4, 7, 8)
    for channels, count in ((1, 12), (3, 12), (33, 12), (6, 60)):
        cases = [case for size in sizes for case in _square_cases(size)]
        cases = draw.sample(cases, count) + _mixed_cases(count // 4, channels, sizes)
        _assert_verified(randomized(_model(cases, BINARY, channels)), len(cases))


@pytest.mark.slow
def test_lce_computes_every_form_of_a_float_convolution(randomized) -> None:
    draw = random.Random(6)
    cases = [case for size in (1, 2, 5, 8) for case in _square_cases(size) if case[-1] == 0]
    cases = draw.sample(cases, 40) + [case for case in _mixed_cases(30, 7) if case[-1] == 0]
    _assert_verified(randomized(_model(cases, {})), 0)
