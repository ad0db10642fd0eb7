"""LCR-BNN's networks for ImageNet, which are IR-Net's, and their real-valued teachers.

Papers:
    Qin, Gong, Liu, Shen, Wei, Yu, Song, "Forward and Backward Information Retention for Accurate
    Binary Neural Networks" (IR-Net), CVPR 2020 (arXiv 1909.10788).
    Shang, Xu, Duan, Zong, Nie, Yan, "Lipschitz Continuity Retained Binary Neural Network",
    ECCV 2022 (arXiv 2207.06540).
Official repositories: github.com/htqin/IR-Net, github.com/42Shawn/LCR_BNN. No trained weights are
    published there, and no code of them is used here.

The stages end in layers `stage1_output` to `stage4_output`: what LCR's regularizer compares
(`bnnkeras.training.LipschitzRetention`), and nothing of it is in the network itself.
"""

import functools

import keras
from keras import layers

from bnnkeras.layers import MaxPooling2D
from bnnkeras.zoo import builder
from bnnkeras.zoo.lcrbnn.blocks import Style, block, preactivated_block, projection
from bnnkeras.zoo.registry import register_model

_WIDTHS = (64, 128, 256, 512)


def torch_head(features: int) -> tuple:
    """Initializers of kernel and bias that PyTorch gives a classifier."""
    bound = features**-0.5
    return builder.torch_initializer(), keras.initializers.RandomUniform(-bound, bound)


def stages(x, widths, repeats, make_block):
    """`make_block(x, filters, strides, name, end)` in stages, of which all but the first halve."""
    for stage, (filters, count) in enumerate(zip(widths, repeats, strict=True), start=1):
        for index in range(count):
            name = f"stage{stage}_block{index}"
            end = f"stage{stage}_output" if index == count - 1 else f"{name}_output"
            x = make_block(x, filters, 2 if index == 0 and stage > 1 else 1, name, end)
    return x


def _stem(x, style: Style, deep: bool):
    if deep:
        x = style.convolution(x, 32, 3, 2, "stem_conv1")
        x = builder.batch_normalization("stem_bn1")(x)
        x = style.activated(x, "stem_activation1")
        x = style.convolution(x, 32, 3, 1, "stem_conv2")
        x = builder.batch_normalization("stem_bn2")(x)
        x = style.activated(x, "stem_activation2")
        x = style.convolution(x, 64, 3, 1, "stem_conv3")
    else:
        x = style.convolution(x, 64, 7, 2, "stem_conv")
    x = builder.batch_normalization("stem_bn")(x)
    x = style.activated(x, "stem_activation")
    return MaxPooling2D(3, strides=2, padding="symmetric", name="stem_pool")(x)


def _binary_network(
    repeats,
    input_shape,
    input_tensor,
    classes,
    include_top,
    pooling,
    weights,
    classifier_activation,
    binary_activations,
    deep_stem,
    avg_down,
    sign_of_zero,
    initialization,
    name,
):
    builder.check_top(include_top, classes, pooling)
    if initialization not in ("fan_in", "fan_out"):
        raise ValueError(
            '`initialization` must be "fan_in" or "fan_out". '
            f"Received: initialization={initialization!r}"
        )
    he_normal = functools.partial(builder.he_normal, initialization)
    style = Style(binary_activations, he_normal, sign_of_zero)
    inputs = builder.image_input(input_shape, input_tensor, default_shape=(224, 224, 3))
    shortcut = functools.partial(_projection, style=style, avg_down=avg_down)

    def make_block(x, filters, strides, name, end):
        return block(x, filters, strides, style, name, shortcut, binary_activations, end)

    x = stages(_stem(inputs, style, deep_stem), _WIDTHS, repeats, make_block)
    kernel, bias = torch_head(_WIDTHS[-1])
    neck = builder.batch_normalization("head_bn")
    outputs = builder.classification_head(
        x, classes, include_top, pooling, classifier_activation, kernel, bias, neck
    )
    return builder.finish(inputs, outputs, name, weights)


def _projection(x, filters, strides, name, style, avg_down):
    return projection(x, filters, strides, style, name, avg_down)


