"""Rules of the quantized layers: which binary convolutions each consists of, and what is float."""

import dataclasses
import math

import keras
import numpy as np

from bnnkeras import layers
from bnnkeras.converters.errors import UnsupportedLayerError
from bnnkeras.converters.lowering import quantizers
from bnnkeras.converters.lowering.activations import activated as _activated
from bnnkeras.converters.lowering.binary import BinaryConvolution, binary_convolution
from bnnkeras.converters.lowering.geometry import Axis, layer_axes
from bnnkeras.converters.lowering.intent import NO_BINARY_OPERATION, SEPARABLE, is_binary
from bnnkeras.converters.lowering.maps import (
    as_map,
    check_layout,
    from_map,
    map_axes,
    map_output_sizes,
)
from bnnkeras.converters.lowering.phases import phases
from bnnkeras.converters.lowering.quantizers import CannotBeBinary
from bnnkeras.converters.lowering.registry import lowering_rule


@lowering_rule(layers.QuantConv1D, layers.QuantConv2D)
def lower_convolution(builder, layer, inputs):
    x = as_map(builder, layer, inputs)
    x = _binary_or_float(builder, layer, x, _binary_convolution, _float_convolution)
    return _activated(builder, layer, from_map(builder, layer, x))


@lowering_rule(layers.QuantDense)
def lower_dense(builder, layer, inputs):
    check_layout(layer, inputs)
    x = _binary_or_float(builder, layer, inputs, _binary_dense, _float_dense)
    return _activated(builder, layer, x)


@lowering_rule(layers.QuantConv1DTranspose, layers.QuantConv2DTranspose)
def lower_transposed(builder, layer, inputs):
    x = as_map(builder, layer, inputs)
    x = _binary_or_float(builder, layer, x, _binary_transposed, _float_transposed)
    return _activated(builder, layer, from_map(builder, layer, x))


@lowering_rule(layers.QuantDepthwiseConv1D, layers.QuantDepthwiseConv2D)
def lower_depthwise(builder, layer, inputs):
    _note_missing_operation(builder, layer)
    x = as_map(builder, layer, inputs)
    x = _depthwise(builder, layer, x, "kernel", "depthwise_quantizer")
    return _activated(builder, layer, from_map(builder, layer, _with_bias(builder, layer, x)))


@lowering_rule(*SEPARABLE)
def lower_separable(builder, layer, inputs):
    x = as_map(builder, layer, inputs)
    x = _depthwise(builder, layer, x, "depthwise_kernel", "depthwise_quantizer")
    x = _binary_or_float(builder, layer, x, _binary_pointwise, _float_pointwise)
    return _activated(builder, layer, from_map(builder, layer, x))


@lowering_rule(layers.QuantConv3D)
def lower_conv3d(builder, layer, inputs):
    _note_missing_operation(builder, layer)
    check_layout(layer, inputs)
    axes = layer_axes(layer, inputs.shape[1:-1])
    x = _float_input(builder, layer, inputs, layer.input_quantizer)
    padding = "same" if layer.padding == "same" and not layer.pad_values else "valid"
    if padding == "valid":
        x = builder.pad(x, [axis.explicit for axis in axes], layer.name, layer.pad_values)
    convolution = keras.layers.Conv3D(
        layer.filters,
        layer.kernel_size,
        strides=layer.strides,
        padding=padding,
        dilation_rate=layer.dilation_rate,
        groups=layer.groups,
        use_bias=False,
        name=builder.name(layer.name),
        dtype=builder.dtype,
    )
    kernel = quantizers.baked_kernel(layer, "kernel", "kernel_quantizer")
    return _activated(
        builder, layer, _with_bias(builder, layer, builder.place(convolution, x, [kernel]))
    )


@lowering_rule(layers.QuantConv3DTranspose)
def lower_conv3d_transpose(builder, layer, inputs):
    _note_missing_operation(builder, layer)
    check_layout(layer, inputs)
    x = _float_transposed(builder, layer, inputs)
    return _activated(builder, layer, x)


def _binary_or_float(builder, layer, x, binary, float_form):
    """The binary form where the user asked for one and LCE can run it, else the float form."""
    if is_binary(layer):
        try:
            return _embedded(builder, layer, x, binary(builder, layer, x))
        except CannotBeBinary as reason:
            builder.run_in_float(layer, str(reason))
    return _embedded(builder, layer, x, float_form(builder, layer, x))


