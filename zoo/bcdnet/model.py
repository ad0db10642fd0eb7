"""BCDNet: ReActNet's binary MobileNet with binary MLP blocks, and contextual thresholds.

Paper:
    Xing, Li, Wang, Jiang, Zhang, Ouyang, "Towards Accurate Binary Neural Networks via Modeling
    Contextual Dependencies", ECCV 2022 (arXiv 2209.01404).
Official repository: github.com/Sense-GVT/BCDNet. It holds BCDNet-A only; BCDNet-B is built here
    from the paper's figures. No code of it is used here.
"""

import math

import keras
from keras import layers

from bnnkeras.zoo import builder
from bnnkeras.zoo.bcdnet.blocks import UNITS, Style, convolution_block, mlp_block, stem
from bnnkeras.zoo.bcdnet.heads import HEADS
from bnnkeras.zoo.registry import register_model

# Channels of the stem and of the block behind it, then of the stages that halve the map.
_STEM, _FIRST, *_STAGES = (32, 64, 128, 256, 512, 1024)
_DEPTHS = (1, 1, 3, 0)


def _check_size(shape) -> None:
    """Each of the five halvings must leave no remainder."""
    for size in shape[1:3]:
        if size is not None and size % 32:
            raise ValueError(
                "`input_shape`: height and width must be multiples of 32. "
                f"Received: {tuple(shape[1:])}"
            )


def _check_plan(width, depths, mlp_blocks) -> None:
    channels = width * _STEM if isinstance(width, (int, float)) else 0
    if channels < 4 or channels % 4:
        raise ValueError(
            "`width` must be a positive multiple of 1/8, which gives the stem a multiple of 4 "
            f"channels. Received: width={width!r}"
        )
    counts = depths if isinstance(depths, (tuple, list)) else ()
    if len(counts) != len(_STAGES) or not all(map(_is_count, counts)):
        raise ValueError(
            f"`depths` must be {len(_STAGES)} integers of at least 0. Received: depths={depths!r}"
        )
    if not _is_count(mlp_blocks):
        raise ValueError(
            f"`mlp_blocks` must be an integer of at least 0. Received: mlp_blocks={mlp_blocks!r}"
        )


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _features(inputs, width, depths, mlp_blocks, style: Style):
    x = stem(inputs, int(width * _STEM), style)
    plan = [(_FIRST, 1)]
    for channels, depth in zip(_STAGES, depths, strict=True):
        plan += [(channels, 2), *[(channels, 1)] * depth]
    for index, (channels, strides) in enumerate(plan, start=1):
        x = convolution_block(x, int(width * channels), strides, style, f"block{index}")
    for index in range(mlp_blocks):
        x = mlp_block(x, style, f"mlp{index}")
    return x


