"""Resizing with aligned corners, and adaptive pooling, against PyTorch's numbers."""

import keras
import numpy as np
import pytest
from keras import ops

from bnnkeras.layers import AdaptiveAveragePooling, AlignedResizing


def cases(prefix):
    """Name, height and width of the input and of the output."""
    for sizes, target in SIZES[prefix]:
        yield pytest.param(prefix, sizes, target, id=f"{prefix}_{sizes}_to_{target}")


SIZES = {
    "bilinear_ac": [
        ("3x4", "7x9"),
        ("2x2", "5x5"),
        ("1x1", "4x3"),
        ("1x6", "3x11"),
        ("6x6", "3x2"),
        ("4x5", "4x5"),
        ("5x7", "1x1"),
        ("16x24", "64x96"),
    ],
    "adaptive_avg": [
        (sizes, str(count))
        for sizes in ("1x1", "2x3", "7x5", "15x15", "16x16", "13x17", "6x6", "11x38")
        for count in (1, 2, 4, 6)
    ],
}
LAYERS = {"bilinear_ac": AlignedResizing, "adaptive_avg": AdaptiveAveragePooling}


@pytest.mark.parametrize("kind, sizes, target", [*cases("bilinear_ac"), *cases("adaptive_avg")])
def test_official_maps(kind, sizes, target, float64, goldens, fill, numerics):
    golden = goldens("bidense", "ops")
    key = f"{kind}_{sizes}_to_{target}"
    height, width = (int(size) for size in sizes.split("x"))
    outputs = [int(size) for size in target.split("x")] * (1 if "x" in target else 2)
    x = fill.fill_input(f"x:{key}", (1, 2, height, width)).transpose(0, 2, 3, 1)
    y = ops.convert_to_numpy(LAYERS[kind](*outputs)(x)).transpose(0, 3, 1, 2)
    numerics.assert_close(y, golden[key], tolerance=1e-12)


def test_every_official_map_is_tested(goldens):
    stored = {key for key in goldens("bidense", "ops").files if key.startswith(tuple(SIZES))}
    assert stored == {f"{kind}_{a}_to_{b}" for kind, pairs in SIZES.items() for a, b in pairs}


def test_corners_stay_and_the_gradient_is_the_transpose(numerics):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 3, 4, 2)).astype("float32")
    layer = AlignedResizing(5, 9)
    upstream = generator.normal(size=(2, 5, 9, 2)).astype("float32")
    result = numerics.gradients(layer, [x], upstream)
    np.testing.assert_allclose(result.value[:, ::4, ::8], x[:, ::2, ::3], rtol=1e-6)
    # <A x, g> = <x, A^T g>, sums in float32 of terms that cancel.
    one, other = (result.value * upstream).sum(), (x * result.inputs[0]).sum()
    np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("layer", LAYERS.values())
def test_bad_arguments(layer):
    with pytest.raises(ValueError, match="`height` must be .*Received: height=0"):
        layer(0, 2)
    with pytest.raises(ValueError, match="`width` must be .*Received: width=2.0"):
        layer(2, 2.0)
    with pytest.raises(ValueError, match="must be known. Received: inputs of shape"):
        layer(2, 2)(keras.Input((None, 4, 1)))
