"""Kernels as bits, and latent weights that a quantizer maps back to exactly the same values."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from bnnkeras import context
from bnnkeras.layers.base import QuantizedLayer


@dataclass(frozen=True)
class PackedKernel:
    """values = scale * sign, or 0 where a bit of `nonzero` says so; 1 or 2 bits per value.

    Attributes:
        shape: Of the kernel.
        signs: uint8, eight signs per byte in C order, the first in the highest bit; 1 is +.
        nonzero: Likewise, 1 where the value is not 0; `None` if no value is.
        scale: Magnitudes, broadcast against `shape`; of the kernel's dtype.
    """

    shape: tuple[int, ...]
    signs: np.ndarray
    nonzero: np.ndarray | None
    scale: np.ndarray

    @classmethod
    def pack(cls, values: np.ndarray) -> "PackedKernel | None":
        """`values` as bits; `None` if they are not signs times a scale that is shared."""
        scale = np.abs(values)
        if not np.isfinite(scale).all():
            return None
        for axis in range(values.ndim):
            largest = scale.max(axis=axis, keepdims=True, initial=0)
            if ((scale == largest) | (scale == 0)).all():
                scale = largest
        if scale.size >= values.size:
            return None
        nonzero = values != 0
        return cls(
            values.shape,
            np.packbits(values > 0),
            None if nonzero.all() else np.packbits(nonzero),
            scale,
        )

    def unpack(self) -> np.ndarray:
        """The values.

        Raises:
            ValueError: If the arrays do not fit the shape.
        """
        values = np.where(self._flags(self.signs), self.scale, -self.scale)
        if self.nonzero is not None:
            values = np.where(self._flags(self.nonzero), values, np.zeros_like(values))
        if values.shape != self.shape:
            raise ValueError(f"a scale of shape {self.scale.shape} for a kernel of {self.shape}")
        return values

    def _flags(self, bits: np.ndarray) -> np.ndarray:
        count = math.prod(self.shape)
        if bits.dtype != np.uint8 or bits.shape != (-(-count // 8),):
            raise ValueError(f"{bits.dtype} bits of shape {bits.shape} for {count} values")
        return np.unpackbits(bits, count=count).reshape(self.shape).astype(bool)


def quantized_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """The weights that a model computes with: q(W) for quantized kernels, all others as they are.

    Args:
        model: A built model.

    Returns:
        Arrays by `variable.path`, in the order of `model.weights`; a path that comes again has
        `#2` behind it, `#3` and so on.

    Raises:
        ValueError: If the model is not built.

    Example:
        >>> import keras
        >>> from bnnkeras import layers, models
        >>> layer = layers.QuantDense(2, kernel_quantizer="ste_sign", name="d", kernel_constraint=
        ...     "weight_clip", kernel_initializer=lambda shape, dtype: [[0.3, -0.7]])
        >>> weights = models.quantized_weights(keras.Sequential([keras.Input((1,)), layer]))
        >>> [(name.split("/")[-1], array.tolist()) for name, array in weights.items()]
        [('kernel', [[1.0, -1.0]]), ('bias', [0.0, 0.0])]
    """
    check_built(model)
    found: dict[str, np.ndarray] = {}
    with context.quantized_scope(True):
        for variable, values in zip(model.weights, model.get_weights(), strict=True):
            name, number = variable.path, 1
            while name in found:
                number += 1
                name = f"{variable.path}#{number}"
            found[name] = values
    return found


def check_built(model) -> None:
    """Raises a `TypeError` for anything but a model, a `ValueError` for one without weights yet."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {model!r}")
    if not model.built:
        raise ValueError(
            "`model` must be built, so that it has weights: give it a keras.Input or call it. "
            f"Received: {model.name!r}, which is not built"
        )


def kernel_quantizers(model: keras.Model) -> dict[int, Callable]:
    """The quantizers of all kernels of a model that have one, by the `id` of the kernel."""
    return {
        id(getattr(layer, kernel)): getattr(layer, argument)
        for layer in model._flatten_layers()
        if isinstance(layer, QuantizedLayer)
        for kernel, argument in layer.kernel_quantizers.items()
        if getattr(layer, argument) is not None
    }


def quantized(quantizer: Callable, latent: np.ndarray, dtype: str, state=()) -> np.ndarray:
    """q(W), computed by this backend, without a trace in the state of the quantizer.

    Args:
        quantizer: q.
        latent: W.
        dtype: Of the kernel.
        state: Pairs of a variable and its value, for variables that count as having that value.
    """
    with keras.StatelessScope(state_mapping=state):
        return ops.convert_to_numpy(quantizer(ops.convert_to_tensor(latent, dtype)))


def latent_weights(values: np.ndarray, packed: PackedKernel, quantize: Callable):
    """Latent weights that `quantize` maps to exactly `values`; `None` if none are found.

    Signs times a scale are mostly a fixed point of their quantizer, up to rounding: the mean of 27
    equal magnitudes is not always that magnitude. So latent weights whose mean is exact are tried
    as well.
    """
    for latent in _candidates(values, packed):
        if np.array_equal(quantize(latent), values):
            return latent
    return None


def _candidates(values: np.ndarray, packed: PackedKernel) -> Iterator[np.ndarray]:
    yield values
    # A trained scale may have become negative: then the signs are those of -W.
    yield -values
    if values.dtype not in (np.float32, np.float64):
        return
    scales = [packed.scale]
    if packed.scale.shape[-1] != values.shape[-1]:
        # All channels have the same mean, by chance or after a constant initializer.
        shape = (*packed.scale.shape[:-1], values.shape[-1])
        scales.append(np.broadcast_to(packed.scale, shape))
    for scale in scales:
        for divides in (True, False):
            latent = _with_exact_means(values, scale, divides)
            if latent is not None:
                yield latent


def _with_exact_means(values: np.ndarray, scale: np.ndarray, divides: bool) -> np.ndarray | None:
    """Weights with the signs of `values` and mean magnitudes `scale`, whatever the order of sums.

    With g the last bit of a sum S, all weights are integers times g: no partial sum is ever
    rounded, and so the mean is that S / n, rounded once, for which the scale was chosen.

    Args:
        values: Signs times `scale`, float32 or float64.
        scale: Has size 1 along the axes that the mean is over.
        divides: Whether the backend computes S / n, or S * (1 / n).

    Returns:
        The weights, or `None` if there is no such S for one of the means.
    """
    reduced = [axis for axis in range(values.ndim) if scale.shape[axis] == 1]
    kept = [axis for axis in range(values.ndim) if scale.shape[axis] != 1]
    moved = values.transpose(kept + reduced)
    rows = moved.reshape(scale.size, -1)
    means, number = scale.reshape(-1, 1), values.dtype.type(rows.shape[1])
    steps = np.spacing(means * number) * np.array([0, 1, -1, 2, -2], values.dtype)
    sums = np.abs(means * number + steps)
    exact = (sums / number if divides else sums * (1 / number)) == means
    if not exact.any(axis=1).all():
        return None
    sums = np.take_along_axis(sums, exact.argmax(axis=1)[:, None], axis=1)
    unit = np.spacing(sums)
    nonzero = rows != 0
    share, rest = np.divmod(
        (sums / unit).astype("int64"), np.maximum(nonzero.sum(axis=1, keepdims=True), 1)
    )
    integers = share + (nonzero.cumsum(axis=1) <= rest)
    latent = np.sign(rows) * (integers.astype(values.dtype) * unit)
    return latent.reshape(moved.shape).transpose(np.argsort(kept + reduced))
