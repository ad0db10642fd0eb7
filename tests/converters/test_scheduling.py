"""The order of operators: what memory it needs, and that values do not depend on it."""

import keras
import numpy as np
import pytest

from bnnkeras import converters
from bnnkeras.layers import QuantConv2D
from bnnkeras.quantizers import DAB

pytest.importorskip("larq_compute_engine", reason="deployment needs the deploy extra")
if keras.backend.backend() != "tensorflow":
    pytest.skip("conversion has one backend", allow_module_level=True)

from bnnkeras.converters import export, flatbuffer, scheduling  # noqa: E402


def network():
    """A convolution with a bypass, its inputs scaled by the mean of their magnitudes."""
    inputs = keras.Input((16, 16, 32))
    x = QuantConv2D(
        32,
        3,
        padding="same",
        pad_values=0,
        input_quantizer=DAB(per_layer=True),
        kernel_quantizer="ste_sign",
        use_bias=False,
    )(inputs)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Add()([x, inputs]))


@pytest.fixture(scope="module")
def convolved_first():
    """The file with the convolution, and what it needs, in front of the scale's operators."""
    data = export.flatbuffer_of(converters.deploy(network()), 1)
    file = flatbuffer.read(data)
    (convolution,) = [item for item in file.operators if item.binary is not None]
    needed, first = {*convolution.inputs}, [convolution.index]
    for item in reversed(file.operators[: convolution.index]):
        if needed.intersection(item.outputs):
            needed.update(item.inputs)
            first.insert(0, item.index)
    model = flatbuffer.unpack(data)
    operators = model.subgraphs[0].operators
    rest = sorted(set(range(len(operators))) - set(first))
    model.subgraphs[0].operators = [operators[index] for index in (*first, *rest)]
    return flatbuffer.pack(model)


def test_three_maps_are_alive_at_most(convolved_first):
    """The map, the centred one and its positive part, or the result of the convolution."""
    size = 16 * 16 * 32 * 4
    bits = 16 * 16 * 4
    assert max(scheduling.live_bytes(flatbuffer.read(convolved_first))) >= 4 * size
    file = flatbuffer.read(scheduling.scheduled(convolved_first))
    # Beside them there are means and scales of 32 channels, and the packed signs.
    assert 3 * size <= max(scheduling.live_bytes(file)) <= 3 * size + bits + 4 * 32 * 4


def test_values_do_not_depend_on_the_order(convolved_first):
    scheduled = scheduling.scheduled(convolved_first)
    assert scheduled != convolved_first
    x = np.random.default_rng(0).normal(size=(1, 16, 16, 32)).astype("float32")
    results = [converters.Interpreter(data).predict(x) for data in (scheduled, convolved_first)]
    np.testing.assert_array_equal(*results)


def test_every_operator_runs_once_behind_what_it_reads(convolved_first):
    before = flatbuffer.read(convolved_first)
    after = flatbuffer.read(scheduling.scheduled(convolved_first))
    assert sorted(item.outputs for item in before.operators) == sorted(
        item.outputs for item in after.operators
    )
    known = {*after.inputs, -1, *(item.index for item in after.tensors if item.value is not None)}
    for operator in after.operators:
        assert known.issuperset(operator.inputs)
        known.update(operator.outputs)


def test_an_order_that_is_no_better_is_left(convolved_first):
    scheduled = scheduling.scheduled(convolved_first)
    assert scheduling.scheduled(scheduled) is scheduled
