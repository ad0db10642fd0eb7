"""The building blocks of Bi-Real Net: a shortcut around every single binary convolution."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import layers

from bnnkeras import activations
from bnnkeras.layers import QuantConv2D
from bnnkeras.quantizers import ApproxSign, MagnitudeAwareSign
from bnnkeras.zoo import builder

# What stands at the place of the sign while a network is trained in advance. The two
# implementations differ in the derivative at |x| = 1 only.
PRETRAINING = {
    "pytorch": {
        "relu": keras.activations.relu,
        "leaky_clip": activations.leaky_clip,
        "clip": activations.hard_tanh,
    },
    "caffe": {
        "relu": keras.activations.relu,
        "leaky_clip": activations.caffe_leaky_clip,
        "clip": activations.hardtanh,
    },
}


@dataclass(frozen=True)
class Style:
    """What all blocks of one network have in common.

    Args:
        activation: `None` for the binary network; a function, or a name of `PRETRAINING`, that
            stands in place of the sign, of a network that is real-valued throughout.
        scale_gradient: Whether the gradient of binary kernels is multiplied by their scale.
        convention: `"pytorch"` or `"caffe"`, whose convolutions have biases, whose downsampling
            has no BN, and whose binary kernels pass every gradient.
        sign_of_zero: 1 or 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    activation: str | Callable | None = None
    scale_gradient: bool = False
    convention: str = "pytorch"
    sign_of_zero: int = 1

    def __post_init__(self):
        if self.convention not in PRETRAINING:
            raise ValueError(
                f"`convention` must be one of {sorted(PRETRAINING)}. "
                f"Received: convention={self.convention!r}"
            )
        names = PRETRAINING[self.convention]
        if self.activation is not None and not (
            callable(self.activation) or self.activation in names
        ):
            raise ValueError(
                f"`activation` must be None, one of {sorted(names)} or a function. "
                f"Received: activation={self.activation!r}"
            )

    @property
    def caffe(self) -> bool:
        return self.convention == "caffe"

    def real_initializer(self):
        """Of kernels that are real-valued: PyTorch's default, or Caffe's "msra"."""
        return builder.he_normal() if self.caffe else builder.torch_initializer()

    def real(self, x, filters: int, kernel_size: int, strides: int, name: str):
        """A real-valued convolution, padded as PyTorch does."""
        return QuantConv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="symmetric",
            use_bias=self.caffe,
            kernel_initializer=self.real_initializer(),
            name=name,
        )(x)

    def binary(self, x, filters: int, kernel_size: int, strides: int, name: str):
        """conv(sign(x), s sign(W)), or in a network trained in advance conv(activation(x), W)."""
        if self.activation is not None:
            function = (
                self.activation
                if callable(self.activation)
                else PRETRAINING[self.convention][self.activation]
            )
            x = layers.Activation(function, name=f"{name}_activation")(x)
            return self.real(x, filters, kernel_size, strides, name)
        return QuantConv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="symmetric",
            use_bias=self.caffe,
            input_quantizer=ApproxSign(sign_of_zero=self.sign_of_zero),
            kernel_quantizer=MagnitudeAwareSign(
                clip_value=None if self.caffe else 1.0,
                scale_gradient=self.scale_gradient,
                sign_of_zero=self.sign_of_zero,
            ),
            kernel_initializer=(
                builder.he_normal() if self.caffe else keras.initializers.RandomUniform(0.0, 0.001)
            ),
            name=name,
        )(x)

    def downsample(self, x, filters: int, strides: int, name: str):
        """The shortcut where the shape changes: average pooling, a real 1x1 convolution and BN."""
        if strides != 1:
            x = layers.AveragePooling2D(strides, name=f"{name}_shortcut_pool")(x)
        x = self.real(x, filters, 1, 1, f"{name}_shortcut_conv")
        return x if self.caffe else builder.batch_normalization(f"{name}_shortcut_bn")(x)


def basic_block(x, filters: int, strides: int, style: Style, name: str):
    """y = BN(conv(sign(x))) + shortcut(x), the whole block around a single binary convolution.

    The shortcut is x itself, or `Style.downsample` where the shape changes (ECCV 2018, figure 3b).

    Args:
        x: `(batch, height, width, channels)`.
        filters: Channels of the output.
        strides: 1, or 2 to halve the size.
        style: The network's `Style`.
        name: Start of the layers' names.
    """
    shortcut = x
    if strides != 1 or x.shape[-1] != filters:
        shortcut = style.downsample(x, filters, strides, name)
    y = style.binary(x, filters, 3, strides, f"{name}_conv")
    y = builder.batch_normalization(f"{name}_bn")(y)
    return layers.Add(name=f"{name}_add")([y, shortcut])


def bottleneck_block(middle, wide, filters: int, strides: int, style: Style, name: str, first=None):
    """The bottleneck with two streams, each with a shortcut around every binary convolution.

        a = BN(conv1x1(sign(wide))) + middle            first="stage": + conv1x1_real(middle)
        b = BN(conv3x3(sign(a))) + a                    with strides 2: + pool(a)
        c = BN(conv1x1(sign(b))) + wide                 in the first block of a stage: downsampled

    In the first block of the network a = BN(conv1x1_real(leaky_clip(wide))).

    Args:
        middle: The stream of a quarter of the channels.
        wide: The other stream.
        filters: Channels of the wide output; the middle one has a quarter of them.
        strides: 1, or 2 to halve the size.
        style: The network's `Style`.
        name: Start of the layers' names.
        first: `"network"` or `"stage"` where the block is the first of it.

    Returns:
        b and c, the next middle and wide stream.
    """
    quarter = filters // 4
    if first == "network":
        activated = layers.Activation(activations.leaky_clip, name=f"{name}_leaky_clip")(wide)
        a = style.real(activated, quarter, 1, 1, f"{name}_conv1")
        a = builder.batch_normalization(f"{name}_bn1")(a)
    else:
        if first == "stage":
            middle = style.real(middle, quarter, 1, 1, f"{name}_middle_conv")
        a = style.binary(wide, quarter, 1, 1, f"{name}_conv1")
        a = builder.batch_normalization(f"{name}_bn1")(a)
        a = layers.Add(name=f"{name}_add1")([a, middle])

    b = style.binary(a, quarter, 3, strides, f"{name}_conv2")
    b = builder.batch_normalization(f"{name}_bn2")(b)
    if strides != 1:
        a = layers.AveragePooling2D(strides, name=f"{name}_middle_pool")(a)
    b = layers.Add(name=f"{name}_add2")([b, a])

    c = style.binary(b, filters, 1, 1, f"{name}_conv3")
    c = builder.batch_normalization(f"{name}_bn3")(c)
    if first is not None:
        wide = style.downsample(wide, filters, strides, name)
    return b, layers.Add(name=f"{name}_add3")([c, wide])
