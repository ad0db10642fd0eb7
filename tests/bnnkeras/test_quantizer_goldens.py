"""The quantizers against the released code of the papers (float64) and Larq 0.14 (float32)."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras import quantizers
from bnnkeras.layers import QuantDense


def numpy(value) -> np.ndarray:
    return ops.convert_to_numpy(value)


def to_hwio(array):
    return array.transpose(2, 3, 1, 0)


def to_oihw(array):
    return array.transpose(3, 2, 0, 1)


def to_nhwc(array):
    return array.transpose(0, 2, 3, 1)


def to_nchw(array):
    return array.transpose(0, 3, 1, 2)


# --- IR-Net and LCR-BNN ----------------------------------------------------------------------

KT = [(1000, 1e-3), (10, 0.1), (2, 0.5), (1, 1), (1, 3), (1, 10)]


def close(actual, expected):
    """The tolerance of the specification: lcrbnn.md, section 9."""
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("index", range(6))
def test_ede_sign(index, float64, goldens, fill, numerics):
    golden = goldens("lcrbnn", "quantizers")
    edges = [1e-6, -1e-6, 1 + 1e-6, 1 - 1e-6, -1 - 1e-6, -1 + 1e-6]
    x = np.concatenate([np.arange(-64, 65) / 32, edges])
    k, t = KT[index]
    upstream = fill.fill_input("upstream:quant", x.shape)
    constructed = quantizers.EDESign(k, t, sign_of_zero=0)
    scheduled = quantizers.EDESign(sign_of_zero=0)
    scheduled.build(x.shape)
    scheduled.estimator.assign(k, t)
    for quantizer in (constructed, scheduled):
        result = numerics.gradients(quantizer, [x], upstream)
        np.testing.assert_array_equal(result.value, golden["ede_forward"])
        close(result.inputs[0], golden[f"ede_grad_{index}"])


@pytest.mark.parametrize("power", [1, 5, 15])
@pytest.mark.parametrize(
    "case, shape", [("a", (8, 4, 3, 3)), ("b", (6, 16, 1, 1)), ("c", (5, 3, 3, 3))]
)
def test_libra_kernel(case, shape, power, float64, goldens, fill, numerics):
    golden = goldens("lcrbnn", "quantizers")
    kernel = to_hwio(fill.fill_param(f"libra_{case}.weight", shape) ** power)
    upstream = to_hwio(fill.fill_input(f"upstream:libra_{case}", shape))
    prefix = f"libra_{case}_p{power}"
    for index in (1, 3, 5):
        quantizer = quantizers.LibraKernel(*KT[index], sign_of_zero=0)
        result = numerics.gradients(quantizer, [kernel], upstream)
        close(to_oihw(result.value), golden[f"{prefix}_kernel"])
        close(to_oihw(result.inputs[0]), golden[f"{prefix}_grad_kt{index}"])
    scale = numpy(quantizer.components(ops.convert_to_tensor(kernel))[1])
    # A power of two is exact.
    np.testing.assert_array_equal(scale.ravel(), golden[f"{prefix}_scale"])


# --- BCDNet ----------------------------------------------------------------------------------


def test_bcdnet_sign(float64, goldens, fill, numerics):
    golden = goldens("bcdnet", "quantizers")
    edges = [c + s * d for c in (-1, 0, 1) for d in (1e-3, 1e-6, 1e-12) for s in (-1, 1)]
    x = np.concatenate([np.arange(-40, 41) / 20, edges, [-0.0]])
    upstream = fill.fill_input("upstream:approx_sign", x.shape)
    quantizer = quantizers.ApproxSign(sign_of_zero=0)
    result = numerics.gradients(quantizer, [x], upstream)
    np.testing.assert_array_equal(result.value, golden["approx_sign/y"])
    numerics.assert_close(result.inputs[0], golden["approx_sign/dx"])
    derivative = numerics.gradients(quantizer, [x]).inputs[0]
    numerics.assert_close(derivative, golden["approx_sign/dx_ones"])


@pytest.mark.parametrize("case, shape", [("hb3", (4, 5, 3, 3)), ("hb1", (6, 8, 1, 1))])
def test_bcdnet_kernel(case, shape, float64, goldens, fill, numerics):
    golden = goldens("bcdnet", "quantizers")
    kernel = fill.fill_input(f"{case}.weight", shape, -2, 2)
    kernel.reshape(-1)[:7] = [0, 1, -1, 1 + 1e-9, -1 - 1e-9, 1 - 1e-9, -1 + 1e-9]
    upstream = fill.fill_input(f"upstream:{case}", shape)
    quantizer = quantizers.MagnitudeAwareSign(scale_gradient=False, sign_of_zero=0)
    result = numerics.gradients(quantizer, [to_hwio(kernel)], to_hwio(upstream))
    numerics.assert_close(to_oihw(result.value), golden[f"{case}/wb"])
    numerics.assert_close(to_oihw(result.inputs[0]), golden[f"{case}/dw"])


# --- BiDense ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case, estimator",
    [
        ("approx_sign", quantizers.Triangle()),
        ("bivit_sign", quantizers.ClippedIdentity(inclusive=False)),
    ],
)
def test_bidense_signs(case, estimator, float64, goldens, numerics):
    golden = goldens("bidense", "quantizers")
    edges = [1e-9, -1e-9, 1 + 1e-9, 1 - 1e-9, -1 - 1e-9, -1 + 1e-9]
    x = np.concatenate([np.arange(-40, 41) / 20, edges])
    quantizer = quantizers.Binarizer(estimator=estimator, sign_of_zero=0)
    result = numerics.gradients(quantizer, [x])
    np.testing.assert_array_equal(result.value, golden[f"{case}/out"])
    numerics.assert_close(result.inputs[0], golden[f"{case}/grad"])


DABS = {
    "dab2d": ({}, (2, 8, 5, 6)),
    "dab2d_layer": ({"per_layer": True}, (2, 8, 5, 6)),
    "dab1d": ({"offset": 0.0}, (2, 7, 8)),
}


@pytest.mark.parametrize("case", DABS)
def test_dab(case, float64, goldens, fill, numerics):
    golden = goldens("bidense", "quantizers")
    options, shape = DABS[case]
    there, back = (to_nhwc, to_nchw) if len(shape) == 4 else (np.asarray, np.asarray)
    x = there(fill.fill_input(f"x:{case}", shape, -2, 2))
    upstream = there(fill.fill_input(f"upstream:{case}", shape))
    quantizer = quantizers.DAB(**options, sign_of_zero=0)
    quantizer.build(x.shape)
    variables = {
        "alpha": quantizer.scale.alpha,
        "k": quantizer.threshold.k,
        "b": quantizer.threshold.b,
    }
    for name, variable in variables.items():
        official = golden[f"{case}/eval/grad/{name}"].shape
        variable.assign(fill.fill_param(f"{case}.{name}", official).ravel())
    result = numerics.gradients(quantizer, [x], upstream)
    numerics.assert_close(back(result.value), golden[f"{case}/eval/out"])
    numerics.assert_close(back(result.inputs[0]), golden[f"{case}/eval/grad_x"])
    for name, variable in variables.items():
        expected = golden[f"{case}/eval/grad/{name}"].ravel()
        numerics.assert_close(result.variables[variable.path], expected, label=name)


# Case: the quantizer, the order of the kernel's axes, the official shape.
BIDENSE_KERNELS = {
    "w_conv": ({}, (2, 3, 1, 0), (6, 4, 3, 3)),
    # Depthwise kernels are (height, width, channels, multiplier).
    "w_conv_depthwise": ({"axes": (0, 1)}, (2, 3, 0, 1), (6, 1, 7, 7)),
    # Transposed kernels are (height, width, out, in), and the released scale is per input channel.
    "w_conv_transpose": ({}, (2, 3, 1, 0), (6, 4, 2, 2)),
}


@pytest.mark.parametrize("case", BIDENSE_KERNELS)
def test_bidense_convolution_kernels(case, float64, goldens, fill, numerics):
    golden = goldens("bidense", "quantizers")
    options, order, shape = BIDENSE_KERNELS[case]
    kernel = fill.fill_input(f"w:{case}", shape, -2, 2).transpose(order)
    upstream = fill.fill_input(f"upstream:{case}", shape).transpose(order)
    quantizer = quantizers.MagnitudeAwareSign(scale_gradient=False, sign_of_zero=0, **options)
    result = numerics.gradients(quantizer, [kernel], upstream)
    numerics.assert_close(result.value, golden[f"{case}/out"].transpose(order))
    numerics.assert_close(result.inputs[0], golden[f"{case}/grad"].transpose(order))


BIDENSE_LINEAR = {
    "w_linear": quantizers.Binarizer(
        quantizers.MeanThreshold(),
        quantizers.MeanMagnitude(),
        scale_gradient=False,
        sign_of_zero=0,
    ),
    "w_bivit_linear": quantizers.BiViTKernel(learned_scale=False, sign_of_zero=0),
}


@pytest.mark.parametrize("case", BIDENSE_LINEAR)
def test_bidense_linear_kernels(case, float64, goldens, fill, numerics):
    golden = goldens("bidense", "quantizers")
    kernel = fill.fill_input(f"w:{case}", (6, 10), -2, 2).T
    upstream = fill.fill_input(f"upstream:{case}", (6, 10)).T
    result = numerics.gradients(BIDENSE_LINEAR[case], [kernel], upstream)
    numerics.assert_close(result.value.T, golden[f"{case}/out"])
    numerics.assert_close(result.inputs[0].T, golden[f"{case}/grad"])


def test_bivit_learned_scale(float64, goldens, fill, numerics):
    golden, case = goldens("bidense", "quantizers"), "w_bivit_adapscaling"
    kernel = fill.fill_input(f"w:{case}", (6, 10), -2, 2).T
    upstream = fill.fill_input(f"upstream:{case}", (6, 10)).T
    quantizer = quantizers.BiViTKernel(sign_of_zero=0)
    quantizer.build(kernel.shape)
    quantizer.scale.assign(fill.fill_param(f"{case}.scaling_factor", (6, 1)).ravel())
    for training in (False, True):
        result = numerics.gradients(quantizer, [kernel], upstream, training=training)
        numerics.assert_close(result.value.T, golden[f"{case}/out"])
        numerics.assert_close(result.inputs[0].T, golden[f"{case}/grad"])
        (gradient,) = result.variables.values()
        numerics.assert_close(gradient, golden[f"{case}/grad/scaling_factor"].ravel())


def test_bivit_scale_starts_at_the_mean_magnitude(float64, goldens, fill):
    expected = goldens("bidense", "quantizers")["w_bivit_adapscaling_init/scaling_factor"].ravel()
    kernel = fill.fill_input("w:w_bivit_adapscaling_init", (6, 10), -2, 2).T
    quantizer = quantizers.BiViTKernel(sign_of_zero=0)
    for training in (False, True):  # Without a start, inference takes the kernel's own mean.
        scale = np.abs(numpy(quantizer(kernel, training=training))).max(axis=0)
        np.testing.assert_allclose(scale, expected, rtol=1e-9)
    np.testing.assert_allclose(numpy(quantizer.scale.value.start), expected, rtol=1e-9)


# --- BiPointNet ------------------------------------------------------------------------------

BIPOINTNET = {
    "ste": lambda: quantizers.SteSign(sign_of_zero=0),
    "ste_identity": lambda: quantizers.SteSign(clip_value=None, sign_of_zero=0),
    "irnet_k1_t1.5": lambda: quantizers.EDESign(1, 1.5, sign_of_zero=0),
    "irnet_k10_t0.1": lambda: quantizers.EDESign(10, 0.1, sign_of_zero=0),
    "irnet_k1_t10": lambda: quantizers.EDESign(1, 10, sign_of_zero=0),
    "irnet_k1000_t0.001": lambda: quantizers.EDESign(1000, 0.001, sign_of_zero=0),
    "bireal": lambda: quantizers.ApproxSign(sign_of_zero=0),
    "bireal_weight_clip": lambda: quantizers.SteSign(sign_of_zero=0),
}


@pytest.mark.parametrize("case", BIPOINTNET)
def test_bipointnet_signs(case, float64, goldens, fill, numerics):
    golden = goldens("bipointnet", "quantizers")
    edges = [0, 1, -1, 1e-6, -1e-6, 1 - 1e-6, 1 + 1e-6, -1 + 1e-6, -1 - 1e-6, 2, -2]
    x = np.concatenate([np.linspace(-2, 2, 81), edges])
    upstream = fill.fill_input("upstream:quant", x.shape)
    result = numerics.gradients(BIPOINTNET[case](), [x], upstream)
    numerics.assert_close(result.value, golden[f"{case}/forward"])
    numerics.assert_close(result.inputs[0], golden[f"{case}/grad"])


def bipointnet_layer(name, real_inputs=False):
    zero = {"sign_of_zero": 0}
    clipped = quantizers.SteSign(**zero)
    inputs, kernel = {
        "BiLinear": (clipped, quantizers.SteSign(**zero)),
        "BiLinearXNOR": (quantizers.XNORInput(**zero), quantizers.XNORKernel(**zero)),
        "BiLinearIRNet": (
            quantizers.EDESign(1, 1.5, **zero),
            quantizers.LibraKernel(1, 1.5, **zero),
        ),
        "BiLinearBiReal": (
            quantizers.ApproxSign(**zero),
            quantizers.MagnitudeAwareSign(scale_gradient=False, **zero),
        ),
        "BiLinearLSR": (clipped, quantizers.LSRKernel(**zero)),
    }[name]
    return QuantDense(
        16,
        use_bias=name not in ("BiLinearBiReal", "BiLinearLSR"),
        input_quantizer=None if real_inputs else inputs,
        kernel_quantizer=kernel,
    )


def linear_input(fill, edges=True):
    x = fill.fill_input("linear", (10, 24), -1.5, 1.5)
    if edges:
        x[0, :3], x[1, 0], x[1, 1] = 0, 1, -1
    return x


def fill_layer(layer, fill, factor=1.0):
    layer.build((10, 24))
    layer.kernel.assign(factor * fill.fill_param("lin.weight", (16, 24)).T)
    if layer.bias is not None:
        layer.bias.assign(fill.fill_param("lin.bias", (16,)))
    if isinstance(layer.kernel_quantizer, quantizers.LSRKernel):
        layer.kernel_quantizer.scale.assign(fill.fill_param("lin.scale", ()))


CLASSES = ["BiLinear", "BiLinearXNOR", "BiLinearIRNet", "BiLinearBiReal", "BiLinearLSR"]


@pytest.mark.parametrize("variant", ["", "real_act/", "w6/"])
@pytest.mark.parametrize("name", CLASSES)
def test_bipointnet_linear(name, variant, float64, goldens, fill, numerics):
    golden, prefix = goldens("bipointnet", "layers"), f"{name}/{variant}"
    if f"{prefix}out" not in golden.files:
        assert (name, variant) == ("BiLinearBiReal", "real_act/")
        return
    layer = bipointnet_layer(name, real_inputs=variant == "real_act/")
    fill_layer(layer, fill, factor=6.0 if variant == "w6/" else 1.0)
    x = linear_input(fill, edges=variant != "w6/")
    upstream = fill.fill_input("upstream:linear", (10, 16))
    result = numerics.gradients(layer, [x], upstream)
    numerics.assert_close(result.value, golden[f"{prefix}out"])
    numerics.assert_close(result.inputs[0], golden[f"{prefix}grad_input"])
    gradients = {"weight": result.variables[layer.kernel.path].T}
    if layer.bias is not None:
        gradients["bias"] = result.variables[layer.bias.path]
    if name == "BiLinearLSR":
        gradients["scale"] = result.variables[layer.kernel_quantizer.scale.value.offset.path]
    for parameter, gradient in gradients.items():
        key = f"{prefix}grad/lin.{parameter}"
        if key in golden.files:
            numerics.assert_close(gradient, golden[key], label=key)
        else:
            assert variant == "w6/" and parameter != "weight"


# --- Larq 0.14 -------------------------------------------------------------------------------

LARQ = {
    "ste_heaviside": quantizers.SteHeaviside(),
    "ste_heaviside_clip_none": quantizers.SteHeaviside(clip_value=None),
    "swish_sign": quantizers.SwishSign(),
    "swish_sign_beta_10": quantizers.SwishSign(beta=10),
    "ste_tern": quantizers.SteTern(),
    "ste_tern_threshold_0.3": quantizers.SteTern(0.3),
    "ste_tern_twn": quantizers.SteTern(ternary_weight_networks=True),
    "ste_tern_clip_none": quantizers.SteTern(clip_value=None),
    "noop": quantizers.NoOp(precision=1),
    **{
        f"dorefa_{bits}_{mode}": quantizers.DoReFa(bits, mode)
        for bits in (1, 2, 3, 4, 8)
        for mode in ("activations", "weights")
    },
    "zoo_magnitude_aware_sign_unclipped": quantizers.MagnitudeAwareSign(
        clip_value=None, scale_gradient=False, axes="all"
    ),
}


@pytest.mark.parametrize("case", LARQ)
def test_larq_values_and_gradients(case, goldens, numerics):
    golden, quantizer = goldens("larq", "quantizers"), LARQ[case]
    # Of the largest magnitude. tanh, exp and means differ between backends in the last places, and
    # XLA multiplies by 1 / 7 where it should divide by 7; all else is exact.
    tolerance = 0.0
    if case.startswith(("swish", "zoo", "dorefa")):
        tolerance = 1e-6 if case.endswith("weights") or case.startswith("swish") else 2.5e-7
    for shape in ("", "edge_", "kernel_", "dense_"):
        x = golden[f"{case}/{shape}x"]
        if not np.isfinite(x).all():
            if case.endswith(("weights", "twn")) or case.startswith(("swish", "zoo")):
                # The largest weight or the mean is infinite; Larq's swish_sign gives NaN there.
                continue
        # TensorFlow and XLA treat denormals as 0, PyTorch does not: neither value is wrong.
        normal = (x == 0) | (np.abs(x) >= np.finfo(np.float32).tiny)
        result = numerics.gradients(quantizer, [x])
        for actual, name in ((result.value, "y"), (result.inputs[0], "grad")):
            expected = golden[f"{case}/{shape}{name}"]
            assert actual.dtype == expected.dtype == np.float32
            if case == "noop":
                np.testing.assert_array_equal(actual, expected)
            else:
                numerics.assert_close(actual[normal], expected[normal], tolerance, shape + name)
    upstream = golden[f"{case}/upstream"]
    result = numerics.gradients(quantizer, [golden[f"{case}/x"]], upstream)
    numerics.assert_close(result.inputs[0], golden[f"{case}/grad_upstream"], tolerance)


def test_functions_are_the_quantizers(numerics):
    x = np.linspace(-2, 2, 81, dtype="float32")
    for function, quantizer in (
        (quantizers.swish_sign, quantizers.SwishSign()),
        (lambda x: quantizers.swish_sign(x, beta=2.0), quantizers.SwishSign(2.0)),
        (quantizers.ste_heaviside, quantizers.SteHeaviside()),
        (lambda x: quantizers.ste_heaviside(x, clip_value=0.5), quantizers.SteHeaviside(0.5)),
        (quantizers.ste_tern, quantizers.SteTern()),
        (lambda x: quantizers.ste_tern(x, 0.3, True, 0.5), quantizers.SteTern(0.3, True, 0.5)),
    ):
        actual, expected = (numerics.gradients(f, [x]) for f in (function, quantizer))
        np.testing.assert_array_equal(actual.value, expected.value)
        np.testing.assert_array_equal(actual.inputs[0], expected.inputs[0])


def test_larq_names_and_configurations():
    assert quantizers.DoReFaQuantizer is quantizers.DoReFa
    assert quantizers.NoOpQuantizer is quantizers.NoOp
    for name in ("dorefa_quantizer", "DoReFa", "DoReFaQuantizer"):
        quantizer = quantizers.get(name)
        assert (type(quantizer), quantizer.precision) == (quantizers.DoReFa, 2)
    config = {"class_name": "NoOpQuantizer", "config": {"name": "mark", "precision": 3}}
    quantizer = quantizers.get(config)
    assert (quantizer.name, quantizer.precision) == ("mark", 3)
    assert isinstance(quantizers.get_kernel_quantizer("ste_tern"), quantizers.SteTern)
    assert keras.saving.get_registered_name(quantizers.ste_tern) == "bnnkeras>ste_tern"
