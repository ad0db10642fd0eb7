"""BiPointCNN: PointCNN of signs, whose X-convolutions learn to order the neighbours of a point.

Paper and official repository: see `bnnkeras.zoo.bipointnet.model`.
"""

import math
from typing import Any

import keras
from keras import layers, ops

from bnnkeras.activations import hardtanh
from bnnkeras.layers import QuantDepthwiseConv2D
from bnnkeras.layers.points import FarthestPoints, NeighbourFeatures
from bnnkeras.quantizers import Binarizer, LSRKernel, MeanThreshold, SteSign, XNORInput, XNORKernel
from bnnkeras.zoo import builder
from bnnkeras.zoo.bipointnet.blocks import Style
from bnnkeras.zoo.bipointnet.inputs import finish_without_top, points_input
from bnnkeras.zoo.registry import register_model

BINARIZATIONS = ("lsr", "bnn", "xnor", None)
_REAL_DROPOUT = 0.5
# Share of the points kept in front of it, outputs, neighbours, hidden channels, dilation.
_LEVELS = (
    (1.0, 48, 8, 32, 1),
    (0.375, 96, 12, 64, 2),
    (0.334, 192, 16, 128, 2),
    (1.0, 384, 16, 256, 2),
)


def _activated(x, style, name):
    return layers.Activation("elu" if style.is_real else hardtanh, name=name)(x)


def _by_channel(x, multiplier: int, style: Style, name: str):
    """Sums over the neighbours of `(batch, points, neighbours, channels)`, each channel by itself.

    Output channel c * m + j is row j of the weights of channel c. The released code has a 1-D
    convolution with a group per channel here.
    """
    size = x.shape[2]
    bound = 1 / math.sqrt(size)
    uniform = keras.initializers.RandomUniform(-bound, bound)
    zero: dict[str, Any] = {"sign_of_zero": style.sign_of_zero}
    arguments: dict[str, Any] = {"use_bias": style.binarization != "lsr"}
    if style.binarization == "lsr":
        kernel = LSRKernel(trainable=style.train_scales, name="binarizer", **zero)
        arguments |= {"input_quantizer": SteSign(**zero), "depthwise_quantizer": kernel}
    elif style.binarization == "xnor":
        # One scale per channel and row of weights, and per point and channel.
        arguments["input_quantizer"] = XNORInput((2,), **zero)
        arguments["depthwise_quantizer"] = XNORKernel((0, 1), centre_axes="all", **zero)
    elif style.binarization == "bnn":
        kernel = Binarizer(MeanThreshold("all"), **zero)
        arguments |= {"input_quantizer": SteSign(**zero), "depthwise_quantizer": kernel}
    x = QuantDepthwiseConv2D(
        (1, size),
        depth_multiplier=multiplier,
        depthwise_initializer=uniform,
        bias_initializer=uniform,
        name=name,
        **arguments,
    )(x)
    return x[:, :, 0]


def x_convolution(positions, features, level, style: Style, name: str):
    """PointCNN's convolution: features of neighbours, mixed by a matrix made of their positions.

    Args:
        positions: `(batch, points, 3)`.
        features: `(batch, points, channels)`, or `None`.
        level: Outputs, neighbours K, hidden channels, dilation.
        style: The network's `Style`.
        name: Start of the layers' names.
    """
    outputs, size, hidden, dilation = level
    points = positions.shape[1]
    group = NeighbourFeatures(size, dilation, name=f"{name}_neighbours")
    gathered = group(positions, features)
    offsets = gathered[..., :3]

    def unit(x, units, part, real=False):
        x = style.linear(x, units, f"{name}_{part}", real=real)
        x = _activated(x, style, f"{name}_{part}_activation")
        return builder.batch_normalization(f"{name}_{part}_bn")(x)

    lifted = unit(unit(offsets, hidden, "mlp1_0", real=True), hidden, "mlp1_3")
    if features is not None:
        lifted = layers.Concatenate(name=f"{name}_concatenate")([lifted, gathered[..., 3:]])

    def rows(x):
        # (B, N, K * K), row by row -> rows as channels: (B, N, K positions, K rows).
        return ops.transpose(ops.reshape(x, (-1, points, size, size)), (0, 1, 3, 2))

    x = unit(ops.reshape(offsets, (-1, points, 3 * size)), size * size, "mlp2_0", real=True)
    x = _by_channel(rows(x), size, style, f"{name}_mlp2_4")
    x = _activated(x, style, f"{name}_mlp2_4_activation")
    x = builder.batch_normalization(f"{name}_mlp2_4_bn")(x)
    x = _by_channel(rows(x), size, style, f"{name}_mlp2_8")
    x = builder.batch_normalization(f"{name}_mlp2_8_bn")(x)
    mixed = ops.matmul(ops.reshape(x, (-1, points, size, size)), lifted)

    multiplier = math.ceil(outputs / mixed.shape[-1])
    x = _by_channel(mixed, multiplier, style, f"{name}_conv_0")
    return style.linear(x, outputs, f"{name}_conv_2")


