"""Representative data: checked, and run through a deploy form for the range of its values."""

from collections.abc import Mapping

import keras
import numpy as np

from bnnkeras.converters import graph
from bnnkeras.converters.float_parts.fake_quantization import (
    FakeQuantization,
    with_fake_quantization,
)

_BATCH = 16


def representative_inputs(model: keras.Model, data) -> dict[str, np.ndarray]:
    """Representative data as float32 arrays by input name.

    Args:
        model: A functional model.
        data: An array, for a model with one input, or a dict from input names to arrays; the
            samples first, as many for every input.

    Raises:
        ValueError: If names, shapes, number of samples, types or values are not what the model
            takes.
    """
    wanted = {graph.input_name(tensor): tuple(tensor.shape[1:]) for tensor in model.inputs}
    if not isinstance(data, Mapping):
        if len(wanted) != 1:
            raise ValueError(
                f"`representative_data` must be a dict with the keys {[*wanted]}. "
                f"Received: {type(data).__name__}"
            )
        data = {next(iter(wanted)): data}
    if set(data) != set(wanted):
        raise ValueError(
            f"`representative_data` must have the keys {[*wanted]}. Received: {[*data]}"
        )
    arrays = {name: _checked(name, data[name], shape) for name, shape in wanted.items()}
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"`representative_data` must have as many samples for every input. Received: {counts}"
        )
    return arrays


def observed_ranges(
    deployed: keras.Model, inputs: dict[str, np.ndarray], keep_float: frozenset[str]
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value on the data, 0 included, of all that can be int8.

    Args:
        deployed: A deploy form with folded scales.
        inputs: Representative data by input name.
        keep_float: As for `with_fake_quantization`.

    Returns:
        Ranges by the names that `with_fake_quantization` asks for.
    """
    observed = with_fake_quantization(deployed, None, keep_float).model
    # A range is that of the first value that has it: what follows was padded, perhaps with -inf.
    first: dict[str, FakeQuantization] = {}
    for layer in observed.layers:
        if isinstance(layer, FakeQuantization):
            first.setdefault(layer.range_name, layer)
    ranges = dict.fromkeys(first, (0.0, 0.0))
    if not ranges:
        return {}
    taps = keras.Model(observed.inputs, [layer.input for layer in first.values()])
    count = len(next(iter(inputs.values())))
    for start in range(0, count, _BATCH):
        batch = [inputs[tensor.name][start : start + _BATCH] for tensor in observed.inputs]
        values = keras.tree.flatten(taps(batch, training=False))
        for (name, (lowest, highest)), value in zip(ranges.items(), values, strict=True):
            value = keras.ops.convert_to_numpy(value)
            ranges[name] = (min(lowest, float(value.min())), max(highest, float(value.max())))
    # What is always 0 has no range: any will do.
    return {name: limits if limits != (0.0, 0.0) else (0.0, 1.0) for name, limits in ranges.items()}


def _checked(name, value, shape) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"`representative_data` must hold arrays of numbers. Received for {name!r}: {error}"
        ) from error
    if array.dtype.kind != "f":
        raise ValueError(
            "`representative_data` must hold floating-point numbers, prepared as the model takes "
            f"them. Received for {name!r}: dtype {array.dtype}"
        )
    if array.shape[1:] != shape or array.ndim == 0 or len(array) == 0:
        raise ValueError(
            f"`representative_data` must have the shape (samples, {', '.join(map(str, shape))}), "
            f"with one sample or more. Received for {name!r}: {array.shape}"
        )
    if not np.isfinite(array).all():
        count = np.count_nonzero(~np.isfinite(array))
        raise ValueError(
            "`representative_data` must be finite. "
            f"Received for {name!r}: {count} values of NaN or infinity"
        )
    return array.astype("float32")