def _heads(x, classes, activation):
    """The mean of two classifiers: one learns from the labels, the other from a teacher."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    bound = 1 / math.sqrt(x.shape[-1])
    logits = [
        layers.Dense(
            classes,
            kernel_initializer=builder.torch_initializer(),
            bias_initializer=keras.initializers.RandomUniform(-bound, bound),
            name=name,
        )(x)
        for name in HEADS
    ]
    x = layers.Average(name="logits")(logits)
    activation = keras.activations.get(activation)
    if activation is keras.activations.linear:
        return x
    return layers.Activation(activation, name="predictions")(x)


def _network(
    input_shape,
    input_tensor,
    classes,
    include_top,
    pooling,
    weights,
    classifier_activation,
    width,
    depths,
    mlp_blocks,
    name,
    **style,
):
    look = Style(**style)
    builder.check_top(include_top, classes, pooling)
    _check_plan(width, depths, mlp_blocks)
    inputs = builder.image_input(input_shape, input_tensor, default_shape=(224, 224, 3))
    _check_size(inputs.shape)
    x = _features(inputs, width, depths, mlp_blocks, look)
    if include_top:
        outputs = _heads(x, classes, classifier_activation)
    else:
        outputs = builder.classification_head(x, classes, False, pooling, None, None, None)
    return builder.finish(inputs, outputs, name, weights)


@register_model
def BCDNetA(
    input_shape=None,
    input_tensor=None,
    classes=1000,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    binary_weights=True,
    width=1.0,
    depths=_DEPTHS,
    mlp_blocks=3,
    long_shift=3,
    synchronized=False,
    sign_of_zero=1,
    name="bcdneta",
) -> keras.Model:
    """BCDNet-A: ten binary convolution blocks and twelve binary MLP layers with shifts.

    At 224x224 with 1000 classes: 46,146,384 trainable parameters (45,121,384 with the heads
    merged), 43,981,824 of them 1-bit; 4.817e9 binary and, with the heads merged, 1.186e7 real
    multiply-accumulates. Published ImageNet accuracy: 71.8 % top-1, 90.3 % top-5.

    The output is the mean of two classifiers, `"classifier"` and `"classifier_distilled"`, of which
    the second learns from a teacher (`bnnkeras.training.Distiller`). `merge_heads` and
    `bnnkeras.converters.deploy` make one of them.

    Args:
        input_shape: `(height, width, channels)`. Defaults to `(224, 224, 3)`. Height and width are
            multiples of 32; `None` leaves them open.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes; ignored without the top.
        include_top: Whether to add global average pooling and the classifiers.
        pooling: Without the top: `None` for the feature map, `"avg"` or `"max"`.
        weights: `None`, or the path of a `.weights.h5` or `.keras` file of this architecture, or
            of an official PyTorch checkpoint (`.pth.tar`, `.npz`, `.safetensors`).
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        binary_weights: `False` for the first training step: binary activations, real kernels. Its
            weights fit: `second.set_weights(first.get_weights())`.
        width: Multiplies all numbers of channels: a multiple of 1/8. Defaults to 1.
        depths: How many blocks follow the one that halves the map, for its four sizes. Defaults to
            `(1, 1, 3, 0)`; `(1, 1, 5, 1)` without MLP blocks is ReActNet-A.
        mlp_blocks: Number of MLP blocks of four layers each. Defaults to 3.
        long_shift: Distance of the long-range shift: 3 (default), as released, another integer, or
            `"half"` of the map as in the paper, which is 3 at 224x224.
        synchronized: Whether batch normalization averages over all replicas of a distribution
            strategy (TensorFlow), as the published training did. Defaults to `False`.
        sign_of_zero: 1 (default; the only value LCE can run) or 0 (PyTorch's sign).
        name: Name of the model.

    Returns:
        A functional `keras.Model` on images `(batch, height, width, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import BCDNetA
        >>> model = BCDNetA(input_shape=(32, 32, 3), classes=10, width=0.25, mlp_blocks=1)
        >>> model.output_shape
        (None, 10)

    Reference:
        Xing et al., BCDNet (ECCV 2022); released code.
    """
    return _network(**locals())


@register_model
def BCDNetB(
    input_shape=None,
    input_tensor=None,
    classes=1000,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    binary_weights=True,
    width=1.0,
    depths=_DEPTHS,
    mlp_blocks=3,
    long_shift=3,
    context_units=UNITS,
    context_ratio=4,
    context_activation=None,
    synchronized=False,
    sign_of_zero=1,
    name="bcdnetb",
) -> keras.Model:
    """BCDNet-B: `BCDNetA` with contextual thresholds in its convolution blocks.

    The mean over the map is multiplied by a matrix W1; W2 maps the result to an offset of the
    thresholds, W3 to one of the convolution's outputs. W2 and W3 start at 0, so that the network
    starts as a BCDNet-A, whose weights and official checkpoints it takes.

    Code and weights of it were never released: the structure is that of the paper's figure 4, and
    what the figure leaves open is chosen here. `context_ratio=4` on both convolutions agrees with
    the costs that the paper reports; there is no activation and no bias because the figure has
    none. At 224x224 with 1000 classes 1,913,600 parameters and as many real multiply-accumulates
    are added to those of BCDNet-A. Published ImageNet accuracy: 72.3 % top-1, 90.5 % top-5.

    Args:
        input_shape: As for `BCDNetA`, and so are all that are not named below.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes.
        include_top: Whether to add pooling and the classifiers.
        pooling: Without the top: `None`, `"avg"` or `"max"`.
        weights: `None` or the path of a file, also of a BCDNet-A's official checkpoint.
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        binary_weights: `False` for the first training step.
        width: Multiplies all numbers of channels.
        depths: How many blocks follow the one that halves the map.
        mlp_blocks: Number of MLP blocks.
        long_shift: Distance of the long-range shift, or `"half"`.
        context_units: The convolutions that have contextual thresholds and embeddings. Defaults to
            `("3x3", "1x1")`, both of each block.
        context_ratio: Integer, by which W1 reduces the channels. Defaults to 4.
        context_activation: Behind W1. Defaults to `None`.
        synchronized: Whether batch normalization averages over all replicas.
        sign_of_zero: 1 or 0.
        name: Name of the model.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import BCDNetB
        >>> model = BCDNetB(input_shape=(32, 32, 3), classes=10, width=0.25, mlp_blocks=1)
        >>> model.output_shape
        (None, 10)

    Reference:
        Xing et al., BCDNet (ECCV 2022), figure 4.
    """
    return _network(**locals())