@register_model
def BiPointCNN(
    input_shape=None,
    input_tensor=None,
    classes=40,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    binarization="lsr",
    aggregation="mean",
    dropout=None,
    train_scales=True,
    sign_of_zero=1,
    name="bipointcnn",
) -> keras.Model:
    """BiPointCNN for classification: four X-convolutions, and a mean over the points.

    Published ModelNet40 accuracy: 83.8 % (`binarization=None`: 90.0 %). No weights are published.
    Sums of few signs are often exactly 0, which `sign_of_zero` decides; the official arithmetic
    leaves them to rounding. Of the K d nearest neighbours of a dilated X-convolution every d-th is
    taken (released: K drawn at random at every call, in evaluation too). In LCE the layers that sum
    over neighbours channel by channel run in float, for want of a depthwise operation.

    Args:
        input_shape: `(points, channels)`, both fixed; x, y and z are used. Defaults to `(1024, 3)`;
            at least 252 points, so that 32 are left.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes; ignored without the top.
        include_top: Whether to aggregate the last points and classify.
        pooling: Without the top: `None` for the features of the last points
            `(batch, points / 8, 384)`, `"avg"` or `"max"`.
        weights: `None` or the path of a file, as for `BiPointNet`.
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        binarization: `"lsr"` (default), `"bnn"`, `"xnor"` or `None`.
        aggregation: `"mean"` or `"ema-mean"`, which is the same: the only one of this network.
        dropout: Rate before the classifier. Defaults to 0, and to 0.5 in the real network.
        train_scales: Whether LSR's scales are trained.
        sign_of_zero: 1 (default) or 0.
        name: Name of the model.

    Returns:
        A functional `keras.Model` on clouds `(batch, points, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import BiPointCNN
        >>> BiPointCNN(input_shape=(256, 3), classes=10).output_shape
        (None, 10)

    Reference:
        Qin et al., BiPointNet (ICLR 2021), section 4; Li et al., PointCNN (NeurIPS 2018).
    """
    builder.check_top(include_top, classes, pooling)
    if binarization not in BINARIZATIONS:
        raise ValueError(
            f"`binarization` must be one of {BINARIZATIONS}. Received: {binarization=}"
        )
    if aggregation not in ("mean", "ema-mean"):
        raise ValueError(f'`aggregation` must be "mean" or "ema-mean". Received: {aggregation=}')
    style = Style(binarization, aggregation, train_scales=train_scales, sign_of_zero=sign_of_zero)
    inputs = points_input(input_shape, input_tensor, (1024, 3))
    positions = inputs if inputs.shape[-1] == 3 else inputs[..., :3]
    activation = "relu" if style.is_real else hardtanh
    x = None
    for number, (ratio, *level) in enumerate(_LEVELS, start=1):
        if ratio < 1:
            positions, x = FarthestPoints(ratio, name=f"sample{number}")(positions, x)
        x = x_convolution(positions, x, level, style, f"conv{number}")
        x = layers.Activation(activation, name=f"conv{number}_activation")(x)
    if not include_top:
        return finish_without_top(inputs, x, pooling, name, weights)
    x = style.pooled(x, "pool")
    for index, units in enumerate((256, 128), start=1):
        x = style.linear(x, units, f"lin{index}")
        x = layers.Activation(activation, name=f"lin{index}_activation")(x)
    rate = (_REAL_DROPOUT if style.is_real else 0.0) if dropout is None else dropout
    if rate:
        x = layers.Dropout(rate, name="dropout")(x)
    x = style.linear(x, classes, "lin3", classifier_activation, real=True)
    return builder.finish(inputs, x, name, weights)
