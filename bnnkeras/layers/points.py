"""Layers on sets of points `(batch, points, channels)`."""

import math

import keras
from keras import ops

from bnnkeras.registration import register

PENALTIES = ("released", "orthogonal")


def orthogonality(matrices, penalty: str = "released"):
    """How far square matrices are from orthogonal ones, the mean over the batch.

        "released":   R = mean_b || A (A^T - I) ||_F
        "orthogonal": R = mean_b || A A^T - I ||_F

    The released code has its parenthesis in another place than PointNet; it is 0 for A = 0 too.

    Args:
        matrices: `(batch, k, k)`.
        penalty: `"released"` (default) or `"orthogonal"`.

    Returns:
        A scalar; its gradient is 0 where it is 0.

    Raises:
        ValueError: If `penalty` is unknown.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers.points import orthogonality
        >>> float(keras.ops.convert_to_numpy(orthogonality(2 * np.eye(4)[None])))
        12.0

    Reference:
        Qi et al., PointNet (CVPR 2017), section 4.2; Qin et al., BiPointNet (ICLR 2021), released
        code.
    """
    _check_penalty(penalty)
    matrices = ops.convert_to_tensor(matrices)
    transposed = ops.transpose(matrices, (0, 2, 1))
    identity = ops.eye(matrices.shape[-1], dtype=matrices.dtype)
    if penalty == "released":
        rest = ops.matmul(matrices, transposed - identity)
    else:
        rest = ops.matmul(matrices, transposed) - identity
    squares = ops.sum(ops.square(rest), axis=(1, 2))
    positive = squares > 0
    # The root has no derivative at 0.
    roots = ops.sqrt(ops.where(positive, squares, ops.ones_like(squares)))
    norms = ops.where(positive, roots, ops.zeros_like(roots))
    return ops.sum(norms) / ops.cast(ops.shape(norms)[0], norms.dtype)


def _check_penalty(penalty):
    if penalty not in PENALTIES:
        raise ValueError(f"`penalty` must be one of {PENALTIES}. Received: penalty={penalty!r}")


@register
class PointTransform(keras.layers.Layer):
    """Multiplies the first k channels of every point by a predicted matrix.

    y = [x_1 .. x_k] (I + reshape(m, (k, k))), the other channels as they are behind it. A point is
    a row vector.

    Args:
        weight: Float of at least 0. What `orthogonality(I + m)` is multiplied by when it is added
            to the training loss. Defaults to 0: no loss.
        penalty: As for `orthogonality`.
        **kwargs: As `keras.layers.Layer`.

    Call arguments:
        points: `(batch, points, channels)`.
        matrices: `(batch, k * k)`, row by row, with k of at most `channels`.

    Raises:
        ValueError: If an argument is out of its range, or the sizes do not fit.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers.points import PointTransform
        >>> y = PointTransform()(np.array([[[1.0, 2.0, 5.0]]]), np.array([[0.0, 1.0, 0.0, 0.0]]))
        >>> keras.ops.convert_to_numpy(y).tolist()
        [[[1.0, 3.0, 5.0]]]

    Reference:
        Qi et al., PointNet (CVPR 2017), section 4.2.
    """

    def __init__(self, weight=0.0, penalty="released", **kwargs):
        super().__init__(**kwargs)
        if not weight >= 0:
            raise ValueError(f"`weight` must be at least 0. Received: weight={weight}")
        _check_penalty(penalty)
        self.weight = float(weight)
        self.penalty = penalty

    def build(self, points_shape, matrices_shape):
        size = self.size(matrices_shape)
        if points_shape[-1] < size:
            raise ValueError(
                f"`matrices` must have at most as many rows as points have channels. Received: "
                f"matrices of shape {tuple(matrices_shape)}, points of shape {tuple(points_shape)}"
            )

    def size(self, matrices_shape) -> int:
        """k, from the shape of the matrices."""
        size = math.isqrt(matrices_shape[-1])
        if len(matrices_shape) != 2 or size * size != matrices_shape[-1]:
            raise ValueError(
                f"`matrices` must have the shape (batch, k * k). Received: {tuple(matrices_shape)}"
            )
        return size

    def call(self, points, matrices):
        size = self.size(matrices.shape)
        # (B, k * k) -> (B, k, k)
        matrices = ops.reshape(matrices, (-1, size, size)) + ops.eye(size, dtype=matrices.dtype)
        if self.weight:
            self.add_loss(self.weight * orthogonality(matrices, self.penalty))
        moved = ops.matmul(points[..., :size], matrices)
        if size == points.shape[-1]:
            return moved
        return ops.concatenate([moved, points[..., size:]], axis=-1)

    def compute_output_shape(self, points_shape, matrices_shape):
        return tuple(points_shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "weight": self.weight, "penalty": self.penalty}
