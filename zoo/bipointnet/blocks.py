"""The building blocks of BiPointNet: shared binary linear layers, T-Nets and the encoder."""

import math
from dataclasses import dataclass

import keras
from keras import layers

from bnnkeras.activations import hardtanh
from bnnkeras.layers import EntropyMaximizingAggregation, QuantDense
from bnnkeras.layers.points import NeighbourAggregation, PointTransform
from bnnkeras.quantizers import (
    ApproxSign,
    EDESign,
    LibraKernel,
    LSRKernel,
    MagnitudeAwareSign,
    SteSign,
    XNORInput,
    XNORKernel,
)
from bnnkeras.zoo import builder

BINARIZATIONS = ("lsr", "bnn", "xnor", "irnet", "bireal", None)
AGGREGATIONS = ("max", "mean", "ema-max", "ema-mean", None)
# For these numbers of points the released PointNets have an offset.
_RELEASED_POINTS = (1024, 2048, 4096)
# What the released code adds to the maximum where there is no batch normalization.
_OFFSET_WITHOUT_BN = -0.3
ENCODED = 1024
# Whatever the number of points, released graph networks shift the last maximum as for this one.
RELEASED_CLOUD = 1024


@dataclass(frozen=True)
class Style:
    """What all layers of one network have in common.

    Args:
        binarization: `"lsr"`, `"bnn"`, `"xnor"`, `"irnet"`, `"bireal"`, or `None` for real layers.
        aggregation: `"max"`, `"mean"` (`"ema-mean"`, whose offset is 0, is the same) or
            `"ema-max"`; `None` for `"ema-max"`, or `"max"` in a real network.
        use_bn: Whether there is batch normalization outside of the T-Nets.
        affine: Whether batch normalizations have gamma and beta.
        bi_first: Whether the first layers, on coordinates, are binary.
        bi_last: Whether the classifier is binary.
        train_scales: Whether the scales of `"lsr"` are trained after their start.
        ties: `"split"` or `"first"`: who gets the gradient of a shared maximum.
        sign_of_zero: 1 or 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    binarization: str | None = "lsr"
    aggregation: str | None = None
    use_bn: bool = True
    affine: bool = True
    bi_first: bool = False
    bi_last: bool = False
    train_scales: bool = True
    ties: str = "split"
    sign_of_zero: int = 1

    def __post_init__(self):
        if self.binarization not in BINARIZATIONS:
            raise ValueError(
                f"`binarization` must be one of {BINARIZATIONS}. "
                f"Received: binarization={self.binarization!r}"
            )
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(
                f"`aggregation` must be one of {AGGREGATIONS}. "
                f"Received: aggregation={self.aggregation!r}"
            )
        aggregation = self.aggregation or ("max" if self.is_real else "ema-max")
        object.__setattr__(self, "aggregation", aggregation.replace("ema-mean", "mean"))

    @property
    def is_real(self) -> bool:
        """Whether the network is the full-precision one."""
        return self.binarization is None

    def linear(self, x, units: int, name: str, activation=None, real: bool = False):
        """A layer shared by all points: x W + b, of signs unless the network or it is real."""
        bound = 1 / math.sqrt(x.shape[-1])
        arguments = {
            "activation": activation,
            "kernel_initializer": builder.torch_initializer(),
            "bias_initializer": keras.initializers.RandomUniform(-bound, bound),
            "name": name,
        }
        if real or self.is_real:
            return layers.Dense(units, **arguments)(x)
        inputs, kernel = self._quantizers()
        # Neither has one: in the released code it is a parameter that nothing reads.
        use_bias = self.binarization not in ("lsr", "bireal")
        return QuantDense(
            units,
            input_quantizer=inputs,
            kernel_quantizer=kernel,
            use_bias=use_bias,
            **arguments,
        )(x)

    def _quantizers(self):
        zero = {"sign_of_zero": self.sign_of_zero}
        if self.binarization == "lsr":
            kernel = LSRKernel(trainable=self.train_scales, name="binarizer", **zero)
            return SteSign(**zero), kernel
        if self.binarization == "xnor":
            return XNORInput(**zero), XNORKernel(**zero)
        if self.binarization == "irnet":
            return EDESign(**zero), LibraKernel(**zero)
        if self.binarization == "bireal":
            return ApproxSign(**zero), MagnitudeAwareSign(scale_gradient=False, **zero)
        return SteSign(**zero), SteSign(**zero)

    def normalized(self, x, name: str, always: bool = False):
        """Batch normalization, unless the network has none."""
        if not (self.use_bn or always):
            return x
        return layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, center=self.affine, scale=self.affine, name=name
        )(x)

    def activated(self, x, name: str):
        """Hardtanh, or ReLU in the real network."""
        return layers.Activation("relu" if self.is_real else hardtanh, name=name)(x)

    def pooled(self, x, name: str, has_bn: bool = True):
        """The aggregation over points."""
        if self.aggregation == "mean":
            return EntropyMaximizingAggregation("mean", ties=self.ties, name=name)(x)
        offset: str | float = 0.0
        if self.aggregation == "ema-max":
            released = "released" if x.shape[1] in _RELEASED_POINTS else "closed_form"
            offset = released if has_bn else _OFFSET_WITHOUT_BN
        return EntropyMaximizingAggregation("max", offset=offset, ties=self.ties, name=name)(x)


def unit(x, units: int, style: Style, layer: str, norm: str, real=False, in_tnet=False):
    """Linear layer, batch normalization, activation."""
    x = style.linear(x, units, layer, real=real)
    return style.activated(style.normalized(x, norm, in_tnet), f"{norm}_activation")


def tnet(points, size: int, style: Style, name: str, real_first: bool):
    """The network that predicts a transform: `(batch, size * size)`, without its identity.

    Args:
        points: `(batch, points, channels)`.
        size: Rows of the matrix.
        style: The network's `Style`.
        name: Start of the layers' names.
        real_first: Whether the first layer is real.
    """
    x = unit(points, 64, style, f"{name}_conv1", f"{name}_bn1", real_first, in_tnet=True)
    x = unit(x, 128, style, f"{name}_conv2", f"{name}_bn2", in_tnet=True)
    x = style.linear(x, ENCODED, f"{name}_conv3")
    x = style.normalized(x, f"{name}_bn3", always=True)
    if style.aggregation != "ema-max":
        x = style.activated(x, f"{name}_bn3_activation")
    x = style.pooled(x, f"{name}_pool")
    x = unit(x, 512, style, f"{name}_fc1", f"{name}_bn4", in_tnet=True)
    x = unit(x, 256, style, f"{name}_fc2", f"{name}_bn5", in_tnet=True)
    return style.linear(x, size * size, f"{name}_fc3")


def transformed(points, size, style, name, transform, real_first=False, weight=0.0):
    """The points, their first `size` channels multiplied by the matrix of a T-Net."""
    matrices = tnet(points, size, style, name, real_first)
    return PointTransform(weight, name=transform)(points, matrices)


def encoder(points, style: Style, transforms: bool, weight: float, name: str = "feat"):
    """PointNet's encoder.

    Returns:
        The features of the points before the last two layers, `(batch, points, 64)`; behind them,
        `(batch, points, 1024)`; and their aggregation, `(batch, 1024)`.
    """
    real_first = not style.bi_first
    x = points
    if transforms:
        x = transformed(x, 3, style, f"{name}_stn", f"{name}_transform", real_first)
    x = unit(x, 64, style, f"{name}_conv1", f"{name}_bn1", real_first)
    if transforms:
        x = transformed(x, 64, style, f"{name}_fstn", f"{name}_transform64", weight=weight)
    local = x
    x = unit(x, 128, style, f"{name}_conv2", f"{name}_bn2")
    x = style.normalized(style.linear(x, ENCODED, f"{name}_conv3"), f"{name}_bn3")
    return local, x, style.pooled(x, f"{name}_pool", has_bn=style.use_bn)


def mlp(x, widths, style: Style, names, mask=None):
    """Linear layer, ReLU and batch normalization, for each width: the order of the graph networks.

    Args:
        x: Features, the channels last.
        widths: Units of the layers.
        style: The network's `Style`.
        names: Names of the layers.
        mask: Which features count in the statistics of a batch; `None` for all.
    """
    for units, name in zip(widths, names, strict=True):
        x = style.linear(x, units, name)
        x = layers.Activation("relu", name=f"{name}_relu")(x)
        x = builder.batch_normalization(f"{name}_bn")(x, mask=mask)
    return x


def pooled(x, axis: int, points: int, style: Style, name: str, mask=None):
    """The aggregation, with the offset for `points`; over those that the mask says are there."""
    arguments = {
        "mode": "mean" if style.aggregation == "mean" else "max",
        "axis": axis,
        "offset": "released" if style.aggregation == "ema-max" else 0.0,
        "points": points,
        "ties": style.ties,
        "name": name,
    }
    if mask is None:
        return EntropyMaximizingAggregation(**arguments)(x)
    return NeighbourAggregation(**arguments)(x, mask)
