"""BiDGCNN: the dynamic graph network of BiPointNet, with neighbours in the space of features.

Paper and official repository: see `bnnkeras.zoo.bipointnet.model`. The network of the released code
has two edge convolutions; the original DGCNN has four.
"""

import keras
from keras import layers

from bnnkeras.layers.points import EdgeFeatures
from bnnkeras.zoo import builder
from bnnkeras.zoo.bipointnet.blocks import RELEASED_CLOUD, Style, mlp, pooled
from bnnkeras.zoo.bipointnet.inputs import finish_without_top, points_input
from bnnkeras.zoo.registry import register_model

_REAL_DROPOUT = 0.5


@register_model
def BiDGCNN(
    input_shape=None,
    input_tensor=None,
    classes=40,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    binarization="lsr",
    aggregation=None,
    neighbours=20,
    dropout=None,
    train_scales=True,
    ties="split",
    sign_of_zero=1,
    name="bidgcnn",
) -> keras.Model:
    """BiDGCNN for classification: two binary edge convolutions on dynamic graphs.

    Published ModelNet40 accuracy: 83.4 % (`binarization=None`: 89.2 %). No weights are published.
    Differences between equal features are exactly 0, which `sign_of_zero` decides; the official
    arithmetic leaves them to rounding.
    `bnnkeras.zoo.bipointnet.stages` cuts the network where it searches for neighbours among
    features: the parts convert, the whole does not.

    Args:
        input_shape: `(points, channels)`, both fixed; x, y and z are used. Defaults to `(1024, 3)`.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes; ignored without the top.
        include_top: Whether to aggregate the points and classify.
        pooling: Without the top: `None` for the features of the points `(batch, points, 1024)`,
            `"avg"` or `"max"`.
        weights: `None` or the path of a file, as for `BiPointNet`.
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        binarization: `"lsr"` (default), `"bnn"`, `"xnor"`, `"irnet"`, `"bireal"` or `None`.
        aggregation: `"ema-max"` (the default of binary networks), `"max"` (that of real ones),
            `"mean"` or `"ema-mean"`.
        neighbours: How many a point has, itself among them. Defaults to 20.
        dropout: Rate behind the layers of the head. Defaults to 0, and to 0.5 in the real network.
        train_scales: Whether LSR's scales are trained.
        ties: `"split"` (default) or `"first"`.
        sign_of_zero: 1 (default) or 0.
        name: Name of the model.

    Returns:
        A functional `keras.Model` on clouds `(batch, points, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import BiDGCNN
        >>> BiDGCNN(input_shape=(32, 3), classes=10).output_shape
        (None, 10)

    Reference:
        Qin et al., BiPointNet (ICLR 2021), section 4; Wang et al., DGCNN (2019).
    """
    builder.check_top(include_top, classes, pooling)
    style = Style(
        binarization,
        aggregation,
        train_scales=train_scales,
        ties=ties,
        sign_of_zero=sign_of_zero,
    )
    inputs = points_input(input_shape, input_tensor, (1024, 3))
    x = inputs if inputs.shape[-1] == 3 else inputs[..., :3]
    x = EdgeFeatures(neighbours, name="conv1_edges")(x)
    if style.is_real:
        x = mlp(x, (64, 64, 64), style, [f"conv1_real{i}" for i in range(3)])
    else:
        x = style.linear(x, 64, "conv1_linear", real=True)
        x = mlp(x, (64, 64), style, [f"conv1_mlp{i}" for i in range(2)])
    first = pooled(x, 2, neighbours, style, "conv1_pool")
    x = EdgeFeatures(neighbours, name="conv2_edges")(first)
    second = pooled(mlp(x, (128,), style, ["conv2_mlp0"]), 2, neighbours, style, "conv2_pool")
    x = layers.Concatenate(name="concatenate")([first, second])
    x = mlp(x, (1024,), style, ["lin1_mlp0"])
    if not include_top:
        return finish_without_top(inputs, x, pooling, name, weights)
    x = pooled(x, 1, RELEASED_CLOUD, style, "pool")
    rate = (_REAL_DROPOUT if style.is_real else 0.0) if dropout is None else dropout
    # The numbers are those of the official names, in which dropouts count.
    for index, units in zip((0, 2) if style.is_real else (0, 1), (512, 256), strict=True):
        x = mlp(x, (units,), style, [f"mlp{index}"])
        if rate:
            x = layers.Dropout(rate, name=f"dropout{index}")(x)
    classifier = "mlp_real_classifier" if style.is_real else "mlp_classifier"
    x = style.linear(x, classes, classifier, classifier_activation, real=True)
    return builder.finish(inputs, x, name, weights)