def _embedded(builder, layer, x, y):
    """The outputs y, plus what the input quantizer embeds in them."""
    seen = _seen(builder, layer, x)
    embedding = quantizers.embedding(builder, layer, seen, layer.input_quantizer)
    if embedding is None:
        return y
    embedding, constant = embedding
    if constant.any():
        y = builder.shift(y, constant, layer.name)
    parts = [builder.own(part) for part in (y, _as_rank(builder, layer, embedding, y))]
    return builder.sum(parts, f"{layer.name}_embedded")


# Binary forms.


def _binary_convolution(builder, layer, x):
    if layer.pad_values not in (-1, 0, 1):
        raise CannotBeBinary(f"LCE pads signs with 0 or with a sign, not with {layer.pad_values}")
    signs, kernel_scale = quantizers.kernel_parts(builder, layer, "kernel", "kernel_quantizer")
    scale = quantizers.per_filter(kernel_scale, -1, layer.filters)
    rows, columns = map_axes(layer, x)
    signs = signs if signs.ndim == 4 else signs[None]
    bias = _bias(layer, layer.filters)
    dilation_rate = (1, *layer.dilation_rate)[-2:]
    # The signs are taken group by group: LCE's default kernel refuses groups.
    size = layer.filters // layer.groups

    def convolve(x, group):
        chosen = slice(group * size, (group + 1) * size)
        return BinaryConvolution(
            layer.name,
            signs[..., chosen],
            scale[chosen],
            bias[chosen],
            rows,
            columns,
            dilation_rate,
            layer.pad_values,
        )

    x, factor = _centred(builder, layer, x)
    pieces = builder.split(x, layer.groups)
    outputs = [
        _signed(builder, layer, piece, convolve(piece, group), factor)
        for group, piece in enumerate(pieces)
    ]
    return builder.concatenate(outputs, -1, layer.name)


def _binary_dense(builder, layer, inputs):
    *positions, channels = inputs.shape[1:]
    signs, kernel_scale = quantizers.kernel_parts(builder, layer, "kernel", "kernel_quantizer")
    # A dense layer is a 1x1 convolution: (B, ..., C) -> a map, before the sign.
    height, width = positions if len(positions) == 2 else (math.prod(positions), 1)
    convolution = BinaryConvolution(
        layer.name,
        signs[None, None],
        quantizers.per_filter(kernel_scale, -1, layer.units),
        _bias(layer, layer.units),
        Axis(height, 1, 1, 0, 0),
        Axis(width, 1, 1, 0, 0),
    )
    x, factor = _centred(builder, layer, inputs)
    x = builder.reshape(x, (height, width, channels), f"{layer.name}_expand")
    if factor.value is not None:
        sizes = factor.value.shape[1:-1]
        shape = sizes if len(sizes) == 2 else (math.prod(sizes), 1)
        value = builder.reshape(factor.value, (*shape, 1), f"{layer.name}_factor")
        factor = dataclasses.replace(factor, value=value)
    x = _signed(builder, layer, x, convolution, factor)
    return builder.reshape(x, (*positions, layer.units), f"{layer.name}_squeeze")


def _binary_pointwise(builder, layer, x):
    signs, kernel_scale = quantizers.kernel_parts(
        builder, layer, "pointwise_kernel", "pointwise_quantizer"
    )
    convolution = BinaryConvolution(
        layer.name,
        signs.reshape(1, 1, *signs.shape[-2:]),
        quantizers.per_filter(kernel_scale, -1, layer.filters),
        _bias(layer, layer.filters),
        Axis(x.shape[1], 1, 1, 0, 0),
        Axis(x.shape[2], 1, 1, 0, 0),
    )
    x, factor = _centred(builder, layer, x, layer.intermediate_quantizer)
    return _signed(builder, layer, x, convolution, factor)


def _binary_transposed(builder, layer, x):
    """One convolution for each residue of the output's position, interleaved."""
    signs, kernel_scale = quantizers.kernel_parts(builder, layer, "kernel", "kernel_quantizer")
    # The kernel is (..., filters, channels).
    scale = quantizers.per_filter(kernel_scale, -2, layer.filters)
    signs = np.swapaxes(signs if signs.ndim == 4 else signs[None], -1, -2)
    sizes = map_output_sizes(layer, x)
    rows, columns = (
        phases(size, kernel, stride, dilation, output, layer.padding == "same")
        for size, kernel, stride, dilation, output in zip(
            x.shape[1:3],
            signs.shape[:2],
            (1, *layer.strides)[-2:],
            (1, *layer.dilation_rate)[-2:],
            sizes,
            strict=True,
        )
    )
    bias = _bias(layer, layer.filters)
    x, factor = _centred(builder, layer, x)

    def convolve(row, column):
        convolution = BinaryConvolution(
            layer.name,
            signs[row.taps][:, column.taps],
            scale,
            bias,
            row.axis,
            column.axis,
            (row.dilation, column.dilation),
        )
        cropped = builder.crop(x, row.crop, column.crop, layer.name)
        return _signed(builder, layer, cropped, convolution, factor)

    # (B, Q, Q', F) each -> columns side by side as channels, which is their order in memory, then
    # rows side by side as columns, likewise.
    lines = []
    for row in rows:
        line = builder.concatenate([convolve(row, column) for column in columns], -1, layer.name)
        height, width = row.axis.outputs, columns[0].axis.outputs * len(columns)
        lines.append(builder.reshape(line, (height, width, layer.filters), f"{layer.name}_columns"))
    x = builder.concatenate(lines, 2, layer.name)
    x = builder.reshape(x, (height * len(rows), width, layer.filters), f"{layer.name}_rows")
    ends = ((0, x.shape[1] - sizes[0]), (0, x.shape[2] - sizes[1]))
    return builder.crop(x, *ends, layer.name)


