"""Maps (batch, height, width, channels): what 1-D layers become, and the axes of a window."""

from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.converters.lowering.geometry import POINT, Axis, layer_axes


def check_layout(layer, inputs):
    """Raises an UnsupportedLayerError for channels first and open sizes."""
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise UnsupportedLayerError(layer, 'only data_format="channels_last" runs on LCE')
    if None in inputs.shape[1:]:
        raise UnsupportedLayerError(
            layer,
            f"it needs a fixed input size, and got {tuple(inputs.shape)}; build the model with one",
        )


def as_map(builder, layer, inputs):
    """(B, W, C) -> (B, 1, W, C): LCE has 2-D convolutions only. Maps stay as they are."""
    check_layout(layer, inputs)
    if len(inputs.shape) == 4:
        return inputs
    return builder.reshape(inputs, (1, *inputs.shape[1:]), f"{layer.name}_expand")


def from_map(builder, layer, x):
    """The inverse of `as_map` for a layer with a window: (B, 1, W, C) -> (B, W, C)."""
    if len(layer.kernel_size) > 1:
        return x
    return builder.reshape(x, x.shape[2:], f"{layer.name}_squeeze")


def map_axes(layer, x) -> list[Axis]:
    """Rows and columns of a map; the rows of a 1-D layer are a single one."""
    rank = len(layer.kernel_size)
    return [POINT] * (2 - rank) + layer_axes(layer, x.shape[3 - rank : 3])


def map_output_sizes(layer, x):
    """Height and width of the outputs."""
    rank = len(layer.kernel_size)
    shape = (None, *x.shape[3 - rank :])
    return (1,) * (2 - rank) + tuple(layer.compute_output_shape(shape)[1:-1])
