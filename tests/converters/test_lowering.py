"""Every quantized layer: its deploy form is the same function, and binary where LCE can be."""

import itertools

import keras
import numpy as np
import pytest

from bnnkeras import converters, layers, quantizers
from bnnkeras.converters.deployment import deployment_of
from bnnkeras.models import lce_support

pytestmark = pytest.mark.any_backend

SIGNS = {
    "input_quantizer": "ste_sign",
    "kernel_quantizer": "ste_sign",
    "kernel_constraint": "weight_clip",
}
SCALED = {**SIGNS, "kernel_quantizer": "magnitude_aware_sign"}
DEPTHWISE = {
    "input_quantizer": "ste_sign",
    "depthwise_quantizer": "ste_sign",
    "depthwise_constraint": "weight_clip",
}
POINTWISE = {"pointwise_quantizer": "ste_sign", "pointwise_constraint": "weight_clip"}


def _cases(layer, shape, options, **grid):
    """(layer class, input shape, arguments) for every combination that the layer accepts."""
    for values in itertools.product(*grid.values()):
        arguments = dict(zip(grid, values, strict=True))
        if arguments.get("strides", 1) > 1 and arguments.get("dilation_rate", 1) > 1:
            continue
        extent = (arguments.get("kernel_size", 1) - 1) * arguments.get("dilation_rate", 1) + 1
        convolves = "Transpose" not in layer.__name__
        if convolves and arguments.get("padding") == "valid" and extent > min(shape[:-1]):
            continue
        yield layer, shape, {**arguments, **options}


PADDINGS = ("valid", "same", "symmetric")
CASES = {
    "conv1d": [
        *_cases(
            layers.QuantConv1D,
            (7, 6),
            {"filters": 4, **SCALED},
            kernel_size=(1, 3, 4),
            strides=(1, 2),
            dilation_rate=(1, 2),
            padding=(*PADDINGS, "causal"),
        ),
        *_cases(
            layers.QuantConv1D,
            (1, 3),
            {"filters": 2, **SCALED},
            kernel_size=(1, 3),
            padding=("same", "causal"),
        ),
    ],
    "groups": [
        *_cases(
            layers.QuantConv2D,
            (6, 7, 6),
            {"filters": 6, **SCALED},
            kernel_size=(1, 3, 5),
            strides=(1, 2),
            dilation_rate=(1, 2),
            groups=(2, 3),
            padding=PADDINGS,
        )
    ],
    "transposed": [
        case
        for shape in ((4, 5, 6), (1, 2, 6))
        for case in _cases(
            layers.QuantConv2DTranspose,
            shape,
            {"filters": 4, **SIGNS},
            kernel_size=(1, 2, 3, 4, 5),
            strides=(1, 2, 3),
            padding=("valid", "same"),
        )
    ],
    "transposed_1d": [
        *_cases(
            layers.QuantConv1DTranspose,
            (5, 6),
            {"filters": 4, **SIGNS},
            kernel_size=(2, 3, 4),
            strides=(1, 2),
            padding=("valid", "same"),
        )
    ],
    "separable": [
        *_cases(
            layers.QuantSeparableConv2D,
            (6, 6, 4),
            {"filters": 4, "intermediate_quantizer": "ste_sign", **DEPTHWISE, **POINTWISE},
            kernel_size=(1, 3),
            strides=(1, 2),
            padding=PADDINGS,
        ),
        *_cases(
            layers.QuantSeparableConv1D,
            (6, 4),
            {"filters": 4, "intermediate_quantizer": "ste_sign", **DEPTHWISE, **POINTWISE},
            kernel_size=(1, 3),
            strides=(1, 2),
            padding=PADDINGS,
        ),
    ],
    "dense": [
        case
        for shape in ((6,), (3, 6), (2, 3, 6))
        for case in _cases(layers.QuantDense, shape, SCALED, units=(1, 5))
    ],
    # LCE has no such binary operation: these are float, on purpose.
    "depthwise": [
        *_cases(
            layers.QuantDepthwiseConv2D,
            (6, 7, 4),
            {"depth_multiplier": 2, **DEPTHWISE},
            kernel_size=(1, 3),
            strides=(1, 2),
            padding=PADDINGS,
        ),
        *_cases(
            layers.QuantDepthwiseConv1D,
            (7, 4),
            DEPTHWISE,
            kernel_size=(1, 3),
            strides=(1, 2),
            padding=PADDINGS,
        ),
    ],
    "3d": [
        *_cases(
            layers.QuantConv3D,
            (5, 6, 4, 3),
            {"filters": 2, **SIGNS},
            kernel_size=(1, 3),
            padding=PADDINGS,
        ),
        *_cases(
            layers.QuantConv3DTranspose,
            (3, 2, 4, 3),
            {"filters": 2, **SIGNS},
            kernel_size=(2, 3),
            strides=(1, 2),
            padding=("valid", "same"),
        ),
    ],
}
IN_FLOAT = ("depthwise", "3d")


