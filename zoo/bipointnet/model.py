"""BiPointNet: PointNet of signs, for classification and segmentation.

Paper:
    Qin, Cai, Zhang, Ding, Zhao, Yi, Liu, Su, "BiPointNet: Binary Neural Network for Point Clouds",
    ICLR 2021 (arXiv 2010.05501).
Official repository: github.com/htqin/BiPointNet (MIT). No code of it is used here, and it has no
    trained weights.
"""

import dataclasses

import keras
from keras import layers

from bnnkeras.zoo import builder
from bnnkeras.zoo.bipointnet.blocks import ENCODED, Style, encoder, transformed, unit
from bnnkeras.zoo.bipointnet.inputs import finish_without_top, points_input
from bnnkeras.zoo.registry import register_model

_REAL_DROPOUT = 0.4


@register_model
def BiPointNet(
    input_shape=None,
    input_tensor=None,
    classes=40,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    binarization="lsr",
    aggregation=None,
    transforms=True,
    use_bn=True,
    affine=True,
    bi_first=False,
    bi_last=False,
    dropout=None,
    orthogonality=0.001,
    train_scales=True,
    ties="split",
    sign_of_zero=1,
    name="bipointnet",
) -> keras.Model:
    """BiPointNet for classification: linear layers of signs shared by all points, and a pool.

    With 40 classes: 3,438,848 binary weights in 15 layers with the transforms, 794,624 in 4 layers
    without ("vanilla"). At 1024 points 435.0e6 and 143.3e6 binary multiply-accumulates. Published
    ModelNet40 accuracy: 86.4 % with and 85.6 % without transforms (`binarization=None`: 88.2 % and
    86.8 %). No weights are published.

    Args:
        input_shape: `(points, channels)`, both fixed; the channels start with x, y and z, and may
            go on with normals. Defaults to `(1024, 3)`.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Number of classes; ignored without the top.
        include_top: Whether to aggregate the points and classify.
        pooling: Without the top: `None` for the features of the points `(batch, points, 1024)`,
            `"avg"` or `"max"`.
        weights: `None`, or the path of a `.weights.h5` or `.keras` file of this architecture, or
            of an official PyTorch checkpoint (`.pth`, `.npz`, `.safetensors`).
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        binarization: `"lsr"` (default; layer-wise scale recovery), `"bnn"`, `"xnor"`, `"irnet"`,
            `"bireal"`, or `None` for PointNet in full precision.
        aggregation: `"ema-max"` (the default of binary networks), `"max"` (that of real ones),
            `"mean"` or `"ema-mean"`, which is the same.
        transforms: Whether there are T-Nets on points and features. `False` is the vanilla network.
        use_bn: `False` leaves out batch normalization, except in the T-Nets.
        affine: `False` leaves out gamma and beta.
        bi_first: Whether the first layers, on coordinates, are binary. Defaults to `False`.
        bi_last: Whether the classifier is binary. Defaults to `False`.
        dropout: Rate before the last batch normalization. Defaults to 0, and to 0.4 in the real
            network.
        orthogonality: Weight of the loss that keeps the features' transform orthogonal
            (`bnnkeras.layers.points.orthogonality`). Defaults to 0.001.
        train_scales: Whether LSR's scales are trained. `False` keeps them at their start, as the
            released code does where its initial pass is not asked for.
        ties: Who gets the gradient of a maximum that points share: all of them, `"split"`
            (default), or the `"first"`.
        sign_of_zero: 1 (default; the only value LCE can run) or 0 (PyTorch's sign).
        name: Name of the model.

    Returns:
        A functional `keras.Model` on clouds `(batch, points, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import BiPointNet
        >>> BiPointNet(input_shape=(64, 3), classes=10, transforms=False).output_shape
        (None, 10)

    Reference:
        Qin et al., BiPointNet (ICLR 2021), section 3.
    """
    builder.check_top(include_top, classes, pooling)
    style = Style(
        binarization,
        aggregation,
        use_bn,
        affine,
        bi_first,
        bi_last,
        train_scales,
        ties,
        sign_of_zero,
    )
    inputs = points_input(input_shape, input_tensor, (1024, 3))
    _, features, x = encoder(inputs, style, transforms, orthogonality)
    if not include_top:
        return finish_without_top(inputs, features, pooling, name, weights)
    x = unit(x, 512, style, "fc1", "bn1")
    x = style.linear(x, 256, "fc2")
    rate = (_REAL_DROPOUT if style.is_real else 0.0) if dropout is None else dropout
    if rate:
        x = layers.Dropout(rate, name="dropout")(x)
    x = style.activated(style.normalized(x, "bn2"), "bn2_activation")
    x = style.linear(x, classes, "fc3", classifier_activation, real=not bi_last)
    return builder.finish(inputs, x, name, weights)


