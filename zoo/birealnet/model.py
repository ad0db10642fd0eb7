"""Bi-Real Net: ResNets with 1-bit weights and activations and a shortcut around every convolution.

Papers:
    Liu, Wu, Luo, Yang, Liu, Cheng, "Bi-Real Net: Enhancing the Performance of 1-bit CNNs With
    Improved Representational Capability and Advanced Training Algorithm", ECCV 2018
    (arXiv 1808.00278).
    Liu, Luo, Wu, Yang, Liu, Cheng, "Bi-Real Net: Binarizing Deep Network Towards Real-Network
    Performance", IJCV 128, 2020 (arXiv 1811.01335).
Official repository: github.com/liuzechun/Bi-Real-net. No trained weights are published there, and
    no code of it is used here.
"""

import math

import keras

from bnnkeras.layers import MaxPooling2D
from bnnkeras.zoo import builder
from bnnkeras.zoo.birealnet.blocks import Style, basic_block, bottleneck_block
from bnnkeras.zoo.registry import register_model

_WIDTHS = (64, 128, 256, 512)
_BOTTLENECK_WIDTHS = (256, 512, 1024, 2048)


def _check_size(shape, style: Style) -> None:
    """The stride-2 shortcuts halve the size three times after the stem, without a remainder."""
    for size in shape[1:3]:
        if size is None:
            continue
        convolved = math.ceil(size / 2)
        # Caffe's pool of a map of odd size would be one smaller.
        if size < 1 or math.ceil(convolved / 2) % 8 or (style.caffe and convolved % 2):
            raise ValueError(
                "`input_shape`: height and width divided by 4 (rounded up) must be multiples of 8, "
                f"for example 32, 64, 96, 128, 160, 192 or 224. Received: {tuple(shape[1:])}"
            )


def _stem(inputs, style: Style):
    x = style.real(inputs, 64, 7, 2, "stem_conv")
    x = builder.batch_normalization("stem_bn")(x)
    # There is no activation before this pool, so its padding must be -inf and not 0. Caffe's
    # windows start without padding and end behind the border, as "same" has them on even sizes.
    padding = "same" if style.caffe else "symmetric"
    return MaxPooling2D(3, strides=2, padding=padding, name="stem_pool")(x)


def _network(
    body,
    input_shape,
    input_tensor,
    classes,
    include_top,
    pooling,
    weights,
    classifier_activation,
    name,
    **style_arguments,
):
    """Stem, `body` and head; `body(x, style)` is what lies between."""
    style = Style(**style_arguments)
    builder.check_top(include_top, classes, pooling)
    inputs = builder.image_input(input_shape, input_tensor, default_shape=(224, 224, 3))
    _check_size(inputs.shape, style)
    x = body(_stem(inputs, style), style)

    bound = 1 / math.sqrt(x.shape[-1])
    bias = keras.initializers.RandomUniform(-bound, bound)
    outputs = builder.classification_head(
        x,
        classes,
        include_top,
        pooling,
        classifier_activation,
        # Caffe's "xavier", over the inputs alone.
        keras.initializers.LecunUniform() if style.caffe else builder.torch_initializer(),
        "zeros" if style.caffe else bias,
    )
    return builder.finish(inputs, outputs, name, weights)


def _basic(repeats):
    def body(x, style):
        for stage, (filters, count) in enumerate(zip(_WIDTHS, repeats, strict=True), start=1):
            for block in range(count):
                strides = 2 if block == 0 and stage > 1 else 1
                x = basic_block(x, filters, strides, style, f"stage{stage}_block{block}")
        return x

    return body


def _bottleneck(repeats):
    def body(x, style):
        middle = wide = x
        index = 0
        for stage, (filters, count) in enumerate(
            zip(_BOTTLENECK_WIDTHS, repeats, strict=True), start=1
        ):
            for block in range(count):
                first = None if block else "network" if stage == 1 else "stage"
                strides = 2 if first == "stage" else 1
                middle, wide = bottleneck_block(
                    middle, wide, filters, strides, style, f"block{index}", first
                )
                index += 1
        return wide

    return body


