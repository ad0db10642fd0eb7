"""Every quantized layer class x padding x stride x dilation x groups x channels x input size.

Drawn at random, with a seed for each class, so that every value of every argument meets every other
one; `test_geometry.py` has all combinations of a square `QuantConv2D`.
"""

import random

import keras
import numpy as np
import pytest

from bnnkeras import converters, layers
from bnnkeras.converters.deployment import deployment_of
from bnnkeras.models import lce_support

CHANNELS = (1, 3, 33, 64)
SIZES = (*range(1, 10), 56)
INPUT = {"input_quantizer": "ste_sign"}
KERNEL = {"kernel_quantizer": "magnitude_aware_sign", "kernel_constraint": "weight_clip"}
SIGNS = {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip"}
DEPTHWISE = {"depthwise_quantizer": "ste_sign", "depthwise_constraint": "weight_clip"}
POINTWISE = {
    "intermediate_quantizer": "approx_sign",
    "pointwise_quantizer": "magnitude_aware_sign",
    "pointwise_constraint": "weight_clip",
}
# Layer class: rank of its window, arguments, and whether it is transposed.
CLASSES = {
    layers.QuantConv1D: (1, {**INPUT, **KERNEL}),
    layers.QuantConv2D: (2, {**INPUT, **KERNEL}),
    layers.QuantConv3D: (3, {**INPUT, **KERNEL}),
    layers.QuantDepthwiseConv1D: (1, {**INPUT, **DEPTHWISE}),
    layers.QuantDepthwiseConv2D: (2, {**INPUT, **DEPTHWISE}),
    layers.QuantSeparableConv1D: (1, {**INPUT, **DEPTHWISE, **POINTWISE}),
    layers.QuantSeparableConv2D: (2, {**INPUT, **DEPTHWISE, **POINTWISE}),
    layers.QuantConv1DTranspose: (1, {**INPUT, **SIGNS}),
    layers.QuantConv2DTranspose: (2, {**INPUT, **SIGNS}),
    layers.QuantConv3DTranspose: (3, {**INPUT, **SIGNS}),
    layers.QuantDense: (0, {**INPUT, **KERNEL}),
}
ONE_BIT = [
    kind for kind in CLASSES if "3D" not in kind.__name__ and "Depthwise" not in kind.__name__
]


def _draw(kind, draw, sizes=SIZES):
    """An input shape and a layer of a class, or `None` where no window fits."""
    rank, options = CLASSES[kind]
    name = kind.__name__
    channels = draw.choice(CHANNELS)
    if rank == 0:
        positions = [draw.choice(sizes[:6]) for _ in range(draw.choice((0, 1, 2)))]
        return (*positions, channels), kind(draw.choice(CHANNELS), **options)
    # Few voxels, or they would take all of the time.
    shape = tuple(draw.choice(sizes[:6] if rank == 3 else sizes) for _ in range(rank))
    transposed = "Transpose" in name
    depthwise = "Depthwise" in name or "Separable" in name
    # TensorFlow computes depthwise convolutions with equal strides only.
    strides = [draw.choice((1, 2, 3)) for _ in range(rank)]
    if depthwise:
        strides = strides[:1] * rank
    kernel_size = [draw.choice((1, 2, 3, 4, 5)) for _ in range(rank)]
    dilation = draw.choice((1, 1, 2, 3))
    if dilation > 1:
        if transposed:
            # Keras has no dilated transposed convolution of its own on every backend.
            dilation = 1
        else:
            strides = [1] * rank
    paddings = ["valid", "same"] if transposed else ["valid", "same", "symmetric"]
    if name == "QuantConv1D":
        paddings.append("causal")
    padding = draw.choice(paddings)
    extents = [(size - 1) * dilation + 1 for size in kernel_size]
    pads = [2 * ((extent - 1) // 2) if padding == "symmetric" else 0 for extent in extents]
    if not transposed and padding in ("valid", "symmetric"):
        if any(n + p < e for n, p, e in zip(shape, pads, extents, strict=True)):
            return None
    arguments = {
        "strides": tuple(strides),
        "dilation_rate": (dilation,) * rank,
        "padding": padding,
        "use_bias": draw.random() < 0.5,
        "activation": draw.choice((None, None, "relu", "tanh")),
        **options,
    }
    if depthwise and rank == 1:
        arguments["strides"], arguments["dilation_rate"] = strides[0], dilation
    if not transposed and padding in ("same", "symmetric"):
        arguments["pad_values"] = draw.choice((0, 0, 1, -1))
    groups = draw.choice((1, 1, 3)) if channels in (3, 33) else 1
    if name in ("QuantConv1D", "QuantConv2D") and groups > 1:
        arguments["groups"] = groups
        arguments["filters"] = draw.choice((3, 33))
    elif "Depthwise" not in name:
        arguments["filters"] = draw.choice(CHANNELS)
    size = kernel_size[0] if rank == 1 else tuple(kernel_size)
    return (*shape, channels), kind(kernel_size=size, **arguments)


def _model(kind, count, seed, sizes=SIZES):
    """`count` layers, BatchNorm behind every other one."""
    draw = random.Random(f"{kind.__name__} {seed}")
    inputs: dict[tuple, keras.KerasTensor] = {}
    outputs: list[keras.KerasTensor] = []
    while len(outputs) < count:
        drawn = _draw(kind, draw, sizes)
        if drawn is None:
            continue
        shape, layer = drawn
        if shape not in inputs:
            inputs[shape] = keras.Input(shape)
        x = layer(inputs[shape])
        outputs.append(keras.layers.BatchNormalization()(x) if len(outputs) % 2 else x)
    return keras.Model([*inputs.values()], outputs)


def _assert_exact(model):
    deployment = deployment_of(model, "float64")
    generator = np.random.default_rng(1)
    # With zeros among them, where sign(0) = +1 must hold.
    values = [
        generator.normal(size=(2, *x.shape[1:])) * generator.integers(0, 4, x.shape[1:])
        for x in model.inputs
    ]
    wanted, found = (keras.tree.flatten(form(values)) for form in (model, deployment.model))
    for number, (one, other) in enumerate(zip(wanted, found, strict=True)):
        one, other = keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
        assert one.shape == other.shape
        bound = 1e-9 * max(np.abs(one).max(initial=0), 1.0)
        np.testing.assert_allclose(other, one, rtol=0, atol=bound, err_msg=f"case {number}")
    # What `models.summary` says of a layer is what happens to it.
    support = {layer.name: lce_support(layer) for layer in model.layers}
    for call in deployment.calls:
        if support[call.layer] is not None:
            assert support[call.layer].one_bit == (call.binary and call.float_reason is None), call


@pytest.mark.parametrize("kind", CLASSES)
def test_the_deploy_form_is_exact(kind, float64, randomized) -> None:
    _assert_exact(randomized(_model(kind, 16, "narrow", sizes=SIZES[:-1])))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_the_deploy_form_is_exact_everywhere(kind, float64, randomized) -> None:
    _assert_exact(randomized(_model(kind, 60, "wide")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ONE_BIT)
def test_lce_computes_it_in_one_bit(kind, randomized) -> None:
    model = randomized(_model(kind, 12, "lce"))
    promised = sum(
        support is not None and support.one_bit for support in map(lce_support, model.layers)
    )
    verification = converters.convert(model, strict=False).verification
    left = {*verification.binary_layers_left}
    problems = [
        text for text in verification.problems if text.split(" runs in float")[0] not in left
    ]
    # Only a kernel without a tap at some outputs may be left, and it says so.
    assert [text for text in problems if "binary layers are LceBconv2d" not in text] == []
    assert set(verification.float_reasons) == left
    assert all("has no tap" in reason for reason in verification.float_reasons.values())
    assert verification.binary_layers_converted == promised == 12 - len(left) > 6
    assert verification.probe_max_difference == 0
