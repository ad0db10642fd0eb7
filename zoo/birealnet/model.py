"""Bi-Real Net: ResNets with 1-bit weights and activations and a shortcut around every convolution.

Papers:
    Liu, Wu, Luo, Yang, Liu, Cheng, "Bi-Real Net: Enhancing the Performance of 1-bit CNNs With
    Improved Representational Capability and Advanced Training Algorithm", ECCV 2018
    (arXiv 1808.00278).
Official repository: github.com/liuzechun/Bi-Real-net. No trained weights are published there, and
    no code of it is used here.
"""

import math

import keras
from keras import layers

from bnnkeras.layers import MaxPooling2D, QuantConv2D
from bnnkeras.quantizers import ApproxSign, MagnitudeAwareSign
from bnnkeras.zoo import builder
from bnnkeras.zoo.registry import register_model

_WIDTHS = (64, 128, 256, 512)


def real_initializer():
    """PyTorch's default for convolutions and dense layers: U(-b, b), b = 1 / sqrt(fan_in)."""
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")


def _batch_norm(name):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)


def basic_block(x, filters, stride, sign_of_zero, name):
    """y = BN(conv(sign(x))) + shortcut(x), the whole block around a single binary convolution.

    The shortcut is x itself, or average pooling, a real 1x1 convolution and BN where the shape
    changes (ECCV 2018, figure 3b).
    """
    shortcut = x
    if stride != 1 or x.shape[-1] != filters:
        shortcut = layers.AveragePooling2D(stride, name=f"{name}_shortcut_pool")(x)
        shortcut = layers.Conv2D(
            filters,
            1,
            use_bias=False,
            kernel_initializer=real_initializer(),
            name=f"{name}_shortcut_conv",
        )(shortcut)
        shortcut = _batch_norm(f"{name}_shortcut_bn")(shortcut)
    y = QuantConv2D(
        filters,
        3,
        strides=stride,
        padding="symmetric",
        use_bias=False,
        input_quantizer=ApproxSign(sign_of_zero=sign_of_zero),
        kernel_quantizer=MagnitudeAwareSign(scale_gradient=False, sign_of_zero=sign_of_zero),
        kernel_initializer=keras.initializers.RandomUniform(0.0, 0.001),
        name=f"{name}_conv",
    )(x)
    y = _batch_norm(f"{name}_bn")(y)
    return layers.Add(name=f"{name}_add")([y, shortcut])


def _check_size(shape):
    """The stride-2 shortcuts halve the size three times after the stem, without a remainder."""
    for size in shape[1:3]:
        if size is not None and (size < 1 or math.ceil(math.ceil(size / 2) / 2) % 8):
            raise ValueError(
                "`input_shape`: height and width divided by 4 (rounded up) must be multiples of 8, "
                f"for example 32, 64, 96, 128, 160, 192 or 224. Received: {tuple(shape[1:])}"
            )


def _residual_network(
    repeats,
    input_shape,
    input_tensor,
    classes,
    include_top,
    pooling,
    weights,
    classifier_activation,
    sign_of_zero,
    name,
):
    builder.check_top(include_top, classes, pooling)
    inputs = builder.image_input(input_shape, input_tensor, default_shape=(224, 224, 3))
    _check_size(inputs.shape)

    x = QuantConv2D(
        64,
        7,
        strides=2,
        padding="symmetric",
        use_bias=False,
        kernel_initializer=real_initializer(),
        name="stem_conv",
    )(inputs)
    x = _batch_norm("stem_bn")(x)
    # There is no activation before this pool, so its padding must be -inf and not 0.
    x = MaxPooling2D(3, strides=2, padding="symmetric", name="stem_pool")(x)
    for stage, (filters, count) in enumerate(zip(_WIDTHS, repeats, strict=True), start=1):
        for block in range(count):
            stride = 2 if block == 0 and stage > 1 else 1
            x = basic_block(x, filters, stride, sign_of_zero, f"stage{stage}_block{block}")

    bound = 1 / math.sqrt(_WIDTHS[-1])
    outputs = builder.classification_head(
        x,
        classes,
        include_top,
        pooling,
        classifier_activation,
        kernel_initializer=real_initializer(),
        bias_initializer=keras.initializers.RandomUniform(-bound, bound),
    )
    return builder.finish(inputs, outputs, name, weights)


@register_model
def BiRealNet18(
    input_shape=None,
    input_tensor=None,
    classes=1000,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    sign_of_zero=1,
    name="birealnet18",
) -> keras.Model:
    """Bi-Real Net with 18 layers, 16 of them binary 3x3 convolutions.

    At 224x224 with 1000 classes: 11,689,512 trainable parameters, 10,985,472 of them 1-bit;
    1.676e9 binary and 0.138e9 real multiply-accumulates. Published ImageNet accuracy: 56.4 % top-1,
    79.5 % top-5 (no weights are published).

    Args:
        input_shape: `(height, width, channels)`. Defaults to `(224, 224, 3)`. Height and width
            divided by 4, rounded up, must be multiples of 8; `None` leaves them open.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes; ignored without the top.
        include_top: Whether to add global average pooling and the classifier.
        pooling: Without the top: `None` for the feature map, `"avg"` or `"max"`.
        weights: `None`, or the path of a `.weights.h5` or `.keras` file of this architecture.
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        sign_of_zero: 1 (default; the only value LCE can run) or 0 (PyTorch's sign).
        name: Name of the model.

    Returns:
        A functional `keras.Model` on images `(batch, height, width, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import BiRealNet18
        >>> model = BiRealNet18(input_shape=(32, 32, 3), classes=10)
        >>> model.output_shape
        (None, 10)

    Reference:
        Liu et al., Bi-Real Net (ECCV 2018), sections 3.1 to 3.3.
    """
    return _residual_network(
        (4, 4, 4, 4),
        input_shape,
        input_tensor,
        classes,
        include_top,
        pooling,
        weights,
        classifier_activation,
        sign_of_zero,
        name,
    )
