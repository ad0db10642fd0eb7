"""Rules of Keras's own convolutions, which run in float."""

import keras
from keras import layers

from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.converters.graph import producer
from bnnkeras.converters.layers import Convolution
from bnnkeras.converters.lowering.activations import activated
from bnnkeras.converters.lowering.geometry import Axis, layer_axes
from bnnkeras.converters.lowering.maps import as_map, check_layout, from_map
from bnnkeras.converters.lowering.registry import lowering_rule
from bnnkeras.converters.lowering.standard import kept


@lowering_rule(layers.Conv2D)
def keep_convolution(builder, layer, inputs):
    check_layout(layer, inputs)
    return kept(builder, layer, _trimmed(builder, layer, inputs), Convolution)


@lowering_rule(
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
def keep_depthwise(builder, layer, inputs):
    check_layout(layer, inputs)
    return kept(builder, layer, _trimmed(builder, layer, inputs))


@lowering_rule(layers.Conv1DTranspose, layers.Conv2DTranspose)
def keep_transposed(builder, layer, inputs):
    check_layout(layer, inputs)
    if max(layer.dilation_rate) > 1:
        raise UnsupportedLayerError(
            layer, "LCE has no dilated transposed convolution: upsample, and convolve"
        )
    return kept(builder, layer, inputs)


@lowering_rule(layers.Conv3D)
def keep_conv3d(builder, layer, inputs):
    check_layout(layer, inputs)
    return kept(builder, layer, inputs)


@lowering_rule(layers.Conv1D)
def convolve_one_row(builder, layer, inputs):
    """As a 2-D convolution on a map of one row: reshapes cancel between neighbours."""
    x = as_map(builder, layer, _trimmed(builder, layer, inputs))
    padding = layer.padding
    if padding == "causal":
        (axis,) = layer_axes(layer, x.shape[2:3])
        x, padding = builder.pad(x, [(0, 0), axis.explicit], layer.name), "valid"
    convolution = Convolution(
        layer.filters,
        (1, *layer.kernel_size),
        strides=(1, *layer.strides),
        padding=padding,
        dilation_rate=(1, *layer.dilation_rate),
        groups=layer.groups,
        use_bias=layer.use_bias,
        name=builder.name(layer.name),
        dtype=builder.dtype,
    )
    kernel, *bias = (keras.ops.convert_to_numpy(weight) for weight in layer.weights)
    x = builder.place(convolution, x, [kernel[None], *bias])
    return from_map(builder, layer, activated(builder, layer, x))


def _trimmed(builder, layer, x):
    """x without the far padding that no window of a strided convolution reads.

    LCE's converter takes pads such as (1, 1) before a VALID convolution of stride 2 for SAME's
    (0, 1), and the file is wrong without a word.
    """
    source, inputs = producer(x)
    if layer.padding != "valid" or not isinstance(
        source, (layers.ZeroPadding1D, layers.ZeroPadding2D)
    ):
        return x
    pads = [source.padding] if isinstance(source, layers.ZeroPadding1D) else source.padding
    axes = [
        Axis(size, (kernel - 1) * dilation + 1, stride, *pair)
        for size, kernel, dilation, stride, pair in zip(
            inputs[0].shape[1:-1],
            layer.kernel_size,
            layer.dilation_rate,
            layer.strides,
            pads,
            strict=True,
        )
    ]
    return builder.pad(inputs[0], [axis.explicit for axis in axes], layer.name)