def _model(cases) -> keras.Model:
    """Every case as one branch, BatchNorm behind it, on the input of its shape."""
    inputs = {shape: keras.Input(shape) for shape in dict.fromkeys(case[1] for case in cases)}
    outputs = [
        keras.layers.BatchNormalization()(layer(**arguments)(inputs[shape]))
        for layer, shape, arguments in cases
    ]
    return keras.Model(list(inputs.values()), outputs)


def _assert_same_function(model, deployed):
    generator = np.random.default_rng(1)
    values = [generator.normal(size=(2, *tensor.shape[1:])) for tensor in model.inputs]
    wanted, found = (keras.tree.flatten(form(values)) for form in (model, deployed))
    for one, other in zip(wanted, found, strict=True):
        one, other = keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-9 * np.abs(one).max())


@pytest.mark.parametrize("name", CASES)
def test_deploy_form_is_the_training_form(name, float64, randomized, backend):
    cases = CASES[name]
    model = randomized(_model(cases))
    deployment = deployment_of(model, "float64")
    _assert_same_function(model, deployment.model)
    # What `models.summary` says of a layer is what happens to it.
    promised = {layer.name: lce_support(layer) for layer in model.layers}
    for call in deployment.calls:
        support = promised.get(call.layer)
        if support is not None:
            assert support.one_bit == (call.binary and call.float_reason is None), call
    reasons = set(deployment.float_reasons.values())
    if name in IN_FLOAT:
        assert not deployment.binary_calls and len(reasons) == 1
    elif name == "transposed":
        # A stride beyond the kernel leaves outputs that are no sum of signs.
        beyond = [case for case in cases if case[2]["strides"] > case[2]["kernel_size"]]
        assert len(deployment.float_reasons) == len(beyond) > 0
        assert all("no tap" in reason for reason in reasons)
    else:
        assert len(deployment.binary_calls) == len(cases) and not reasons


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv1d", "transposed", "separable", "dense", "depthwise"])
def test_lce_computes_the_deploy_form(name, randomized, backend):
    if backend != "tensorflow":
        pytest.skip("the deploy worker runs TensorFlow whatever the backend: once is enough")
    # A third of the cases, with every value of every argument among them.
    cases = [case for case in CASES[name][::3] if case[2].get("strides", 1) <= 2]
    cases = [
        case for case in cases if case[2].get("strides", 1) <= np.max(case[2].get("kernel_size", 9))
    ]
    model = randomized(_model(cases))
    verification = converters.convert(model).verification
    assert verification.passed and verification.probe_max_difference == 0
    wanted = 0 if name in IN_FLOAT else len(cases)
    assert verification.binary_layers_converted == verification.binary_layers_total == wanted


class _PerInputChannel(quantizers.Scale):
    def __call__(self, x):
        return keras.ops.mean(keras.ops.abs(x), axis=(0, 1, 3), keepdims=True)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            lambda: layers.QuantConv2D(4, 3, padding="same", pad_values=0.5, **SIGNS),
            "LCE pads signs with 0 or with a sign, not with 0.5",
        ),
        (
            lambda: layers.QuantConv2D(
                4, 3, **{**SIGNS, "input_quantizer": "magnitude_aware_sign"}
            ),
            "its input's scale MeanMagnitude differs within one sum of products",
        ),
        (
            lambda: layers.QuantConv2D(4, 3, **{**SIGNS, "input_quantizer": "ste_heaviside"}),
            "its input's quantizer SteHeaviside has other values than -1 and +1",
        ),
        (
            lambda: layers.QuantConv2D(
                4,
                3,
                input_quantizer="ste_sign",
                kernel_quantizer=quantizers.Binarizer(scale=_PerInputChannel()),
            ),
            "its kernel's scale of shape (1, 1, 4, 1) is not one per output channel",
        ),
        (lambda: layers.QuantConv2D(4, 3, padding="same", pad_values=1), None),
        (lambda: layers.QuantConv2D(4, 3, input_quantizer="ste_sign"), None),
        (lambda: layers.QuantConv2D(4, 3, kernel_quantizer="dorefa_quantizer"), None),
    ],
)
def test_what_cannot_be_binary_is_float_and_says_why(layer, reason, float64, randomized):
    layer, inputs = layer(), keras.Input((6, 6, 4))
    model = randomized(keras.Model(inputs, layer(inputs)))
    deployment = deployment_of(model, "float64")
    assert deployment.float_reasons.get(layer.name, "None").startswith(str(reason))
    _assert_same_function(model, deployment.model)


