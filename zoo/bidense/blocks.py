"""The units of BiDense's networks, in three forms: binary, and two of full precision.

A form is a class that makes the layers; `uppernet.py` and `dpt.py` put them together.
"""

import math
from dataclasses import dataclass

import keras
from keras import layers

from bnnkeras.layers import (
    ChannelAdaptiveBypass,
    LayerScale,
    LearnableBias,
    QuantConv2D,
    QuantDepthwiseConv2D,
    RPReLU,
)
from bnnkeras.quantizers import DAB, MagnitudeAwareSign
from bnnkeras.zoo import builder

SCALE_AXES = ("channel", "layer")


def real_convolution(x, filters, size, name, strides=1, use_bias=True, padding=None):
    """A convolution of full precision with PyTorch's initial values.

    It is padded on both sides, unless it has a stride and `padding` is not given.
    """
    bound = 1 / math.sqrt(x.shape[-1] * size**2)
    return QuantConv2D(
        filters,
        size,
        strides=strides,
        padding=padding or ("symmetric" if strides == 1 else "valid"),
        use_bias=use_bias,
        kernel_initializer=builder.torch_initializer(),
        bias_initializer=keras.initializers.RandomUniform(-bound, bound),
        name=name,
    )(x)


def prelu(x, name):
    """max(x, 0) + a min(x, 0), one a per channel."""
    return layers.PReLU(
        alpha_initializer=keras.initializers.Constant(0.25), shared_axes=[1, 2], name=name
    )(x)


def head_activation(x, name):
    """The ReLU in front of the last convolution."""
    return layers.ReLU(name=f"{name}_relu")(x)