@register_model
def BiRealNet18(
    input_shape=None,
    input_tensor=None,
    classes=1000,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    activation=None,
    scale_gradient=False,
    convention="pytorch",
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
        weights: `None`, or the path of a `.weights.h5` or `.keras` file of this architecture, or
            of an official PyTorch checkpoint (`.pth.tar`, `.npz`, `.safetensors`).
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        activation: `None` (default) for the binary network. `"relu"`, `"leaky_clip"`, `"clip"` or
            a function builds the real-valued network that is trained in advance, with this in place
            of the sign; its weights fit: `binary.set_weights(real.get_weights())`.
        scale_gradient: Whether the gradient of the latent kernels is multiplied by their scale, as
            in the paper. Defaults to `False`, as released.
        convention: `"pytorch"` (default) or `"caffe"`: biases in all convolutions, no BN in the
            downsampling shortcuts, and a max pool that starts without padding. At exactly 0
            Caffe's threshold gives -1; here `sign_of_zero` decides.
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
    return _network(_basic((4, 4, 4, 4)), **locals())


@register_model
def BiRealNet34(
    input_shape=None,
    input_tensor=None,
    classes=1000,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    activation=None,
    scale_gradient=False,
    convention="pytorch",
    sign_of_zero=1,
    name="birealnet34",
) -> keras.Model:
    """Bi-Real Net with 34 layers, 32 of them binary 3x3 convolutions.

    At 224x224 with 1000 classes: 21,797,672 trainable parameters, 21,086,208 of them 1-bit;
    3.526e9 binary and 0.138e9 real multiply-accumulates. Published ImageNet accuracy: 62.2 % top-1,
    83.9 % top-5 (no weights are published).

    Args:
        input_shape: As for `BiRealNet18`, and so are all others.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes.
        include_top: Whether to add pooling and the classifier.
        pooling: Without the top: `None`, `"avg"` or `"max"`.
        weights: `None` or the path of a file.
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        activation: `None`, or what stands in place of the sign.
        scale_gradient: Whether kernel gradients are multiplied by the scale.
        convention: `"pytorch"` or `"caffe"`.
        sign_of_zero: 1 or 0.
        name: Name of the model.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import BiRealNet34
        >>> BiRealNet34(input_shape=(32, 32, 3), classes=10).output_shape
        (None, 10)

    Reference:
        Liu et al., Bi-Real Net (ECCV 2018), sections 3.1 to 3.3.
    """
    return _network(_basic((6, 8, 12, 6)), **locals())


@register_model
def BiRealNet50(
    input_shape=None,
    input_tensor=None,
    classes=1000,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    activation=None,
    scale_gradient=False,
    sign_of_zero=1,
    name="birealnet50",
) -> keras.Model:
    """Bi-Real Net with 50 layers: bottlenecks with two streams, 47 binary convolutions.

    The released network, which costs more than the paper's: at 224x224 with 1000 classes 25,729,064
    trainable parameters (the release has 1,024 more that nothing uses), 20,672,512 of them 1-bit;
    3.597e9 binary and 0.570e9 real multiply-accumulates. Published ImageNet accuracy: 62.6 % top-1,
    83.9 % top-5 (no weights are published).

    Args:
        input_shape: As for `BiRealNet18`, and so are all others.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes.
        include_top: Whether to add pooling and the classifier.
        pooling: Without the top: `None`, `"avg"` or `"max"`.
        weights: `None` or the path of a file.
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        activation: `None`, or what stands in place of the sign.
        scale_gradient: Whether kernel gradients are multiplied by the scale.
        sign_of_zero: 1 or 0.
        name: Name of the model.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import BiRealNet50
        >>> BiRealNet50(input_shape=(32, 32, 3), classes=10).output_shape
        (None, 10)

    Reference:
        Liu et al., Bi-Real Net (IJCV 2020), as released.
    """
    return _network(_bottleneck((3, 4, 6, 3)), **locals())


@register_model
def BiRealNet152(
    input_shape=None,
    input_tensor=None,
    classes=1000,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    activation=None,
    scale_gradient=False,
    sign_of_zero=1,
    name="birealnet152",
) -> keras.Model:
    """Bi-Real Net with 152 layers. The structure is extrapolated: no code of it was released.

    The bottlenecks of `BiRealNet50`, 3, 8, 36 and 3 of them. At 224x224 with 1000 classes
    60,364,840 trainable parameters, 55,209,984 of them 1-bit. The paper reports 64.5 % top-1 on
    ImageNet for its network.

    Args:
        input_shape: As for `BiRealNet18`, and so are all others.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes.
        include_top: Whether to add pooling and the classifier.
        pooling: Without the top: `None`, `"avg"` or `"max"`.
        weights: `None` or the path of a file.
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        activation: `None`, or what stands in place of the sign.
        scale_gradient: Whether kernel gradients are multiplied by the scale.
        sign_of_zero: 1 or 0.
        name: Name of the model.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import BiRealNet152
        >>> BiRealNet152(input_shape=(32, 32, 3), classes=10).output_shape
        (None, 10)

    Reference:
        Liu et al., Bi-Real Net (IJCV 2020); structure extrapolated from the released 50 layers.
    """
    return _network(_bottleneck((3, 8, 36, 3)), **locals())
