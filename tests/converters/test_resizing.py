"""Resizing with aligned corners, adaptive pooling and factors per channel in LCE."""

import keras
import numpy as np
import pytest

from bnnkeras import converters
from bnnkeras.layers import AdaptiveAveragePooling, AlignedResizing, LayerScale

CASES = {
    "grow": (lambda: AlignedResizing(9, 13), (4, 6, 8)),
    "shrink": (lambda: AlignedResizing(3, 2), (7, 5, 8)),
    "from_one": (lambda: AlignedResizing(4, 5), (1, 1, 8)),
    "to_one": (lambda: AlignedResizing(1, 3), (4, 6, 8)),
    "same": (lambda: AlignedResizing(4, 6), (4, 6, 8)),
    "everything": (lambda: AdaptiveAveragePooling(1, 1), (7, 5, 8)),
    "windows": (lambda: AdaptiveAveragePooling(2, 3), (4, 6, 8)),
    "slices": (lambda: AdaptiveAveragePooling(6, 4), (15, 5, 8)),
    "repeated": (lambda: AdaptiveAveragePooling(6, 6), (2, 3, 8)),
    "layer_scale": (lambda: LayerScale(0.5), (4, 6, 8)),
}


@pytest.mark.parametrize("case", CASES)
def test_deploys_exactly(case, float64) -> None:
    make, shape = CASES[case]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, make()(inputs))
    for variable in model.weights:
        variable.assign(np.linspace(-1, 1, variable.shape[0]))
    x = np.random.default_rng(0).normal(size=(2, *shape))
    deployed = converters.deploy(model, "float64")
    np.testing.assert_allclose(deployed(x), model(x), rtol=1e-12, atol=1e-12)


def test_lce_computes_them() -> None:
    """One file with all of them."""
    inputs, outputs = [], []
    for make, shape in CASES.values():
        inputs.append(keras.Input(shape))
        # (An output that is an input would be no operator.)
        outputs.append(keras.layers.ReLU()(make()(inputs[-1])))
    model = keras.Model(inputs, outputs)
    conversion = converters.convert(model)
    assert conversion.verification.passed
    for result in conversion.verification.kernels.values():
        assert result.float_relative_error < 2e-6