def _centred(builder, layer, x, quantizer=None):
    """The value whose sign is taken, and the factor that its scale leaves for the sums."""
    quantizer = quantizer or layer.input_quantizer
    quantizers.check_sums(layer, quantizer)
    # Thresholds and scales are those of the tensor that the layer sees: a 1-D layer sees no rows.
    seen = _seen(builder, layer, x)
    centred = quantizers.centred_input(builder, layer, seen, quantizer)
    factor = quantizers.input_factor(builder, layer, seen, centred, quantizer)
    if factor.value is not None:
        factor = dataclasses.replace(factor, value=_as_rank(builder, layer, factor.value, x))
    return _as_rank(builder, layer, centred, x), factor


def _seen(builder, layer, x):
    return x if isinstance(layer, layers.QuantDense) else from_map(builder, layer, x)


def _as_rank(builder, layer, value, x):
    """(B, W, C) -> (B, 1, W, C) where x is a map."""
    if len(value.shape) == len(x.shape):
        return value
    return builder.reshape(value, (1, *value.shape[1:]), f"{layer.name}_expand")


def _signed(builder, layer, x, convolution, factor):
    """The binary convolution times the factor of its input."""
    bias = convolution.bias
    convolution = dataclasses.replace(convolution, scale=convolution.scale * factor.constant)
    if factor.value is not None:
        convolution = dataclasses.replace(convolution, bias=np.zeros_like(bias))
    if factor.exact_zeros:
        # sign(x) with sign(0) = 0 is the mean of the two signs that take 0 for +1 and for -1.
        half = dataclasses.replace(convolution, scale=convolution.scale / 2)
        other = dataclasses.replace(
            half,
            signs=-half.signs,
            bias=np.zeros_like(bias),
            pad_value=-half.pad_value,
        )
        y = builder.add(
            binary_convolution(builder, x, half),
            binary_convolution(builder, builder.negate(x), other),
            layer.name,
        )
    else:
        y = binary_convolution(builder, x, convolution)
    if factor.value is None:
        return y
    y = builder.multiply(builder.own(y), factor.value, layer.name)
    return builder.offset(y, bias, layer.name) if bias.any() else y


# Float forms: the quantized kernel as numbers.


def _float_convolution(builder, layer, x):
    kernel = quantizers.baked_kernel(layer, "kernel", "kernel_quantizer")
    kernel = kernel if kernel.ndim == 4 else kernel[None]
    axes = map_axes(layer, x)
    x = _float_input(builder, layer, x, layer.input_quantizer)
    if all(axis.is_same for axis in axes) and not layer.pad_values:
        padding = "same"
    else:
        pads = [axis.explicit for axis in axes]
        x, padding = builder.pad(x, pads, layer.name, layer.pad_values), "valid"
    size = layer.filters // layer.groups
    outputs = [
        builder.convolution(
            piece,
            kernel[..., group * size : (group + 1) * size],
            (1, *layer.strides)[-2:],
            padding,
            (1, *layer.dilation_rate)[-2:],
            layer.name,
        )
        for group, piece in enumerate(builder.split(x, layer.groups))
    ]
    return _with_bias(builder, layer, builder.concatenate(outputs, -1, layer.name))


def _float_dense(builder, layer, x):
    x = _float_input(builder, layer, x, layer.input_quantizer)
    kernel = quantizers.baked_kernel(layer, "kernel", "kernel_quantizer")
    dense = keras.layers.Dense(
        layer.units, use_bias=False, name=builder.name(layer.name), dtype=builder.dtype
    )
    return _with_bias(builder, layer, builder.place(dense, x, [kernel]))


