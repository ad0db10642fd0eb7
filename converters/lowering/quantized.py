"""Rules of the quantized layers: sign, +-1 convolution, one scale and one bias per channel."""

import keras
import numpy as np

from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.converters.lowering import geometry
from bnnkeras.converters.lowering.registry import lowering_rule
from bnnkeras.layers import QuantConv2D, QuantDense
from bnnkeras.quantizers import Binarizer, LearnedThreshold


def is_binary(layer) -> bool:
    """Whether the user built this layer with 1-bit inputs and a 1-bit kernel."""
    quantizers = (getattr(layer, f"{place}_quantizer", None) for place in ("input", "kernel"))
    return all(getattr(quantizer, "precision", 32) == 1 for quantizer in quantizers)


@lowering_rule(QuantConv2D)
def lower_convolution(builder, layer, inputs):
    if layer.data_format != "channels_last":
        raise UnsupportedLayerError(layer, 'only data_format="channels_last" runs on LCE')
    if layer.groups != 1:
        raise UnsupportedLayerError(layer, f"groups={layer.groups} is not supported yet")
    if None in inputs.shape[1:]:
        raise UnsupportedLayerError(
            layer,
            f"it needs a fixed input size, and got {tuple(inputs.shape)}; build the model with one",
        )
    axes = geometry.axes(layer, inputs.shape)
    form = _binary_convolution if is_binary(layer) else _float_convolution
    return _activate(builder, layer, form(builder, layer, inputs, axes))


@lowering_rule(QuantDense)
def lower_dense(builder, layer, inputs):
    if not is_binary(layer):
        kernel = _float_kernel(layer)
        dense = keras.layers.Dense(
            layer.units, use_bias=False, name=builder.name(layer.name), dtype=builder.dtype
        )
        outputs = builder.place(dense, _float_input(builder, layer, inputs), [kernel])
        return _activate(builder, layer, _add_bias(builder, layer, outputs))
    if None in inputs.shape[1:]:
        raise UnsupportedLayerError(layer, f"it needs a fixed input shape, got {inputs.shape}")
    # LCE has no dense layer, but a 1x1 convolution is one: (B, ..., C) -> (B, N, 1, C), before the
    # sign, because LCE leaves the convolution in float where anything stands between the two.
    *positions, channels = inputs.shape[1:]
    x = _reshape(builder, inputs, (int(np.prod(positions)), 1, channels), f"{layer.name}_expand")
    x = _thresholded(builder, layer, x)
    signs, scale = _kernel_parts(builder, layer)
    x = builder.sign(x, layer.name)
    x = builder.convolution(x, signs[None, None], (1, 1), "valid", (1, 1), layer.name)
    x = builder.affine(x, scale, _bias(layer), layer.name)
    x = _reshape(builder, x, (*positions, layer.units), f"{layer.name}_squeeze")
    return _activate(builder, layer, x)


def _binary_convolution(builder, layer, x, axes):
    name = layer.name
    signs, scale = _kernel_parts(builder, layer)
    bias = _bias(layer)
    # Thresholds come first: what is padded below is compared with 0, not with the threshold.
    x = _thresholded(builder, layer, x)

    def convolve(x, kernel, padding):
        x = builder.sign(x, name)
        return builder.convolution(x, kernel, layer.strides, padding, layer.dilation_rate, name)

    rows, columns = axes
    if layer.pad_values or not any((*rows.explicit, *columns.explicit)):
        if layer.pad_values not in (0, 1):
            raise UnsupportedLayerError(
                layer, f"pad_values must be 0 or 1 for LCE, not {layer.pad_values}"
            )
        # sign(0) = +1: padding with 0 before the sign is padding with 1 after it.
        x = convolve(builder.pad(x, rows.explicit, columns.explicit, name), signs, "valid")
        return builder.affine(x, scale, bias, name)

    # LCE's reference kernel refuses zero padding on an odd number of channels.
    even = x.shape[-1] % 2 == 0
    if even and all(axis.is_same or axis.is_appended_same or axis.is_flipped_same for axis in axes):
        # Flipping is faster than appending (5 to 20 % of a layer on x86), which serves where the
        # kernel is larger than the map.
        flip = [
            number
            for number, axis in enumerate(axes, start=1)
            if axis.is_flipped_same and not axis.is_same
        ]
        append = [int(not (axis.is_same or axis.is_flipped_same)) for axis in axes]
        x = builder.flip(x, flip, name)
        x = builder.pad(x, *((0, extra) for extra in append), name)
        # The kernel is HWIO: its axes 0 and 1 are the map's axes 1 and 2.
        kernel = np.flip(signs, [axis - 1 for axis in flip])
        x = builder.affine(convolve(x, kernel, "same"), scale, bias, name)
        return builder.flip(builder.crop(x, *append, name), flip, name)

    # Zeros as ones, and what those ones add taken off again. With the kernel negated this is a
    # constant minus a convolution, the one order that LCE's converter does not fuse.
    x = builder.pad(x, rows.explicit, columns.explicit, name)
    x = builder.affine(convolve(x, -signs, "valid"), scale, np.zeros_like(bias), name)
    return builder.subtract_from(bias - scale * _border(layer, signs, axes), x, name)


