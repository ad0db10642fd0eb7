"""IR-Net's networks for CIFAR-10, which LCR-BNN trains too, and their real-valued counterpart.

Paper and official repository: see `bnnkeras.zoo.lcrbnn.imagenet`.

The stages of the residual networks end in layers `stage1_output`, `stage2_output`, ...
"""

import functools

import keras
from keras import layers

from bnnkeras.zoo import builder
from bnnkeras.zoo.lcrbnn.blocks import Style, block, projection, subsampling
from bnnkeras.zoo.lcrbnn.imagenet import stages, torch_head
from bnnkeras.zoo.registry import register_model

_SMALL_WIDTHS = (16, 32, 64)
_WIDTHS = (64, 128, 256, 512)
# Filters of VGG-Small's convolutions, and where a max pool stands behind.
_VGG = ((128, False), (128, True), (256, False), (256, True), (512, False), (512, True))


def _stem(x, filters, style: Style, activation):
    # Named apart from the ImageNet stem: the official names behind it differ.
    x = style.convolution(x, filters, 3, 1, "cifar_conv")
    x = builder.batch_normalization("cifar_bn")(x)
    return x if activation is None else activation(x, "cifar_activation")


def _residual_network(
    style,
    widths,
    repeats,
    shortcut,
    dense,
    stem_activation,
    neck_activation,
    initializers,
    input_shape,
    input_tensor,
    classes,
    include_top,
    pooling,
    weights,
    classifier_activation,
    name,
):
    builder.check_top(include_top, classes, pooling)
    inputs = builder.image_input(input_shape, input_tensor, default_shape=(32, 32, 3))

    def make_block(x, filters, strides, name, end):
        return block(x, filters, strides, style, name, shortcut, dense, end)

    def neck(x):
        x = builder.batch_normalization("head_bn")(x)
        return x if neck_activation is None else neck_activation(x, "head_activation")

    x = stages(_stem(inputs, widths[0], style, stem_activation), widths, repeats, make_block)
    kernel, bias = initializers
    outputs = builder.classification_head(
        x, classes, include_top, pooling, classifier_activation, kernel, bias, neck
    )
    return builder.finish(inputs, outputs, name, weights)


def _small_head():
    return builder.he_normal(), keras.initializers.RandomUniform(-0.125, 0.125)


@register_model
def LCRResNet20(
    input_shape=None,
    input_tensor=None,
    classes=10,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    binary_activations=True,
    sign_of_zero=1,
    name="lcrresnet20",
) -> keras.Model:
    """IR-Net's ResNet-20 for CIFAR-10; 18 binary convolutions.

    At 32x32 with 10 classes: 269,850 trainable parameters, 267,264 of them 1-bit; 40.1e6 binary and
    0.443e6 real multiply-accumulates. Published CIFAR-10 accuracy: 86.5 % (IR-Net), 90.8 % with
    real-valued activations. No weights are published.

    Args:
        input_shape: `(height, width, channels)`. Defaults to `(32, 32, 3)`; height and
            width may be anything, `None` leaves them open.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes; ignored without the top. Defaults to 10.
        include_top: Whether to add the classifier and what stands before it.
        pooling: Without the top: `None` for the feature map, `"avg"` or `"max"`.
        weights: `None`, or the path of a `.weights.h5` or `.keras` file of this architecture, or
            of an official PyTorch checkpoint (`.pth.tar`, `.npz`, `.safetensors`).
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        binary_activations: `False` builds the network with 1-bit weights and real activations
            (1w32a): ReLU, and a shortcut per block. Defaults to `True` (1w1a).
        sign_of_zero: 1 (default; the only value LCE can run) or 0 (PyTorch's sign).
        name: Name of the model.

    Returns:
        A functional `keras.Model` on images `(batch, height, width, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import LCRResNet20
        >>> LCRResNet20(input_shape=(32, 32, 3), classes=10).output_shape
        (None, 10)

    Reference:
        Qin et al., IR-Net (CVPR 2020); Shang et al., LCR-BNN (ECCV 2022), as released.
    """
    style = Style(binary_activations, sign_of_zero=sign_of_zero)
    return _residual_network(
        style,
        _SMALL_WIDTHS,
        (3, 3, 3),
        subsampling,
        dense=binary_activations,
        # The released 1w32a network has its activations elsewhere.
        stem_activation=style.activated if binary_activations else None,
        neck_activation=None if binary_activations else style.activated,
        initializers=_small_head(),
        input_shape=input_shape,
        input_tensor=input_tensor,
        classes=classes,
        include_top=include_top,
        pooling=pooling,
        weights=weights,
        classifier_activation=classifier_activation,
        name=name,
    )