def _float_pointwise(builder, layer, x):
    x = _float_input(builder, layer, x, layer.intermediate_quantizer)
    kernel = quantizers.baked_kernel(layer, "pointwise_kernel", "pointwise_quantizer")
    kernel = kernel.reshape(1, 1, *kernel.shape[-2:])
    x = builder.convolution(x, kernel, (1, 1), "valid", (1, 1), layer.name)
    return _with_bias(builder, layer, x)


def _float_transposed(builder, layer, x):
    x = _float_input(builder, layer, x, layer.input_quantizer)
    kernel = quantizers.baked_kernel(layer, "kernel", "kernel_quantizer")
    three = len(layer.kernel_size) == 3
    kind = keras.layers.Conv3DTranspose if three else keras.layers.Conv2DTranspose
    one = () if len(layer.kernel_size) > 1 else (1,)
    kernel = kernel.reshape(one + kernel.shape)
    output_padding = layer.output_padding
    if output_padding is not None and one:
        output_padding = (0, *np.atleast_1d(output_padding))
    convolution = kind(
        layer.filters,
        one + tuple(layer.kernel_size),
        strides=one + tuple(layer.strides),
        padding=layer.padding,
        output_padding=output_padding,
        dilation_rate=one + tuple(layer.dilation_rate),
        use_bias=False,
        name=builder.name(layer.name),
        dtype=builder.dtype,
    )
    return _with_bias(builder, layer, builder.place(convolution, x, [kernel]))


def _depthwise(builder, layer, x, kernel_name, argument):
    """A depthwise convolution in float, whose sums of products of signs are exact."""
    kernel = quantizers.baked_kernel(layer, kernel_name, argument)
    kernel = kernel if kernel.ndim == 4 else kernel[None]
    if quantizers.is_sign(layer.input_quantizer) and quantizers.is_sign(getattr(layer, argument)):
        kernel = _with_spare_bits(kernel, builder.dtype)
    axes = map_axes(layer, x)
    x = _float_input(builder, layer, x, layer.input_quantizer)
    pads = [axis.explicit for axis in axes]
    x = builder.pad(x, pads, layer.name, layer.pad_values)
    # TensorFlow takes equal strides only; along an axis of size 1 the stride does not matter.
    strides = (layer.strides * 2)[:2]
    convolution = keras.layers.DepthwiseConv2D(
        kernel.shape[:2],
        strides=strides,
        padding="valid",
        depth_multiplier=layer.depth_multiplier,
        dilation_rate=(1, *layer.dilation_rate)[-2:],
        use_bias=False,
        name=builder.name(f"{layer.name}_depthwise"),
        dtype=builder.dtype,
    )
    return builder.place(convolution, x, [kernel])


def _with_spare_bits(kernel, dtype):
    """Magnitudes that may be summed over a window without rounding, in any order.

    The scale is part of the kernel, where the converter would put it anyway. Rounded by less than
    2^-18 of itself, it makes as many +s as -s exactly 0, whose sign the next layer may take.
    """
    products = math.prod(kernel.shape[:2])
    bits = np.finfo(dtype).nmant - math.ceil(math.log2(products))
    mantissas, exponents = np.frexp(kernel)
    return np.ldexp(np.round(np.ldexp(mantissas, bits)), exponents - bits)


def _float_input(builder, layer, x, quantizer):
    """The quantized input as real values."""
    if quantizer is None:
        return x
    if not quantizers.is_sign(quantizer):
        if not isinstance(quantizer, keras.layers.Layer):
            raise UnsupportedLayerError(
                layer, f"its input quantizer {quantizer!r} is a function and no layer"
            )
        return builder.copy(quantizer)(x)
    seen = _seen(builder, layer, x)
    centred = quantizers.centred_input(builder, layer, seen, quantizer)
    factor = quantizers.any_input_factor(builder, layer, seen, centred, quantizer)
    values = builder.sign(centred, layer.name)
    if factor is not None:
        values = builder.multiply(values, factor, layer.name)
    return _as_rank(builder, layer, values, x)


def _bias(layer, filters):
    if layer.bias is None:
        return np.zeros(filters)
    return keras.ops.convert_to_numpy(layer.bias).astype("float64")


def _with_bias(builder, layer, x):
    return x if layer.bias is None else builder.offset(x, _bias(layer, x.shape[-1]), layer.name)


def _note_missing_operation(builder, layer):
    quantized = (getattr(layer, name) for name in layer.quantizer_names)
    if all(getattr(quantizer, "precision", 32) == 1 for quantizer in quantized):
        builder.run_in_float(layer, NO_BINARY_OPERATION[type(layer)])
