"""The few plain layers, beside Keras's own, that a deploy form consists of.

Each is one or two TensorFlow Lite operations, in the form that Larq Compute Engine is known to run.
"""

import keras
import numpy as np
from keras import ops

from bnnkeras.layers import AlignedResizing
from bnnkeras.quantizers import reductions
from bnnkeras.registration import deserialize, register, serialize


@register
class Sign(keras.layers.Layer):
    """+1 where x >= 0, else -1: becomes LceQuantize.

    The two scalar constants matter: LCE's converter leaves `ops.sign(x)` and constants of the shape
    of `x` in float.
    """

    def call(self, inputs):
        positive = ops.convert_to_tensor(1.0, dtype=self.compute_dtype)
        negative = ops.convert_to_tensor(-1.0, dtype=self.compute_dtype)
        return ops.where(inputs >= 0, positive, negative)

    def compute_output_shape(self, input_shape):
        return input_shape


@register
class Convolution(keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose dilation stays inside one operation.

    Keras writes a dilated convolution for TensorFlow as space-to-batch, convolution and
    batch-to-space. LCE's converter does not put them together again where two convolutions read
    the same signs, and leaves both in float.
    """

    def convolution_op(self, inputs, kernel):
        dilated = max(self.dilation_rate) > 1 and self.groups == 1
        if not dilated or keras.backend.backend() != "tensorflow":
            return super().convolution_op(inputs, kernel)
        import tensorflow

        return tensorflow.nn.conv2d(
            inputs, kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate
        )


@register
class Affine(keras.layers.Layer):
    """y = scale * x + bias with one scale and one bias per channel: fused into LceBconv2d.

    The variables have rank 1: a constant of any other rank after a binary convolution gives a file
    that does not load, or is wrong.

    Args:
        use_scale: Whether to multiply; `False` adds the bias alone.

    Call arguments:
        inputs: `(batch, ..., channels)`.
    """

    def __init__(self, use_scale=True, **kwargs):
        super().__init__(**kwargs)
        self.use_scale = use_scale

    def build(self, input_shape):
        shape = (input_shape[-1],)
        if self.use_scale:
            self.scale = self.add_weight(name="scale", shape=shape, initializer="ones")
        self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros")

    def call(self, inputs):
        if self.use_scale:
            inputs = inputs * self.scale
        return inputs + self.bias

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "use_scale": self.use_scale}


@register
class Flip(keras.layers.Layer):
    """Reverses axes of a feature map.

    Args:
        axes: Tuple of 1 (height) and 2 (width).

    Call arguments:
        inputs: `(batch, height, width, channels)`.
    """

    def __init__(self, axes, **kwargs):
        super().__init__(**kwargs)
        self.axes = tuple(axes)

    def call(self, inputs):
        return ops.flip(inputs, axis=self.axes)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "axes": self.axes}


@register
class SubtractFrom(keras.layers.Layer):
    """y = constant - x, the constant one value per position and channel.

    `constant - LceBconv2d` is the one order that LCE's converter does not fuse into a wrong file.

    Call arguments:
        inputs: `(batch, height, width, channels)`.
    """

    def build(self, input_shape):
        self.constant = self.add_weight(name="constant", shape=input_shape[1:], initializer="zeros")

    def call(self, inputs):
        return self.constant - inputs

    def compute_output_shape(self, input_shape):
        return input_shape


@register
class PositionAffine(keras.layers.Layer):
    """y = scale * (-x) + bias, with parameters that differ by position.

    It takes the negated map, so that a negation stands before the product: right behind a binary
    convolution LCE's converter would fuse the parameters without a look at their shape.

    Args:
        shape: Shape of scale and bias, without the batch axis; it broadcasts against the inputs.

    Call arguments:
        inputs: `(batch, ..., channels)`.
    """

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape = tuple(shape)

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=self.shape, initializer="ones")
        self.bias = self.add_weight(name="bias", shape=self.shape, initializer="zeros")

    def call(self, inputs):
        return ops.negative(inputs) * self.scale + self.bias

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *np.broadcast_shapes(input_shape[1:], self.shape))

    def get_config(self):
        return {**super().get_config(), "shape": self.shape}


@register
class Mean(keras.layers.Layer):
    """The mean over axes, which are kept with size 1; one axis after the other.

    A sum over height and width at once loses accuracy in TensorFlow Lite: 1e-5 of the mean at
    512 x 512, 4e-7 in two steps.

    Args:
        axes: Tuple of positive integers.

    Call arguments:
        inputs: A tensor of any rank.
    """

    def __init__(self, axes, **kwargs):
        super().__init__(**kwargs)
        self.axes = tuple(axes)

    def call(self, inputs):
        for axis in sorted(self.axes, reverse=True):
            inputs = reductions.mean(inputs, (axis,))
        return inputs

    def compute_output_shape(self, input_shape):
        return tuple(1 if axis in self.axes else size for axis, size in enumerate(input_shape))

    def get_config(self):
        return {**super().get_config(), "axes": self.axes}


@register
class ConstantPadding(keras.layers.Layer):
    """Pads a map with a constant other than 0.

    Args:
        padding: Pairs (before, after), one for each spatial axis.
        value: Float.

    Call arguments:
        inputs: `(batch, ..., channels)`.
    """

    def __init__(self, padding, value, **kwargs):
        super().__init__(**kwargs)
        self.padding = tuple(tuple(pair) for pair in padding)
        self.value = value

    def call(self, inputs):
        widths = ((0, 0), *self.padding, (0, 0))
        return ops.pad(inputs, widths, constant_values=self.value)

    def compute_output_shape(self, input_shape):
        sizes = [
            size + before + after
            for size, (before, after) in zip(input_shape[1:-1], self.padding, strict=True)
        ]
        return (input_shape[0], *sizes, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "padding": self.padding, "value": self.value}


@register
class BilinearResizing(AlignedResizing):
    """`AlignedResizing` as one RESIZE_BILINEAR with aligned corners.

    TensorFlow computes it in float32 only; in other dtypes and on other backends it is the product
    with two matrices.
    """

    def call(self, inputs):
        if keras.backend.backend() != "tensorflow" or self.compute_dtype != "float32":
            return super().call(inputs)
        import tensorflow

        return tensorflow.raw_ops.ResizeBilinear(
            images=inputs, size=(self.height, self.width), align_corners=True
        )


class _PartOfQuantizer(keras.layers.Layer):
    """A part of a `Binarizer` that is computed from the data.

    Args:
        quantizer: The `Binarizer`, or its configuration.

    Call arguments:
        inputs: What the quantizer is applied to.
    """

    def __init__(self, quantizer, **kwargs):
        super().__init__(**kwargs)
        self.quantizer = deserialize(quantizer)

    def build(self, input_shape):
        if not self.quantizer.built:
            self.quantizer.build(input_shape)

    def get_config(self):
        return {**super().get_config(), "quantizer": serialize(self.quantizer)}


@register
class Centre(_PartOfQuantizer):
    """x - t(x), t a threshold that depends on the data."""

    def call(self, inputs):
        return self.quantizer.centre(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


@register
class InputScale(_PartOfQuantizer):
    """s(x), a scale that depends on the data."""

    def call(self, inputs):
        return self.quantizer.components(inputs)[1]