def _border(layer, signs, axes):
    """What padding with ones instead of zeros adds at each position: (1, H', W', filters)."""
    shape = [axis.size for axis in axes]
    outside = np.pad(np.zeros(shape), [axis.explicit for axis in axes], constant_values=1.0)
    taps = signs.sum(axis=2)
    result = np.zeros((*(axis.outputs for axis in axes), signs.shape[-1]))
    for row in range(taps.shape[0]):
        for column in range(taps.shape[1]):
            window = outside[row * layer.dilation_rate[0] :, column * layer.dilation_rate[1] :][
                :: layer.strides[0], :: layer.strides[1]
            ][: result.shape[0], : result.shape[1]]
            result += window[..., None] * taps[row, column]
    return result


def _float_convolution(builder, layer, x, axes):
    """A float convolution, its kernel quantized once and for all."""
    x = _float_input(builder, layer, x)
    kernel = _float_kernel(layer)
    rows, columns = axes
    if layer.pad_values:
        raise UnsupportedLayerError(layer, "pad_values other than 0 needs 1-bit inputs and kernel")
    if rows.is_same and columns.is_same:
        padding = "same"
    else:
        x, padding = builder.pad(x, rows.explicit, columns.explicit, layer.name), "valid"
    x = builder.convolution(x, kernel, layer.strides, padding, layer.dilation_rate, layer.name)
    return _add_bias(builder, layer, x)


def _float_kernel(layer):
    """The kernel in its own dtype, not in the compute dtype: a half float has lost bits."""
    kernel = keras.ops.cast(layer.kernel, layer.variable_dtype)
    quantizer = layer.kernel_quantizer
    return keras.ops.convert_to_numpy(kernel if quantizer is None else quantizer(kernel))


def _float_input(builder, layer, x):
    if layer.input_quantizer is None:
        return x
    raise UnsupportedLayerError(
        layer, "an input quantizer without a 1-bit kernel quantizer is not supported yet"
    )


def _thresholded(builder, layer, x):
    quantizer = layer.input_quantizer
    if not isinstance(quantizer, Binarizer) or quantizer.scale is not None:
        raise UnsupportedLayerError(
            layer, f"its input quantizer {type(quantizer).__name__} is not a plain sign"
        )
    if quantizer.sign_of_zero == 0:
        builder.note(layer, "inputs that are exactly 0 become +1")
    if quantizer.threshold is None:
        return x
    if not isinstance(quantizer.threshold, LearnedThreshold):
        raise UnsupportedLayerError(
            layer, f"its threshold {type(quantizer.threshold).__name__} has no deploy form"
        )
    return builder.offset(x, -keras.ops.convert_to_numpy(quantizer.threshold.value), layer.name)


def _kernel_parts(builder, layer):
    """The kernel as exact +-1, and its scale as one float per output channel."""
    quantizer = layer.kernel_quantizer
    if not isinstance(quantizer, Binarizer):
        raise UnsupportedLayerError(
            layer, f"its kernel quantizer {type(quantizer).__name__} is not a Binarizer"
        )
    kernel = keras.ops.cast(layer.kernel, layer.variable_dtype)
    centred, scale = quantizer.components(kernel)
    centred = keras.ops.convert_to_numpy(centred)
    zeros = int(np.count_nonzero(centred == 0)) if quantizer.sign_of_zero == 0 else 0
    if zeros:
        builder.note(layer, f"{zeros} kernel entries are exactly 0 and became +1")
    filters = centred.shape[-1]
    if scale is None:
        scale = np.ones(filters)
    else:
        scale = keras.ops.convert_to_numpy(scale).astype("float64")
        if scale.size != 1 and scale.shape != (1,) * (centred.ndim - 1) + (filters,):
            raise UnsupportedLayerError(
                layer, f"its kernel scale of shape {scale.shape} is not one per output channel"
            )
        scale = np.broadcast_to(scale.reshape(-1), (filters,))
    return np.where(centred >= 0, 1.0, -1.0), scale


def _bias(layer):
    filters = layer.kernel.shape[-1]
    return np.zeros(filters) if layer.bias is None else keras.ops.convert_to_numpy(layer.bias)


def _add_bias(builder, layer, x):
    return x if layer.bias is None else builder.offset(x, _bias(layer), layer.name)


def _reshape(builder, x, shape, name):
    if tuple(x.shape[1:]) == tuple(shape):
        return x
    return keras.layers.Reshape(shape, name=builder.name(name), dtype=builder.dtype)(x)


def _activate(builder, layer, x):
    if layer.activation is keras.activations.linear:
        return x
    name = builder.name(f"{layer.name}_activation")
    return keras.layers.Activation(layer.activation, name=name, dtype=builder.dtype)(x)