def _teacher(
    repeats,
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
    style = Style(False, functools.partial(builder.he_normal, "fan_out"), binary_kernels=False)
    inputs = builder.image_input(input_shape, input_tensor, default_shape=(224, 224, 3))

    def make_block(x, filters, strides, name, end):
        return preactivated_block(x, filters, strides, style, name, end)

    x = stages(_stem(inputs, style, deep=False), _WIDTHS, repeats, make_block)
    x = layers.Activation("relu", name="head_activation")(x)
    outputs = builder.classification_head(
        x, classes, include_top, pooling, classifier_activation, *torch_head(_WIDTHS[-1])
    )
    return builder.finish(inputs, outputs, name, weights)


@register_model
def LCRResNet18(
    input_shape=None,
    input_tensor=None,
    classes=1000,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    binary_activations=True,
    deep_stem=False,
    avg_down=False,
    sign_of_zero=1,
    initialization="fan_in",
    name="lcrresnet18",
) -> keras.Model:
    """IR-Net's ResNet-18 for ImageNet, the network that LCR-BNN trains; 16 binary convolutions.

    At 224x224 with 1000 classes: 11,690,536 trainable parameters, 10,985,472 of them 1-bit;
    1.676e9 binary and 0.138e9 real multiply-accumulates. Published ImageNet top-1: 58.1 %
    (IR-Net), 59.6 % (LCR-BNN); with real-valued activations 66.5 % (IR-Net). No weights are
    published.

    Args:
        input_shape: `(height, width, channels)`. Defaults to `(224, 224, 3)`; height and
            width may be anything, `None` leaves them open.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes; ignored without the top. Defaults to 1000.
        include_top: Whether to add the classifier and what stands before it.
        pooling: Without the top: `None` for the feature map, `"avg"` or `"max"`.
        weights: `None`, or the path of a `.weights.h5` or `.keras` file of this architecture, or
            of an official PyTorch checkpoint (`.pth.tar`, `.npz`, `.safetensors`).
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        binary_activations: `False` builds the network with 1-bit weights and real activations
            (1w32a): ReLU, and a shortcut per block. Defaults to `True` (1w1a).
        deep_stem: Whether three 3x3 convolutions replace the first one. Defaults to `False`.
        avg_down: Whether shortcuts average where they halve the size. Defaults to `False`.
        sign_of_zero: 1 (default; the only value LCE can run) or 0 (PyTorch's sign).
        initialization: By what He's normal initialization of the kernels divides: `"fan_in"`
            (default, LCR-BNN's) or `"fan_out"` (IR-Net's).
        name: Name of the model.

    Returns:
        A functional `keras.Model` on images `(batch, height, width, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import LCRResNet18
        >>> LCRResNet18(input_shape=(32, 32, 3), classes=10).output_shape
        (None, 10)

    Reference:
        Qin et al., IR-Net (CVPR 2020); Shang et al., LCR-BNN (ECCV 2022), as released.
    """
    return _binary_network((2, 2, 2, 2), **locals())


@register_model
def LCRResNet34(
    input_shape=None,
    input_tensor=None,
    classes=1000,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    binary_activations=True,
    deep_stem=False,
    avg_down=False,
    sign_of_zero=1,
    initialization="fan_in",
    name="lcrresnet34",
) -> keras.Model:
    """IR-Net's ResNet-34 for ImageNet; 32 binary convolutions.

    At 224x224 with 1000 classes: 21,798,696 trainable parameters, 21,086,208 of them 1-bit;
    3.526e9 binary and 0.138e9 real multiply-accumulates. Published ImageNet top-1: 62.9 %
    (IR-Net), 63.5 % (LCR-BNN); with real-valued activations 70.4 % (IR-Net). No weights are
    published.

    Args:
        input_shape: As for `LCRResNet18`, and so are all others.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes. Defaults to 1000.
        include_top: Whether to add the classifier and what stands before it.
        pooling: Without the top: `None`, `"avg"` or `"max"`.
        weights: `None` or the path of a file.
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        binary_activations: `False` builds the network with 1-bit weights and real activations
            (1w32a): ReLU, and a shortcut per block. Defaults to `True` (1w1a).
        deep_stem: Whether three 3x3 convolutions replace the first one. Defaults to `False`.
        avg_down: Whether shortcuts average where they halve the size. Defaults to `False`.
        sign_of_zero: 1 (default; the only value LCE can run) or 0 (PyTorch's sign).
        initialization: By what He's normal initialization of the kernels divides: `"fan_in"`
            (default, LCR-BNN's) or `"fan_out"` (IR-Net's).
        name: Name of the model.

    Returns:
        A functional `keras.Model` on images `(batch, height, width, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import LCRResNet34
        >>> LCRResNet34(input_shape=(32, 32, 3), classes=10).output_shape
        (None, 10)

    Reference:
        Qin et al., IR-Net (CVPR 2020); Shang et al., LCR-BNN (ECCV 2022), as released.
    """
    return _binary_network((3, 4, 6, 3), **locals())


@register_model
def ResNet18(
    input_shape=None,
    input_tensor=None,
    classes=1000,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    name="resnet18",
) -> keras.Model:
    """The real-valued ResNet-18 of torchvision, LCR-BNN's teacher.

    Its stages end before the last ReLU, in `stage1_output` to `stage4_output`. torchvision's
    checkpoints (`resnet18-5c106cde.pth`) load as `weights` and give the same logits.
    11,689,512 trainable parameters, 1.814e9 multiply-accumulates at 224x224.

    Args:
        input_shape: `(height, width, channels)`. Defaults to `(224, 224, 3)`; height and
            width may be anything, `None` leaves them open.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes; ignored without the top. Defaults to 1000.
        include_top: Whether to add the classifier and what stands before it.
        pooling: Without the top: `None` for the feature map, `"avg"` or `"max"`.
        weights: `None`, or the path of a `.weights.h5` or `.keras` file of this architecture, or
            of an official PyTorch checkpoint (`.pth.tar`, `.npz`, `.safetensors`).
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        name: Name of the model.

    Returns:
        A functional `keras.Model` on images `(batch, height, width, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import ResNet18
        >>> ResNet18(input_shape=(32, 32, 3), classes=10).output_shape
        (None, 10)

    Reference:
        He et al., Deep Residual Learning for Image Recognition (CVPR 2016).
    """
    return _teacher((2, 2, 2, 2), **locals())


@register_model
def ResNet34(
    input_shape=None,
    input_tensor=None,
    classes=1000,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    name="resnet34",
) -> keras.Model:
    """The real-valued ResNet-34 of torchvision.

    21,797,672 trainable parameters, 3.664e9 multiply-accumulates at 224x224. See `ResNet18`.

    Args:
        input_shape: As for `ResNet18`, and so are all others.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes. Defaults to 1000.
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
        >>> from bnnkeras.zoo import ResNet34
        >>> ResNet34(input_shape=(32, 32, 3), classes=10).output_shape
        (None, 10)

    Reference:
        He et al., Deep Residual Learning for Image Recognition (CVPR 2016).
    """
    return _teacher((3, 4, 6, 3), **locals())