@register_model
def BiPointNetSemanticSegmentation(
    input_shape=None,
    input_tensor=None,
    classes=13,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    binarization="lsr",
    aggregation=None,
    transforms=True,
    use_bn=True,
    affine=True,
    bi_first=False,
    bi_last=False,
    orthogonality=0.001,
    train_scales=True,
    ties="split",
    sign_of_zero=1,
    name="bipointnetsemanticsegmentation",
) -> keras.Model:
    """BiPointNet for the semantic segmentation of scenes: a class for each point.

    Published on S3DIS: 44.3 % mIoU and 76.7 % accuracy (`binarization=None`: 54.4 %, 83.5 %). No
    weights are published.

    Args:
        input_shape: `(points, channels)`, both fixed. Defaults to `(4096, 9)`: coordinates in the
            block, colours, coordinates in the room.
        input_tensor: As for `BiPointNet`, and so are all arguments that are not named here.
        classes: Number of classes. Defaults to 13.
        include_top: Whether to classify the points.
        pooling: Without the top: `None` for the features `(batch, points, 1088)`, `"avg"` or
            `"max"`.
        weights: `None` or the path of a file.
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        binarization: `"lsr"` (default), `"bnn"`, `"xnor"`, `"irnet"`, `"bireal"` or `None`.
        aggregation: `"ema-max"`, `"max"`, `"mean"` or `None`.
        transforms: Whether there are T-Nets.
        use_bn: `False` leaves out batch normalization, except in the T-Nets.
        affine: `False` leaves out gamma and beta.
        bi_first: Whether the first layers are binary.
        bi_last: Whether the classifier is binary.
        orthogonality: Weight of the loss of the features' transform.
        train_scales: Whether LSR's scales are trained.
        ties: `"split"` (default) or `"first"`.
        sign_of_zero: 1 or 0.
        name: Name of the model.

    Returns:
        A functional `keras.Model`, whose output is `(batch, points, classes)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import BiPointNetSemanticSegmentation
        >>> BiPointNetSemanticSegmentation(input_shape=(64, 9)).output_shape
        (None, 64, 13)

    Reference:
        Qin et al., BiPointNet (ICLR 2021), section 4.
    """
    builder.check_top(include_top, classes, pooling)
    style = Style(
        binarization,
        aggregation,
        use_bn,
        affine,
        bi_first,
        bi_last,
        train_scales,
        ties,
        sign_of_zero,
    )
    inputs = points_input(input_shape, input_tensor, (4096, 9))
    local, _, pooled = encoder(inputs, style, transforms, orthogonality)
    repeated = layers.RepeatVector(inputs.shape[1], name="feat_repeat")(pooled)
    x = layers.Concatenate(name="feat_concatenate")([repeated, local])
    if not include_top:
        return finish_without_top(inputs, x, pooling, name, weights)
    # Other names: the official ones of the real network have another form.
    kind = "real_conv" if style.is_real else "conv"
    for index, units in enumerate((512, 256, 128), start=1):
        x = unit(x, units, style, f"{kind}{index}", f"bn{index}")
    x = style.linear(x, classes, f"{kind}4", classifier_activation, real=not bi_last)
    return builder.finish(inputs, x, name, weights)


