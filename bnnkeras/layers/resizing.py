"""Maps of another size: bilinear resizing with aligned corners, and means over bins."""

import keras
import numpy as np
from keras import ops

from bnnkeras.registration import register


def aligned_weights(size: int, target: int) -> np.ndarray:
    """The matrix `(target, size)` of a linear interpolation whose end points stay end points.

    Row i has the weights of the two neighbours of i (size - 1) / (target - 1).
    """
    if target == 1:
        positions = np.zeros(1)
    else:
        positions = np.arange(target) * ((size - 1) / (target - 1))
    lower = np.minimum(np.floor(positions).astype(int), size - 1)
    upper = np.minimum(lower + 1, size - 1)
    weights = np.zeros((target, size))
    rows = np.arange(target)
    weights[rows, lower] += 1 - (positions - lower)
    weights[rows, upper] += positions - lower
    return weights


def bins(size: int, count: int) -> list[tuple[int, int]]:
    """Start and end of `count` bins of an axis: floor(i size / count), ceil((i + 1) size / count).

    They overlap where the division leaves a rest, and repeat where there are more than values.
    """
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def bin_weights(size: int, count: int) -> np.ndarray:
    """The matrix `(count, size)` of the means over `bins`."""
    weights = np.zeros((count, size))
    for row, (start, end) in enumerate(bins(size, count)):
        weights[row, start:end] = 1 / (end - start)
    return weights


class _SeparableMap(keras.layers.Layer):
    """y = R x C^T for each channel, R and C constant matrices; equal sizes need none.

    Args:
        height: Positive integer, the height of the output.
        width: Positive integer, its width.
    """

    def __init__(self, height, width, **kwargs):
        super().__init__(**kwargs)
        for name, size in (("height", height), ("width", width)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={size!r}")
        self.height = height
        self.width = width

    def weights_of(self, size: int, target: int) -> np.ndarray:
        """The matrix `(target, size)` of one axis."""
        raise NotImplementedError(f"{type(self).__name__} must define `weights_of`.")

    def call(self, inputs):
        _, rows, columns, channels = inputs.shape
        x = inputs
        # The matrices stand on the left of maps whose memory needs no transposition.
        if rows != self.height:
            x = ops.reshape(x, (-1, rows, columns * channels))
            x = ops.matmul(self._matrix(rows, self.height, x), x)
            x = ops.reshape(x, (-1, self.height, columns, channels))
        if columns != self.width:
            x = ops.matmul(self._matrix(columns, self.width, x), x)
        return x

    def _matrix(self, size, target, like):
        return ops.convert_to_tensor(self.weights_of(size, target), dtype=like.dtype)

    def compute_output_shape(self, input_shape):
        if None in input_shape[1:3]:
            raise ValueError(
                "The height and width of the inputs must be known. "
                f"Received: inputs of shape {tuple(input_shape)}"
            )
        return (input_shape[0], self.height, self.width, input_shape[-1])

    def get_config(self) -> dict:
        return {**super().get_config(), "height": self.height, "width": self.width}


@register
class AlignedResizing(_SeparableMap):
    """Bilinear resizing that maps the corner pixels onto each other (`align_corners=True`).

    Along each axis, output i of m lies at i (n - 1) / (m - 1) of the n inputs (at 0 for m = 1), and
    is interpolated between the two neighbours. `keras.layers.Resizing` aligns the borders of the
    pixels instead.

    Args:
        height: Positive integer, the height of the output.
        width: Positive integer, its width.
        **kwargs: As `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, rows, columns, channels)`, rows and columns known.

    Raises:
        ValueError: If a size is not positive; when called, if the input's size is open.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import AlignedResizing
        >>> x = np.array([0.0, 1.0, 4.0], "float32").reshape(1, 1, 3, 1)
        >>> keras.ops.convert_to_numpy(AlignedResizing(1, 5)(x)).ravel().tolist()
        [0.0, 0.5, 1.0, 2.5, 4.0]

    Reference:
        PyTorch's `interpolate(mode="bilinear", align_corners=True)`.
    """

    def weights_of(self, size, target):
        return aligned_weights(size, target)


@register
class AdaptiveAveragePooling(_SeparableMap):
    """Means over `height` x `width` bins, whatever the size of the map.

    Along each axis, bin i of m over n values is [floor(i n / m), ceil((i + 1) n / m)): bins overlap
    where m does not divide n, and repeat where m > n.

    Args:
        height: Positive integer, the number of bins along the height.
        width: Positive integer, likewise along the width.
        **kwargs: As `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, rows, columns, channels)`, rows and columns known.

    Raises:
        ValueError: If a number is not positive; when called, if the input's size is open.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers import AdaptiveAveragePooling
        >>> x = np.array([0.0, 1.0, 5.0], "float32").reshape(1, 1, 3, 1)
        >>> keras.ops.convert_to_numpy(AdaptiveAveragePooling(1, 2)(x)).ravel().tolist()
        [0.5, 3.0]

    Reference:
        PyTorch's `adaptive_avg_pool2d`.
    """

    def weights_of(self, size, target):
        return bin_weights(size, target)
