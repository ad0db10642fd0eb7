"""BiDense's DPT: a binary vision transformer under a binary decoder.

Paper and official repository: as in `uppernet.py`. The binary transformer is BiViT's.
"""

import math
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from bnnkeras.layers import AlignedResizing, LearnableBias, QuantConv2DTranspose
from bnnkeras.zoo import builder
from bnnkeras.zoo.bidense import vit
from bnnkeras.zoo.bidense.blocks import Binary, form_of, prelu, real_convolution
from bnnkeras.zoo.bidense.heads import check_task, dense_head
from bnnkeras.zoo.registry import register_model

# Channels, blocks and heads of the transformer; channels of the four maps and of the decoder.
# "pocket" is this package's, for tests.
SIZES = {
    "small": (384, 12, 6, (48, 96, 192, 384), 256),
    "pocket": (64, 4, 2, (32, 32, 64, 64), 64),
}


@dataclass(frozen=True)
class BinaryDecoder:
    """BiDense's decoder: units of signs, each with a bypass around it.

    Args:
        form: Of the units, a `Binary`.
    """

    form: Binary

    def project(self, x, filters, name):
        """A 1x1 unit."""
        return self.form.unit(x, filters, 1, name)

    def reassemble(self, x, filters, name):
        """A 3x3 unit."""
        return self.form.unit(x, filters, 3, name)

    def grow(self, x, factor, name):
        """BN(transposed convolution) + nearest neighbours, `factor` times the size."""
        channels = x.shape[-1]
        # (..., filters, channels): the official scale is one per input channel, which LCE cannot
        # run.
        axes = "kernel" if self.form.scale_axis == "channel" else (0, 1, 3)
        y = QuantConv2DTranspose(
            channels,
            factor,
            strides=factor,
            use_bias=False,
            input_quantizer=self.form.binarizer(),
            kernel_quantizer=self.form.kernel_sign(axes),
            kernel_initializer=keras.initializers.RandomNormal(stddev=1e-3),
            name=f"{name}_conv",
        )(x)
        y = builder.batch_normalization(f"{name}_bn")(y)
        shortcut = layers.UpSampling2D(factor, name=f"{name}_upsample")(x)
        return layers.Add(name=f"{name}_add")([y, shortcut])

    def shrink(self, x, name):
        """3x3 with stride 2 + the mean of the same windows, whose padding counts as zeros."""
        y = self.form.unit(x, x.shape[-1], 3, name, strides=2, bypass=False)
        shortcut = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        shortcut = layers.AveragePooling2D(3, strides=2, name=f"{name}_pool")(shortcut)
        return layers.Add(name=f"{name}_add")([y, shortcut])

    def convolution_unit(self, x, name):
        """Twice: a trained offset, PReLU and a 3x3 unit with its own bypass."""
        for index in (1, 2):
            x = LearnableBias(name=f"{name}_move{index}")(x)
            x = prelu(x, f"{name}_prelu{index}")
            x = self.form.unit(x, x.shape[-1], 3, f"{name}_unit{index}", use_bias=True)
        return x


@dataclass(frozen=True)
class RealDecoder:
    """The same decoder of full precision.

    Args:
        normalize: Whether there is batch normalization behind the convolutions of
            `convolution_unit`: in segmentation.
    """

    normalize: bool

    def project(self, x, filters, name):
        """A 1x1 convolution."""
        return real_convolution(x, filters, 1, f"{name}_conv")

    def reassemble(self, x, filters, name):
        """A 3x3 convolution without a bias."""
        return real_convolution(x, filters, 3, f"{name}_conv", use_bias=False)

    def grow(self, x, factor, name):
        """A transposed convolution, `factor` times the size."""
        bound = 1 / math.sqrt(x.shape[-1] * factor**2)
        uniform = keras.initializers.RandomUniform(-bound, bound)
        return layers.Conv2DTranspose(
            x.shape[-1],
            factor,
            strides=factor,
            kernel_initializer=uniform,
            bias_initializer=uniform.clone(),
            name=f"{name}_conv",
        )(x)

    def shrink(self, x, name):
        """3x3 with stride 2."""
        return real_convolution(x, x.shape[-1], 3, f"{name}_conv", strides=2, padding="symmetric")

    def convolution_unit(self, x, name):
        """r + [BN](W2 ReLU([BN](W1 r))), r = ReLU(x): the released code's ReLU works in place."""
        x = layers.ReLU(name=f"{name}_relu1")(x)
        y = self._convolution(x, name, 1)
        y = layers.ReLU(name=f"{name}_relu2")(y)
        return layers.Add(name=f"{name}_add")([self._convolution(y, name, 2), x])

    def _convolution(self, x, name, index):
        x = real_convolution(x, x.shape[-1], 3, f"{name}_conv{index}")
        return builder.batch_normalization(f"{name}_bn{index}")(x) if self.normalize else x