@register_model
def LCRCifarResNet18(
    input_shape=None,
    input_tensor=None,
    classes=10,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    sign_of_zero=1,
    name="lcrcifarresnet18",
) -> keras.Model:
    """IR-Net's ResNet-18 for CIFAR-10; 16 binary convolutions, one shortcut per block.

    At 32x32 with 10 classes: 11,174,986 trainable parameters, 10,985,472 of them 1-bit; 547e6
    binary and 8.07e6 real multiply-accumulates. Published CIFAR-10 accuracy: 91.5 % (IR-Net),
    91.8 % (LCR-BNN). No weights are published.

    Args:
        input_shape: As for `LCRResNet20`, and so are all others.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes. Defaults to 10.
        include_top: Whether to add the classifier and what stands before it.
        pooling: Without the top: `None`, `"avg"` or `"max"`.
        weights: `None` or the path of a file.
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        sign_of_zero: 1 (default; the only value LCE can run) or 0 (PyTorch's sign).
        name: Name of the model.

    Returns:
        A functional `keras.Model` on images `(batch, height, width, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import LCRCifarResNet18
        >>> LCRCifarResNet18(input_shape=(32, 32, 3), classes=10).output_shape
        (None, 10)

    Reference:
        Qin et al., IR-Net (CVPR 2020); Shang et al., LCR-BNN (ECCV 2022), as released.
    """
    style = Style(True, builder.torch_initializer, sign_of_zero)
    return _residual_network(
        style,
        _WIDTHS,
        (2, 2, 2, 2),
        functools.partial(_projection, style=style),
        dense=False,
        stem_activation=None,
        neck_activation=None,
        initializers=torch_head(_WIDTHS[-1]),
        input_shape=input_shape,
        input_tensor=input_tensor,
        classes=classes,
        include_top=include_top,
        pooling=pooling,
        weights=weights,
        classifier_activation=classifier_activation,
        name=name,
    )


def _projection(x, filters, strides, name, style):
    return projection(x, filters, strides, style, name)


@register_model
def ResNet20(
    input_shape=None,
    input_tensor=None,
    classes=10,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    name="resnet20",
) -> keras.Model:
    """The real-valued ResNet-20 for CIFAR-10, as IR-Net releases it: a teacher for `LCRResNet20`.

    269,850 trainable parameters. Hardtanh after the first convolution, ReLU elsewhere.

    Args:
        input_shape: As for `LCRResNet20`, and so are all others.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes. Defaults to 10.
        include_top: Whether to add the classifier and what stands before it.
        pooling: Without the top: `None`, `"avg"` or `"max"`.
        weights: `None` or the path of a file.
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        name: Name of the model.

    Returns:
        A functional `keras.Model` on images `(batch, height, width, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import ResNet20
        >>> ResNet20(input_shape=(32, 32, 3), classes=10).output_shape
        (None, 10)

    Reference:
        He et al., Deep Residual Learning for Image Recognition (CVPR 2016).
    """
    style = Style(binary_activations=False, binary_kernels=False)
    return _residual_network(
        style,
        _SMALL_WIDTHS,
        (3, 3, 3),
        subsampling,
        dense=False,
        stem_activation=Style().activated,
        neck_activation=None,
        initializers=_small_head(),
        input_shape=input_shape,
        input_tensor=input_tensor,
        classes=classes,
        include_top=include_top,
        pooling=pooling,
        weights=weights,
        classifier_activation=classifier_activation,
        name=name,
    )


@register_model
def LCRVGGSmall(
    input_shape=None,
    input_tensor=None,
    classes=10,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    sign_of_zero=1,
    name="lcrvggsmall",
) -> keras.Model:
    """IR-Net's VGG-Small for CIFAR-10; 5 binary convolutions.

    Max pools stand between a convolution and its BN. At 32x32 with 10 classes: 4,660,106 trainable
    parameters, 4,571,136 of them 1-bit; 604e6 binary and 3.62e6 real multiply-accumulates.
    Published CIFAR-10 accuracy: 90.4 % (IR-Net). No weights are published.

    Args:
        input_shape: As for `LCRResNet20`, and so are all others. With the top, height and width
            must be known; official checkpoints are for 32x32.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes. Defaults to 10.
        include_top: Whether to add the classifier and what stands before it.
        pooling: Without the top: `None`, `"avg"` or `"max"`.
        weights: `None` or the path of a file.
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        sign_of_zero: 1 (default; the only value LCE can run) or 0 (PyTorch's sign).
        name: Name of the model.

    Returns:
        A functional `keras.Model` on images `(batch, height, width, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import LCRVGGSmall
        >>> LCRVGGSmall(input_shape=(32, 32, 3), classes=10).output_shape
        (None, 10)

    Reference:
        Qin et al., IR-Net (CVPR 2020); Shang et al., LCR-BNN (ECCV 2022), as released.
    """
    builder.check_top(include_top, classes, pooling)
    inputs = builder.image_input(input_shape, input_tensor, default_shape=(32, 32, 3))
    style = Style(True, functools.partial(builder.he_normal, "fan_out"), sign_of_zero)
    x = inputs
    for index, (filters, pooled) in enumerate(_VGG):
        if index == 0:
            x = style.convolution(x, filters, 3, 1, "conv0")
        else:
            x = style.binary(x, filters, 1, f"conv{index}")
        if pooled:
            x = layers.MaxPooling2D(2, name=f"pool{index}")(x)
        x = builder.batch_normalization(f"bn{index}")(x)
        x = style.activated(x, f"activation{index}")
    if include_top:
        outputs = layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            name="classifier",
        )(layers.Flatten(name="flatten")(x))
    else:
        outputs = builder.classification_head(x, classes, False, pooling, None, None, None)
    return builder.finish(inputs, outputs, name, weights)
