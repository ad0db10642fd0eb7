"""The building blocks of IR-Net's residual networks, and their real-valued counterparts."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import layers, ops

from bnnkeras import activations
from bnnkeras.layers import QuantConv2D
from bnnkeras.quantizers import EDESign, LibraKernel
from bnnkeras.zoo import builder


@dataclass(frozen=True)
class Style:
    """What all blocks of one network have in common.

    Args:
        binary_activations: `False` leaves the activations real-valued (1w32a): ReLU instead of
            Hardtanh, and one shortcut per block instead of one per convolution.
        kernel_initializer: A function that makes the initializer of every convolution.
        sign_of_zero: 1 or 0.
        binary_kernels: `False` for the real-valued network.

    Raises:
        ValueError: If `binary_activations` is no boolean.
    """

    binary_activations: bool = True
    kernel_initializer: Callable = builder.he_normal
    sign_of_zero: int = 1
    binary_kernels: bool = True

    def __post_init__(self):
        if not isinstance(self.binary_activations, bool):
            raise ValueError(
                "`binary_activations` must be True or False. "
                f"Received: binary_activations={self.binary_activations!r}"
            )

    def convolution(self, x, filters: int, kernel_size: int, strides: int, name: str):
        """A real-valued convolution, padded as PyTorch does."""
        return QuantConv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="symmetric",
            use_bias=False,
            kernel_initializer=self.kernel_initializer(),
            name=name,
        )(x)

    def binary(self, x, filters: int, strides: int, name: str):
        """conv3x3(sign(x), Libra(W)), or without the sign, or real-valued."""
        if not self.binary_kernels:
            return self.convolution(x, filters, 3, strides, name)
        sign = EDESign(sign_of_zero=self.sign_of_zero) if self.binary_activations else None
        return QuantConv2D(
            filters,
            3,
            strides=strides,
            padding="symmetric",
            use_bias=False,
            input_quantizer=sign,
            kernel_quantizer=LibraKernel(sign_of_zero=self.sign_of_zero),
            kernel_initializer=self.kernel_initializer(),
            name=name,
        )(x)

    def activated(self, x, name: str):
        """Hardtanh for binary activations, else ReLU."""
        function = activations.hardtanh if self.binary_activations else keras.activations.relu
        return layers.Activation(function, name=name)(x)


def projection(x, filters: int, strides: int, style: Style, name: str, avg_down: bool = False):
    """The shortcut where the shape changes: a real 1x1 convolution and BN.

    `avg_down` averages 2x2 pixels before it instead of reading every second one.
    """
    # Other names: the official ones of the two forms are shifted by one.
    kind = "projection" if avg_down else "shortcut"
    if avg_down:
        x = layers.AveragePooling2D(strides, padding="same", name=f"{name}_{kind}_pool")(x)
        strides = 1
    x = style.convolution(x, filters, 1, strides, f"{name}_{kind}_conv")
    return builder.batch_normalization(f"{name}_{kind}_bn")(x)


def subsampling(x, filters: int, strides: int, name: str):
    """Option A, without parameters: every second pixel, zeros around the channels."""
    # A window of one pixel: its average is the pixel.
    x = layers.AveragePooling2D(1, strides=strides, name=f"{name}_shortcut_pool")(x)
    missing = filters - x.shape[-1]
    widths = (missing // 2, missing - missing // 2)
    return ops.pad(x, ((0, 0), (0, 0), (0, 0), widths))


def block(x, filters: int, strides: int, style: Style, name: str, shortcut, dense: bool, end: str):
    """Two convolutions with BN, activations and shortcuts.

        a = act(BN1(conv1(x)) + r(x))      (without + r(x) unless `dense`)
        y = act(BN2(conv2(a)) + a)         (+ r(x) unless `dense`)

    Args:
        x: `(batch, height, width, channels)`.
        filters: Channels of the output.
        strides: 1, or 2 to halve the size.
        style: The network's `Style`.
        name: Start of the layers' names.
        shortcut: `shortcut(x, filters, strides, name)` where the shape changes.
        dense: Whether there is a shortcut around each convolution (as in Bi-Real Net) instead of
            one around both.
        end: Name of the last layer.
    """
    kept = x
    if strides != 1 or x.shape[-1] != filters:
        kept = shortcut(x, filters, strides, name)
    a = style.binary(x, filters, strides, f"{name}_conv1")
    a = builder.batch_normalization(f"{name}_bn1")(a)
    if dense:
        a = layers.Add(name=f"{name}_add1")([a, kept])
    a = style.activated(a, f"{name}_activation1")
    y = style.binary(a, filters, 1, f"{name}_conv2")
    y = builder.batch_normalization(f"{name}_bn2")(y)
    y = layers.Add(name=f"{name}_add2")([y, a if dense else kept])
    return style.activated(y, end)


def preactivated_block(x, filters: int, strides: int, style: Style, name: str, end: str):
    """The teacher's block: y = BN2(conv2(relu(BN1(conv1(relu(x)))))) + r(relu(x)).

    Composed it is torchvision's ResNet, with the last ReLU of each block moved to the next one.
    """
    x = layers.Activation("relu", name=f"{name}_activation0")(x)
    kept = x
    if strides != 1 or x.shape[-1] != filters:
        kept = projection(x, filters, strides, style, name)
    y = style.convolution(x, filters, 3, strides, f"{name}_conv1")
    y = builder.batch_normalization(f"{name}_bn1")(y)
    y = layers.Activation("relu", name=f"{name}_activation1")(y)
    y = style.convolution(y, filters, 3, 1, f"{name}_conv2")
    y = builder.batch_normalization(f"{name}_bn2")(y)
    return layers.Add(name=end)([y, kept])