def fuse(x, other, decoder, name):
    """The coarser path plus a finer map, refined and of twice the size."""
    if other is not None:
        other = decoder.convolution_unit(other, f"{name}_rcu1")
        x = layers.Add(name=f"{name}_add")([x, other])
    x = decoder.convolution_unit(x, f"{name}_rcu2")
    height, width = x.shape[1:3]
    return AlignedResizing(2 * height, 2 * width, name=f"{name}_resize")(x)


@register_model
def BiDenseDPT(
    input_shape=None,
    input_tensor=None,
    classes=151,
    weights=None,
    task="segmentation",
    size="small",
    precision="binary",
    scale_axis="channel",
    max_depth=10.0,
    classify_at="input",
    sign_of_zero=1,
    name="bidensedpt",
) -> keras.Model:
    """BiDense's DPT on a ViT-S/14, for segmentation or depth.

    At 480x480 with 151 classes: 33,269,760 1-bit weights; 1.426e11 binary and 4.714e9 real
    multiply-accumulates, and 1.234e10 of the attention. No weights and no accuracy of it are known.

    Args:
        input_shape: `(height, width, channels)`, of known size and at least 56 pixels. Defaults to
            `(476, 476, 3)`. Multiples of 28 need no resizing of the image.
        input_tensor: A Keras tensor to build on instead of a new input.
        classes: As for `BiDenseUperNet`.
        weights: `None`, or the path of a `.weights.h5` or `.keras` file of this architecture, or of
            an official PyTorch checkpoint.
        task: `"segmentation"` (default) or `"depth"`.
        size: `"small"` (default, the published one) or `"pocket"`, a small one of this package.
        precision: `"binary"` (default), `"scratch"` for the counterpart of full precision that is
            trained from scratch, or `"pretrained"` for the one on the original DINOv2.
        scale_axis: As for `BiDenseUperNet`. `"layer"` also takes the scales of the two transposed
            kernels per output channel instead of, as released, per input channel.
        max_depth: Float, the largest depth. Defaults to 10.
        classify_at: `"input"` (default, official), or `"quarter"` for a head before the resizing.
        sign_of_zero: 1 (default; the only value LCE can run) or 0 (PyTorch's sign). The attention
            gives integers, of which one in ten is 0: weights trained with one need it.
        name: Name of the model.

    Returns:
        A functional `keras.Model` on images `(batch, height, width, channels)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from bnnkeras.zoo import BiDenseDPT
        >>> model = BiDenseDPT(input_shape=(56, 56, 3), classes=12, size="pocket")
        >>> model.output_shape
        (None, 56, 56, 12)

    Reference:
        Yin et al., BiDense (2024), released code; He et al., BiViT (ICCV 2023).
    """
    if size not in SIZES:
        raise ValueError(f"`size` must be one of {list(SIZES)}. Received: size={size!r}")
    check_task(task, classes, max_depth, classify_at)
    form: Any = form_of(precision, scale_axis, sign_of_zero)
    decoder: Any = RealDecoder(normalize=task == "segmentation")
    tokens: Any = vit.RealTokens()
    if precision == "binary":
        decoder, tokens = BinaryDecoder(form), vit.BinaryTokens(sign_of_zero)
    inputs = builder.image_input(input_shape, input_tensor, default_shape=(476, 476, 3))
    if None in inputs.shape[1:3] or min(inputs.shape[1:3]) < 4 * vit.PATCH:
        raise ValueError(
            "`input_shape`: height and width must be known and at least 56. "
            f"Received: {tuple(inputs.shape[1:])}"
        )
    channels, depth, heads, widths, filters = SIZES[size]
    maps = vit.backbone(inputs, channels, depth, heads, tokens)
    maps = [
        decoder.project(x, width, f"project{index}")
        for index, (x, width) in enumerate(zip(maps, widths, strict=True))
    ]
    maps[0] = decoder.grow(maps[0], 4, "resize0")
    maps[1] = decoder.grow(maps[1], 2, "resize1")
    maps[3] = decoder.shrink(maps[3], "resize3")
    maps = [
        decoder.reassemble(x, filters, f"layer{index}_rn") for index, x in enumerate(maps, start=1)
    ]
    x = fuse(maps[3], None, decoder, "refine4")
    for index in (3, 2, 1):
        x = fuse(x, maps[index - 1], decoder, f"refine{index}")
    x = form.neck(x, filters // 2, "neck")
    outputs = dense_head(x, inputs, form, task, classes, max_depth, classify_at)
    return builder.finish(inputs, outputs, name, weights)
