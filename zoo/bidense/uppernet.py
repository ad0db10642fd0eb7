"""BiDense's UperNet: a ConvNeXt whose four maps a pyramid of pooled and resized maps joins.

Paper:
    Yin, Qin, Zhang, Li, Guo, Zhu, Wang, Jia, "BiDense: Binarization for Dense Prediction", 2024
    (arXiv 2411.10346).
Official repository: github.com/frickyinn/BiDense. No trained weights are published there, and no
    code of it is used here.
"""

import keras
from keras import layers

from bnnkeras.layers import AdaptiveAveragePooling, AlignedResizing
from bnnkeras.zoo import builder
from bnnkeras.zoo.bidense.blocks import form_of
from bnnkeras.zoo.bidense.heads import check_task, dense_head
from bnnkeras.zoo.registry import register_model

# Blocks and channels of the four stages. "pocket" is this package's, for phones and tests.
SIZES = {
    "pocket": ((1, 1, 2, 1), (32, 64, 128, 256)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
}
_POOLS = (1, 2, 4, 6)


def backbone(x, size: str, form) -> list:
    """The maps of the four stages, 1/4 to 1/32 of the input's size."""
    maps = []
    for stage, (depth, filters) in enumerate(zip(*SIZES[size], strict=True)):
        if stage == 0:
            x = form.stem(x, filters, "stem")
        else:
            x = form.transition(x, filters, f"transition{stage}")
        for block in range(depth):
            x = form.block(x, f"stage{stage}_block{block}")
        maps.append(x)
    return maps


def resized(x, like, name):
    """x at the height and width of another map."""
    return AlignedResizing(*like.shape[1:3], name=name)(x)


def pyramid_pooling(x, form, name="psp", dropout=0.1):
    """Means over 1, 4, 16 and 36 bins beside the map itself, and a convolution over all.

    Args:
        x: The last map, `(batch, height, width, channels)`, channels a multiple of 4.
        form: The network's form.
        name: Start of the layers' names.
        dropout: Share of the channels to drop in training.
    """
    channels = x.shape[-1]
    maps = [x]
    for index, count in enumerate(_POOLS):
        pooled = AdaptiveAveragePooling(count, count, name=f"{name}{index}_pool")(x)
        pooled = form.activated(pooled, channels // len(_POOLS), 1, f"{name}{index}")
        maps.append(resized(pooled, x, f"{name}{index}_resize"))
    x = layers.Concatenate(name=f"{name}_concatenate")(maps)
    x = form.activated(x, channels, 3, f"{name}_bottleneck")
    return layers.SpatialDropout2D(dropout, name=f"{name}_dropout")(x)


def feature_pyramid(maps, form, name="fpn"):
    """The four maps at the size and with the channels of the first, joined by a convolution.

    Each one but the last gets the next one, resized, added (the raw one: the sums do not cascade),
    and is smoothed by a convolution that all share.

    Args:
        maps: List of four maps, the largest first.
        form: The network's form.
        name: Start of the layers' names.
    """
    first = maps[0]
    filters = first.shape[-1]
    laterals = [first]
    for index, x in enumerate(maps[1:]):
        laterals.append(form.lateral(x, filters, f"{name}_lateral{index}"))
    smooth = form.smoother(filters, f"{name}_smooth")
    smoothed = [laterals[3]]
    # From the smallest up: the order in which the shared batch normalization sees them.
    for index in (2, 1, 0):
        above = resized(laterals[index + 1], laterals[index], f"{name}_up{index}")
        total = layers.Add(name=f"{name}_sum{index}")([above, laterals[index]])
        smoothed.insert(0, smooth(total))
    joined = smoothed[:1] + [
        resized(x, first, f"{name}_resize{index}") for index, x in enumerate(smoothed[1:], start=1)
    ]
    x = layers.Concatenate(name=f"{name}_concatenate")(joined)
    return form.fusion(x, filters, f"{name}_fusion")


@register_model
def BiDenseUperNet(
    input_shape=None,
    input_tensor=None,
    classes=151,
    weights=None,
    task="segmentation",
    size="tiny",
    precision="binary",
    scale_axis="channel",
    max_depth=10.0,
    classify_at="input",
    sign_of_zero=1,
    name="bidenseupernet",
) -> keras.Model:
    """BiDense's UperNet on a ConvNeXt, for segmentation or depth.

    Tiny, at 512x512 with 151 classes: 39,759,840 1-bit weights and 308,663 real parameters;
    7.374e10 binary and 5.142e9 real multiply-accumulates. Published for ADE20K: 67.25 % of the
    pixels right, 18.75 % mIoU (real from scratch: 70.81 %, 20.39 %), and for NYUv2 delta1 0.712
    (0.695); no weights are published. The counts are those of the released code; the paper's (1,626
    K parameters, 5.37 G operations) cannot be had from it.

    Args:
        input_shape: `(height, width, channels)`, of known size and at least 32 pixels. Defaults to
            `(480, 480, 3)`. The weights do not depend on the size.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: Channels of the logits, with the official networks' class to ignore as the last
            one. Defaults to 151, ADE20K's. Ignored for depth.
        weights: `None`, or the path of a `.weights.h5` or `.keras` file of this architecture, or of
            an official PyTorch checkpoint.
        task: `"segmentation"` (default) for logits `(batch, height, width, classes)`, or `"depth"`
            for metres `(batch, height, width, 1)`.
        size: `"tiny"` (default, the published one), `"small"`, `"base"` or `"large"` as ConvNeXt's,
            or `"pocket"`, a small one of this package for phones.
        precision: `"binary"` (default), `"scratch"` for the counterpart of full precision that is
            trained from scratch, or `"pretrained"` for the one on the original ConvNeXt.
        scale_axis: `"channel"` (default, official) for one scale of the binary activations per
            channel and image, or `"layer"` for one per image, which LCE runs exactly. The weights
            are the same. Depthwise convolutions keep theirs per channel.
        max_depth: Float, the largest depth. Defaults to 10 (NYUv2; 80 for KITTI).
        classify_at: `"input"` (default, official) runs the head at the size of the input;
            `"quarter"` runs it at a quarter of it and resizes its result: 1/16 of the cost, and
            another function, to be trained so.
        sign_of_zero: 1 (default; the only value LCE can run) or 0 (PyTorch's sign).
        name: Name of the model.

    Returns:
        A functional `keras.Model` on images `(batch, height, width, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import BiDenseUperNet
        >>> model = BiDenseUperNet(input_shape=(32, 32, 3), classes=12, size="pocket")
        >>> model.output_shape
        (None, 32, 32, 12)

    Reference:
        Yin et al., BiDense (2024), released code.
    """
    if size not in SIZES:
        raise ValueError(f"`size` must be one of {list(SIZES)}. Received: size={size!r}")
    check_task(task, classes, max_depth, classify_at)
    form = form_of(precision, scale_axis, sign_of_zero)
    inputs = builder.image_input(input_shape, input_tensor, default_shape=(480, 480, 3))
    if None in inputs.shape[1:3] or min(inputs.shape[1:3]) < 32:
        raise ValueError(
            "`input_shape`: height and width must be known and at least 32. "
            f"Received: {tuple(inputs.shape[1:])}"
        )
    maps = backbone(inputs, size, form)
    maps[3] = pyramid_pooling(maps[3], form)
    x = feature_pyramid(maps, form)
    # 256 / 2 channels in the published network, whose first map has 96.
    filters = 128 if size != "pocket" else 32
    x = form.neck(x, filters, "neck")
    outputs = dense_head(x, inputs, form, task, classes, max_depth, classify_at)
    return builder.finish(inputs, outputs, name, weights)