@dataclass(frozen=True)
class Binary:
    """BiDense: a distribution-adaptive binarizer before each convolution, a bypass around it.

    Args:
        scale_axis: `"channel"` for a scale of the signs per channel (official), `"layer"` for one
            per image.
        sign_of_zero: 1 or 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    scale_axis: str = "channel"
    sign_of_zero: int = 1

    def __post_init__(self):
        if self.scale_axis not in SCALE_AXES:
            raise ValueError(
                f"`scale_axis` must be one of {SCALE_AXES}. "
                f"Received: scale_axis={self.scale_axis!r}"
            )

    def binarizer(self, depthwise=False):
        """The quantizer of a convolution's inputs.

        A depthwise convolution commutes with a scale per channel, so that it keeps that.
        """
        return DAB(
            per_layer=self.scale_axis == "layer" and not depthwise,
            sign_of_zero=self.sign_of_zero,
            name="dab",
        )

    def kernel_sign(self, axes="kernel"):
        """The quantizer of a kernel: s sign(W), one scale s per output channel."""
        return MagnitudeAwareSign(scale_gradient=False, sign_of_zero=self.sign_of_zero, axes=axes)

    def unit_layers(self, filters, size, name, strides=1, bypass=True, use_bias=False):
        """The layers of `unit`, as a function of x, which may be called more than once."""
        convolution = QuantConv2D(
            filters,
            size,
            strides=strides,
            padding="symmetric",
            use_bias=use_bias,
            input_quantizer=self.binarizer(),
            kernel_quantizer=self.kernel_sign(),
            kernel_initializer=keras.initializers.RandomNormal(stddev=1e-3),
            name=f"{name}_conv",
        )
        normalization = builder.batch_normalization(f"{name}_bn")
        if not bypass:
            return lambda x: normalization(convolution(x))
        shortcut = ChannelAdaptiveBypass(filters, name=f"{name}_bypass")
        add = layers.Add(name=f"{name}_add")
        return lambda x: add([normalization(convolution(x)), shortcut(x)])

    def unit(self, x, filters, size, name, **options):
        """y = BN(conv(DAB(x), s sign(W))) + bypass(x).

        Args:
            x: `(batch, height, width, channels)`.
            filters: Channels of the output.
            size: Of the kernel.
            name: Start of the layers' names.
            **options: `strides`, `bypass` and `use_bias` of the convolution.
        """
        return self.unit_layers(filters, size, name, **options)(x)

    def stem(self, x, filters, name):
        """A real convolution 4x4 with stride 4, and batch normalization."""
        x = real_convolution(x, filters, 4, f"{name}_conv", strides=4)
        return builder.batch_normalization(f"{name}_bn")(x)

    def transition(self, x, filters, name):
        """2x2 with stride 2; the bypass is around the mean of the same windows."""
        y = self.unit(x, filters, 2, name, strides=2, bypass=False)
        shortcut = layers.AveragePooling2D(2, name=f"{name}_pool")(x)
        shortcut = ChannelAdaptiveBypass(filters, name=f"{name}_bypass")(shortcut)
        return layers.Add(name=f"{name}_add")([y, shortcut])

    def block(self, x, name):
        """Depthwise 7x7, and 1x1 to four times the channels and back, each with its own bypass."""
        channels = x.shape[-1]
        y = QuantDepthwiseConv2D(
            7,
            padding="symmetric",
            use_bias=False,
            input_quantizer=self.binarizer(depthwise=True),
            depthwise_quantizer=self.kernel_sign(axes=(0, 1)),
            depthwise_initializer=keras.initializers.RandomNormal(stddev=1e-3),
            name=f"{name}_dw_conv",
        )(x)
        y = builder.batch_normalization(f"{name}_dw_bn")(y)
        x = layers.Add(name=f"{name}_dw_add")([y, x])
        x = self.activated(x, 4 * channels, 1, f"{name}_pw1")
        return self.unit(x, channels, 1, f"{name}_pw2")

    def activated(self, x, filters, size, name):
        """`unit`, and PReLU with a trained offset."""
        x = self.unit(x, filters, size, name)
        x = LearnableBias(name=f"{name}_move")(x)
        return prelu(x, f"{name}_prelu")

    def lateral(self, x, filters, name):
        """A 1x1 unit."""
        return self.unit(x, filters, 1, name)

    def smoother(self, filters, name):
        """The 3x3 unit that all maps of the pyramid share, a function of x."""
        return self.unit_layers(filters, 3, name)

    def fusion(self, x, filters, name):
        """A 3x3 unit, and PReLU between two trained offsets."""
        x = self.unit(x, filters, 3, name)
        return RPReLU(name=f"{name}_rprelu")(x)

    def neck(self, x, filters, name):
        """The 3x3 unit before the map grows to the size of the input."""
        return self.unit(x, filters, 3, name)

    def head(self, x, filters, task, name):
        """The 3x3 unit before the last convolution."""
        return head_activation(self.unit(x, filters, 3, name), name)


def normalized(x, filters, size, name, strides=1, use_bias=True):
    """A real convolution and batch normalization."""
    x = real_convolution(x, filters, size, f"{name}_conv", strides, use_bias)
    return builder.batch_normalization(f"{name}_bn")(x)


@dataclass(frozen=True)
class _Real:
    """What both forms of full precision have in common."""

    def activated(self, x, filters, size, name):
        """Convolution, batch normalization, ReLU."""
        x = normalized(x, filters, size, name, use_bias=False)
        return layers.ReLU(name=f"{name}_relu")(x)

    def fusion(self, x, filters, name):
        """As `activated`, 3x3."""
        return self.activated(x, filters, 3, name)

    def depthwise(self, x, name):
        """A depthwise convolution 7x7 with a bias."""
        return layers.DepthwiseConv2D(
            7,
            padding="same",
            depthwise_initializer=keras.initializers.RandomUniform(-1 / 7, 1 / 7),
            bias_initializer=keras.initializers.RandomUniform(-1 / 7, 1 / 7),
            name=f"{name}_dw_conv",
        )(x)


@dataclass(frozen=True)
class Scratch(_Real):
    """The same network of full precision for training from scratch: batch normalization, biases."""

    def stem(self, x, filters, name):
        """4x4 with stride 4, and batch normalization."""
        return normalized(x, filters, 4, name, strides=4)

    def transition(self, x, filters, name):
        """2x2 with stride 2, and batch normalization."""
        return normalized(x, filters, 2, name, strides=2)

    def block(self, x, name):
        """h = x + BN(depthwise(x)); y = x + BN(W2 GELU(BN(W1 h)))."""
        channels = x.shape[-1]
        y = builder.batch_normalization(f"{name}_dw_bn")(self.depthwise(x, name))
        h = layers.Add(name=f"{name}_dw_add")([y, x])
        y = normalized(h, 4 * channels, 1, f"{name}_pw1")
        y = layers.Activation("gelu", name=f"{name}_gelu")(y)
        y = normalized(y, channels, 1, f"{name}_pw2")
        return layers.Add(name=f"{name}_add")([y, x])

    def lateral(self, x, filters, name):
        """1x1, and batch normalization."""
        return normalized(x, filters, 1, name)

    def smoother(self, filters, name):
        """x + BN(3x3), shared, a function of x."""
        convolution = _shared_convolution(filters, name)
        normalization = builder.batch_normalization(f"{name}_bn")
        add = layers.Add(name=f"{name}_add")
        return lambda x: add([normalization(convolution(x)), x])

    def neck(self, x, filters, name):
        """3x3, and batch normalization."""
        return normalized(x, filters, 3, name)

    def head(self, x, filters, task, name):
        """3x3, batch normalization, ReLU."""
        return head_activation(normalized(x, filters, 3, name, use_bias=task == "depth"), name)


@dataclass(frozen=True)
class Pretrained(_Real):
    """The original ConvNeXt, whose published ImageNet weights fit, under the same decoder."""

    def stem(self, x, filters, name):
        """4x4 with stride 4, and layer normalization."""
        x = real_convolution(x, filters, 4, f"{name}_conv", strides=4)
        return layer_normalization(f"{name}_ln")(x)

    def transition(self, x, filters, name):
        """Layer normalization, and 2x2 with stride 2."""
        x = layer_normalization(f"{name}_ln")(x)
        return real_convolution(x, filters, 2, f"{name}_conv", strides=2)

    def block(self, x, name):
        """x + gamma W2 GELU(W1 LN(depthwise(x)))."""
        channels = x.shape[-1]
        y = layer_normalization(f"{name}_ln")(self.depthwise(x, name))
        y = real_convolution(y, 4 * channels, 1, f"{name}_pw1_conv")
        y = layers.Activation("gelu", name=f"{name}_gelu")(y)
        y = real_convolution(y, channels, 1, f"{name}_pw2_conv")
        y = LayerScale(1e-6, name=f"{name}_scale")(y)
        return layers.Add(name=f"{name}_add")([y, x])

    def lateral(self, x, filters, name):
        """1x1."""
        return real_convolution(x, filters, 1, f"{name}_conv")

    def smoother(self, filters, name):
        """3x3, shared, a function of x."""
        return _shared_convolution(filters, name)

    def neck(self, x, filters, name):
        """3x3."""
        return real_convolution(x, filters, 3, f"{name}_conv")

    def head(self, x, filters, task, name):
        """3x3 and ReLU; with batch normalization between them for segmentation."""
        if task == "segmentation":
            x = normalized(x, filters, 3, name, use_bias=False)
        else:
            x = real_convolution(x, filters, 3, f"{name}_conv")
        return head_activation(x, name)


def layer_normalization(name):
    """Over the channels, epsilon 1e-6."""
    return layers.LayerNormalization(epsilon=1e-6, name=name)


def _shared_convolution(filters, name):
    bound = 1 / math.sqrt(9 * filters)
    return QuantConv2D(
        filters,
        3,
        padding="symmetric",
        kernel_initializer=builder.torch_initializer(),
        bias_initializer=keras.initializers.RandomUniform(-bound, bound),
        name=f"{name}_conv",
    )


_REAL_FORMS = {"scratch": Scratch, "pretrained": Pretrained}


def form_of(precision: str, scale_axis: str, sign_of_zero: int):
    """The form that a network's `precision` names.

    Raises:
        ValueError: If an argument is out of range.
    """
    known = ["binary", *_REAL_FORMS]
    if precision not in known:
        raise ValueError(f"`precision` must be one of {known}. Received: precision={precision!r}")
    # Checks its arguments, which networks of full precision have too.
    binary = Binary(scale_axis, sign_of_zero)
    return binary if precision == "binary" else _REAL_FORMS[precision]()
