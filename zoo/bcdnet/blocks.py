"""The building blocks of BCDNet: binary convolution blocks and binary MLP blocks."""

from dataclasses import dataclass

import keras
from keras import layers

from bnnkeras.layers import LearnableBias, QuantConv2D, RPReLU, SpatialShift
from bnnkeras.quantizers import ApproxSign, ContextualSign, MagnitudeAwareSign, RSign
from bnnkeras.zoo import builder

UNITS = ("3x3", "1x1")


@dataclass(frozen=True)
class Style:
    """What all blocks of one network have in common.

    Args:
        binary_weights: `False` for the network of the first training step, whose kernels are real.
        long_shift: Distance of the long-range shift: an integer, or `"half"` of the map.
        context_units: Which convolutions of a convolution block have contextual thresholds and
            embeddings: a tuple of `"3x3"` and `"1x1"`.
        context_ratio: By how much the context reduces the channels.
        context_activation: Of the context: a Keras activation or its name, or `None`.
        synchronized: Whether batch normalization averages over all replicas.
        sign_of_zero: 1 or 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    binary_weights: bool = True
    long_shift: int | str = 3
    context_units: tuple[str, ...] = ()
    context_ratio: int = 4
    context_activation: str | None = None
    synchronized: bool = False
    sign_of_zero: int = 1

    def __post_init__(self):
        if not isinstance(self.context_units, (tuple, list)) or not set(self.context_units) <= set(
            UNITS
        ):
            raise ValueError(
                f"`context_units` must be a tuple of {UNITS}. "
                f"Received: context_units={self.context_units!r}"
            )

    def normalization(self, name: str):
        return builder.batch_normalization(name, self.synchronized)

    def threshold(self, unit: str, filters: int):
        """The quantizer of the inputs of one convolution of a convolution block."""
        if unit not in self.context_units:
            return RSign(sign_of_zero=self.sign_of_zero, name="sign")
        return ContextualSign(
            self.context_ratio,
            self.context_activation,
            embedding=filters,
            sign_of_zero=self.sign_of_zero,
            name="sign",
        )

    def convolution(self, x, filters, kernel_size, strides, name, input_quantizer=None):
        """conv(q(x), s sign(W)), or conv(q(x), W) in the first training step."""
        kernel_quantizer = None
        if self.binary_weights:
            kernel_quantizer = MagnitudeAwareSign(
                scale_gradient=False, sign_of_zero=self.sign_of_zero
            )
        return QuantConv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="symmetric",
            use_bias=False,
            input_quantizer=input_quantizer or ApproxSign(sign_of_zero=self.sign_of_zero),
            kernel_quantizer=kernel_quantizer,
            kernel_initializer=builder.torch_initializer(),
            name=name,
        )(x)


def stem(x, filters: int, style: Style):
    """A real convolution with stride 2 and batch normalization, without an activation."""
    x = QuantConv2D(
        filters,
        3,
        strides=2,
        padding="symmetric",
        use_bias=False,
        kernel_initializer=builder.torch_initializer(),
        name="stem_conv",
    )(x)
    return style.normalization("stem_bn")(x)


def convolution_block(x, filters: int, strides: int, style: Style, name: str):
    """The block of ReActNet-A: a 3x3 and a 1x1 binary convolution, each with a shortcut.

        h = RPReLU(BN(conv3x3(sign(x - t1))) + x)                 with strides 2: + pool(x)
        y = RPReLU(BN(conv1x1(sign(h - t2))) + h)                 widening: + concat(h, h)

    The released code widens with two convolutions side by side; here they are one, with the same
    threshold, scales and normalization per channel.

    Args:
        x: `(batch, height, width, channels)`.
        filters: Channels of the output: as many as x has, or twice as many.
        strides: 1, or 2 to halve the size.
        style: The network's `Style`.
        name: Start of the layers' names.

    Raises:
        ValueError: If `filters` is out of range.
    """
    channels = x.shape[-1]
    if filters not in (channels, 2 * channels):
        raise ValueError(
            f"`filters` must be the channels of x or twice as many, {channels} or {2 * channels}. "
            f"Received: filters={filters}"
        )
    shortcut = x
    if strides == 2:
        shortcut = layers.AveragePooling2D(2, name=f"{name}_pool")(x)
    quantizer = style.threshold("3x3", channels)
    y = style.convolution(x, channels, 3, strides, f"{name}_conv1", quantizer)
    y = style.normalization(f"{name}_bn1")(y)
    y = layers.Add(name=f"{name}_add1")([y, shortcut])
    h = RPReLU(name=f"{name}_rprelu1")(y)

    # A layer of its own name, because two official kernels make up its one.
    widening = "_widening" if filters != channels else ""
    shortcut = h
    if widening:
        shortcut = layers.Concatenate(name=f"{name}_concatenate")([h, h])
    quantizer = style.threshold("1x1", filters)
    y = style.convolution(h, filters, 1, 1, f"{name}_conv2{widening}", quantizer)
    y = style.normalization(f"{name}_bn2{widening}")(y)
    y = layers.Add(name=f"{name}_add2")([y, shortcut])
    return RPReLU(name=f"{name}_rprelu2")(y)


def mlp_layer(x, style: Style, name: str, shifts: bool = True):
    """y = RPReLU(BN(conv(a) + conv(short(a)) + conv(long(a))) + x), a = sign(x + b).

    All convolutions are 1x1, with a kernel each: a binary MLP over every position and what it meets
    at a short and at a long distance. The shifts stand before the sign, which they pass unchanged:
    Larq Compute Engine wants a convolution right behind it.

    Args:
        x: `(batch, height, width, channels)`, channels a multiple of 4.
        style: The network's `Style`.
        name: Start of the layers' names.
        shifts: Whether there are the two shifted branches.
    """
    filters = x.shape[-1]
    biased = LearnableBias(name=f"{name}_bias")(x)
    y = style.convolution(biased, filters, 1, 1, f"{name}_conv")
    if shifts:
        short = SpatialShift(1, name=f"{name}_short")(biased)
        long = SpatialShift(style.long_shift, name=f"{name}_long")(biased)
        short = style.convolution(short, filters, 1, 1, f"{name}_conv_short")
        long = style.convolution(long, filters, 1, 1, f"{name}_conv_long")
        y = layers.Add(name=f"{name}_sum")([y, short, long])
    y = style.normalization(f"{name}_bn")(y)
    y = layers.Add(name=f"{name}_add")([y, x])
    return RPReLU(name=f"{name}_rprelu")(y)


def mlp_block(x, style: Style, name: str) -> keras.KerasTensor:
    """Three MLP layers with shifts, and one without.

    Args:
        x: `(batch, height, width, channels)`, channels a multiple of 4.
        style: The network's `Style`.
        name: Start of the layers' names.
    """
    for index in range(4):
        x = mlp_layer(x, style, f"{name}_{index}", shifts=index < 3)
    return x