@register_model
def BiPointNetPartSegmentation(
    input_shape=None,
    input_tensor=None,
    classes=4,
    include_top=True,
    pooling=None,
    weights=None,
    classifier_activation="softmax",
    binarization="lsr",
    aggregation=None,
    transforms=True,
    concat_global=True,
    affine=True,
    bi_first=False,
    bi_last=False,
    train_scales=True,
    ties="split",
    sign_of_zero=1,
    orthogonality=0.001,
    name="bipointnetpartsegmentation",
) -> keras.Model:
    """BiPointNet for the segmentation of objects of one category into their parts.

    Published on ShapeNetPart: 80.6 % mIoU (`binarization=None`: 84.3 %). No weights are published.

    Args:
        input_shape: `(points, channels)`, both fixed. Defaults to `(4096, 6)`, x, y, z and normals.
        input_tensor: As for `BiPointNet`, and so are all arguments that are not named here.
        classes: Number of parts. Defaults to 4, those of an airplane.
        include_top: Whether to classify the points.
        pooling: Without the top: `None` for the features `(batch, points, 4928)`, `"avg"` or
            `"max"`.
        weights: `None` or the path of a file.
        classifier_activation: Defaults to `"softmax"`; `None` returns logits.
        binarization: `"lsr"` (default), `"bnn"`, `"xnor"`, `"irnet"`, `"bireal"` or `None`.
        aggregation: `"ema-max"`, `"max"`, `"mean"` or `None`. The T-Nets of the real network always
            take the maximum, as released.
        transforms: Whether there are T-Nets.
        concat_global: Whether the points' features are joined with those of the cloud.
        affine: `False` leaves out gamma and beta.
        bi_first: Whether the first layers are binary.
        bi_last: Whether the classifier is binary.
        train_scales: Whether LSR's scales are trained.
        ties: `"split"` (default) or `"first"`.
        sign_of_zero: 1 or 0.
        orthogonality: Weight of the loss of the features' transform.
        name: Name of the model.

    Returns:
        A functional `keras.Model`, whose output is `(batch, points, classes)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import BiPointNetPartSegmentation
        >>> BiPointNetPartSegmentation(input_shape=(64, 6), classes=3).output_shape
        (None, 64, 3)

    Reference:
        Qin et al., BiPointNet (ICLR 2021), section 4.
    """
    builder.check_top(include_top, classes, pooling)
    style = Style(
        binarization,
        aggregation,
        True,
        affine,
        bi_first,
        bi_last,
        train_scales,
        ties,
        sign_of_zero,
    )
    in_tnets = dataclasses.replace(style, aggregation="max") if style.is_real else style
    real_first = not bi_first
    inputs = points_input(input_shape, input_tensor, (4096, 6))
    x = inputs
    if transforms:
        x = transformed(x, 3, in_tnets, "stn", "transform", real_first)
    outputs = []
    for index, units in enumerate((64, 128, 128), start=1):
        x = unit(x, units, style, f"conv{index}", f"bn{index}", real_first and index == 1)
        outputs.append(x)
    if transforms:
        x = transformed(x, 128, in_tnets, "fstn", "transform128", weight=orthogonality)
    x = unit(x, 512, style, "conv4", "bn4")
    outputs.append(x)
    x = style.normalized(style.linear(x, 2 * ENCODED, "conv5"), "bn5")
    outputs.append(x)
    if concat_global:
        pooled = style.pooled(x, "pooled")
        outputs.insert(0, layers.RepeatVector(inputs.shape[1], name="repeat")(pooled))
    x = layers.Concatenate(name="concatenate")(outputs)
    if not include_top:
        return finish_without_top(inputs, x, pooling, name, weights)
    for index, units in enumerate((256, 256, 128), start=1):
        x = unit(x, units, style, f"convs{index}", f"bns{index}")
    x = style.linear(x, classes, "convs4", classifier_activation, real=not bi_last)
    return builder.finish(inputs, x, name, weights)