@pytest.mark.parametrize("padding", PADDINGS)
def test_exact_zeros_are_two_binary_convolutions(padding, float64, randomized):
    inputs = keras.Input((6, 6, 4))
    layer = layers.QuantConv2D(
        4, 3, strides=2, padding=padding, **{**SCALED, "input_quantizer": "ste_sign"}
    )
    layer.input_quantizer = quantizers.SteSign(sign_of_zero=0)
    model = randomized(keras.Model(inputs, layer(inputs)))
    values = np.random.default_rng(0).integers(-1, 2, (2, 6, 6, 4)).astype("float64")
    wanted = keras.ops.convert_to_numpy(model(values))
    exact = deployment_of(model, "float64", exact_zeros=True)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(exact.model(values)), wanted, rtol=0, atol=1e-12
    )
    assert len(exact.binary_calls[0].convolutions) == 2 and not exact.notes
    plain = deployment_of(model, "float64")
    assert plain.notes[layer.name] == "inputs that are exactly 0 become +1"
    assert np.abs(keras.ops.convert_to_numpy(plain.model(values)) - wanted).max() > 0.1


@pytest.mark.parametrize(
    "quantizer",
    ["contextual_sign", "rsign", "ede_sign", "swish_sign"],
)
def test_thresholds_of_the_data_stay_binary(quantizer, float64, randomized):
    inputs = keras.Input((5, 5, 8))
    layer = layers.QuantConv2D(4, 3, padding="same", **{**SCALED, "input_quantizer": quantizer})
    model = randomized(keras.Model(inputs, layer(inputs)))
    deployment = deployment_of(model, "float64")
    assert len(deployment.binary_calls) == 1 and not deployment.float_reasons
    _assert_same_function(model, deployment.model)


@pytest.mark.parametrize("per_layer", [True, False])
def test_a_scale_of_the_data_must_be_one_per_layer(per_layer, float64, randomized):
    inputs = keras.Input((5, 5, 8))
    quantizer = quantizers.DAB(per_layer=per_layer)
    layer = layers.QuantConv2D(4, 3, padding="same", **{**SCALED, "input_quantizer": quantizer})
    model = randomized(keras.Model(inputs, keras.layers.BatchNormalization()(layer(inputs))))
    deployment = deployment_of(model, "float64")
    assert bool(deployment.float_reasons) is not per_layer
    _assert_same_function(model, deployment.model)


@pytest.mark.parametrize(("size", "kernel", "pad"), [(8, 3, 1), (9, 3, 1), (8, 7, 3), (5, 2, 1)])
def test_padding_before_a_strided_convolution_is_trimmed(size, kernel, pad, float64, randomized):
    inputs = keras.Input((size, size, 3))
    x = keras.layers.ZeroPadding2D(pad)(inputs)
    x = keras.layers.Conv2D(4, kernel, strides=2)(x)
    model = randomized(keras.Model(inputs, x))
    deployed = deployment_of(model, "float64").model
    _assert_same_function(model, deployed)
    (padding,) = (
        layer for layer in deployed.layers if isinstance(layer, keras.layers.ZeroPadding2D)
    )
    read = (model.output_shape[1] - 1) * 2 + kernel - size
    assert padding.padding == ((pad, read - pad),) * 2


@pytest.mark.parametrize("kind", [layers.QuantConv2D, layers.QuantConv2DTranspose])
@pytest.mark.parametrize(
    "quantizer",
    [
        "lsr_kernel",
        quantizers.Binarizer(scale=quantizers.MeanMagnitude("all")),
        quantizers.Binarizer(scale=quantizers.MeanMagnitude((0, 1, 3))),
        quantizers.Binarizer(scale=quantizers.MeanMagnitude((0, 1, 2))),
        quantizers.Binarizer(scale=quantizers.MeanMagnitude((0, 1))),
        quantizers.NoOp(precision=1),
    ],
)
@pytest.mark.parametrize("signs", [False, True])
def test_support_of_a_kernel_is_what_happens_to_it(kind, quantizer, signs, float64, randomized):
    """The scale's shape decides; without a scale of its own, the kernel's values do."""
    inputs = keras.Input((5, 5, 4))
    if not isinstance(quantizer, str):
        quantizer = type(quantizer).from_config(quantizer.get_config())
    layer = kind(3, 2, input_quantizer="ste_sign", kernel_quantizer=quantizer)
    model = randomized(keras.Model(inputs, layer(inputs)))
    if signs:
        layer.kernel.assign(np.where(keras.ops.convert_to_numpy(layer.kernel) >= 0, 1.0, -1.0))
    deployment = deployment_of(model, "float64")
    _assert_same_function(model, deployment.model)
    assert lce_support(layer).one_bit is not bool(deployment.float_reasons)
