"""Layers on sets of points `(batch, points, channels)`."""

import math

import keras
import numpy as np
from keras import ops

from bnnkeras.layers.aggregation import EntropyMaximizingAggregation
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
        4.0

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


# --- Neighbours ------------------------------------------------------------------------------


def sampled_count(points: int, ratio: float) -> int:
    """ceil(points * ratio), computed in float32 as the released code does."""
    return math.ceil(float(np.float32(points) * np.float32(ratio)))


def farthest_points(positions, count: int):
    """Indices of points that are far from each other: the first one, then always the farthest.

    Args:
        positions: `(batch, points, 3)`.
        count: How many, at most `points`.

    Returns:
        `(batch, count)`, int32, in the order of the selection; of equally far points the first.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers.points import farthest_points
        >>> line = np.array([[[0.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0], [2.0, 0, 0]]], "float32")
        >>> keras.ops.convert_to_numpy(farthest_points(line, 3)).tolist()
        [[0, 2, 1]]

    Reference:
        Qi et al., PointNet++ (NIPS 2017), section 3.2.
    """
    positions = ops.stop_gradient(ops.convert_to_tensor(positions))
    points = positions.shape[1]
    places, indices = (ops.arange(size, dtype="int32") for size in (count, points))

    def step(number, state):
        distances, chosen = state
        last = ops.max(ops.where(places == number - 1, chosen, -1), axis=1)
        here = gathered(positions, last[:, None])  # (B, 1, 3)
        to_last = ops.sum(ops.square(positions - here), axis=-1)
        distances = ops.minimum(distances, to_last)
        # The first of the farthest; argmax has no form in TensorFlow Lite.
        largest = ops.max(distances, axis=1, keepdims=True)
        farthest = ops.min(ops.where(distances == largest, indices, points), axis=1, keepdims=True)
        return distances, ops.where(places == number, farthest, chosen)

    # Derived from the positions, so that the batch size may be unknown.
    distances = ops.full_like(positions[..., 0], math.inf)
    chosen = ops.zeros_like(positions[:, :1, 0], dtype="int32") + ops.zeros_like(places)
    return ops.fori_loop(1, count, step, (distances, chosen))[1]


def neighbours_within(positions, centres, radius: float, limit: int):
    """Indices of the points nearer to each centre than a radius, the first ones by index.

    Args:
        positions: `(batch, points, 3)`.
        centres: `(batch, centres, 3)`.
        radius: Positive float; points at just this distance do not count.
        limit: How many to return; -1 where there are fewer.

    Returns:
        `(batch, centres, limit)`, int32.

    Reference:
        Qi et al., PointNet++ (NIPS 2017), section 3.2 ("ball query").
    """
    points = positions.shape[1]
    inside = _squared_distances(centres, positions) < radius * radius
    indices = ops.sort(ops.where(inside, ops.arange(points, dtype="int32"), points), axis=-1)
    indices = ops.where(indices < points, indices, -1)[..., :limit]
    if limit <= points:
        return indices
    return ops.pad(indices, ((0, 0), (0, 0), (0, limit - points)), constant_values=-1)


def nearest_neighbours(features, count: int):
    """Indices of the nearest points of each point, itself first; of equally near ones the first.

    Args:
        features: `(batch, points, channels)`.
        count: How many, at most `points`.

    Returns:
        `(batch, points, count)`, int32.
    """
    distances = _squared_distances(features, features)
    if keras.backend.backend() == "torch":
        # Its top_k has no order among equals.
        return ops.cast(ops.argsort(distances, axis=-1)[..., :count], "int32")
    return ops.cast(ops.top_k(ops.negative(distances), count)[1], "int32")


def _squared_distances(a, b):
    """`(batch, rows of a, rows of b)`; summed channel by channel, so that equal points have 0."""
    a, b = (ops.stop_gradient(ops.convert_to_tensor(x)) for x in (a, b))
    if a.shape[-1] <= 4:
        terms = [ops.square(a[:, :, None, c] - b[:, None, :, c]) for c in range(a.shape[-1])]
        return sum(terms[1:], terms[0])
    products = ops.matmul(a, ops.transpose(b, (0, 2, 1)))
    squares = [ops.sum(ops.square(x), axis=-1) for x in (a, b)]
    distances = squares[0][:, :, None] + squares[1][:, None, :] - 2 * products
    return ops.maximum(distances, 0)


def gathered(x, indices):
    """Rows of x by index within each cloud.

    Args:
        x: `(batch, points, channels)`.
        indices: `(batch, ...)`, 0 to points - 1.

    Returns:
        `(batch, ..., channels)`.
    """
    batch, points = ops.shape(x)[0], x.shape[1]
    shape = (-1, *indices.shape[1:])
    starts = points * ops.arange(batch, dtype="int32")
    starts = ops.reshape(starts, (-1, *[1] * (len(indices.shape) - 1)))
    rows = ops.take(ops.reshape(x, (-1, x.shape[-1])), ops.reshape(indices + starts, (-1,)), axis=0)
    return ops.reshape(rows, (*shape, x.shape[-1]))


@register
class EdgeFeatures(keras.layers.Layer):
    """[x_i, x_j - x_i] for each point i and its nearest neighbours j, itself among them.

    The neighbours are those in the space of the features; their choice takes no gradient.

    Args:
        neighbours: Positive integer k.
        **kwargs: As `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, points, channels)`, of at least k points.

    Returns:
        `(batch, points, k, 2 * channels)`.

    Raises:
        ValueError: If there are fewer points than neighbours.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.layers.points import EdgeFeatures
        >>> tuple(EdgeFeatures(4)(np.ones((2, 10, 3), "float32")).shape)
        (2, 10, 4, 6)

    Reference:
        Wang et al., Dynamic Graph CNN for Learning on Point Clouds (2019), section 3.
    """

    def __init__(self, neighbours, **kwargs):
        super().__init__(**kwargs)
        if isinstance(neighbours, bool) or not isinstance(neighbours, int) or neighbours < 1:
            raise ValueError(
                f"`neighbours` must be a positive integer. Received: neighbours={neighbours!r}"
            )
        self.neighbours = neighbours

    def build(self, input_shape):
        if input_shape[1] is None or input_shape[1] < self.neighbours:
            raise ValueError(
                f"There must be at least {self.neighbours} points, a fixed number. "
                f"Received: input_shape={tuple(input_shape)}"
            )

    def call(self, inputs):
        others = gathered(inputs, nearest_neighbours(inputs, self.neighbours))
        centres = inputs[:, :, None] + ops.zeros_like(others)
        return ops.concatenate([centres, others - inputs[:, :, None]], axis=-1)

    def compute_output_shape(self, input_shape):
        batch, points, channels = input_shape
        return (batch, points, self.neighbours, 2 * channels)

    def get_config(self) -> dict:
        return {**super().get_config(), "neighbours": self.neighbours}


@register
class SampleAndGroup(keras.layers.Layer):
    """Points far from each other as centres, and the points around each, relative to it.

    Args:
        ratio: Float in (0, 1]. Share of the points that become centres (`sampled_count`).
        radius: Positive float. How near a point must be to a centre to be its neighbour.
        limit: Positive integer. How many neighbours a centre has at most: the first by index.
        **kwargs: As `keras.layers.Layer`.

    Call arguments:
        positions: `(batch, points, 3)`.
        features: `(batch, points, channels)`, or `None` for none.

    Returns:
        The centres `(batch, centres, 3)`; for each neighbour j of a centre i [x_j, p_j - p_i],
        `(batch, centres, limit, channels + 3)`, 0 where there are fewer; and which of them are
        there, boolean `(batch, centres, limit)`. A centre is its own neighbour.

    Raises:
        ValueError: If an argument is out of its range, or the number of points is unknown.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.layers.points import SampleAndGroup
        >>> centres, edges, mask = SampleAndGroup(0.5, 0.2, 4)(np.ones((2, 10, 3), "float32"))
        >>> tuple(centres.shape), tuple(edges.shape), tuple(mask.shape)
        ((2, 5, 3), (2, 5, 4, 3), (2, 5, 4))

    Reference:
        Qi et al., PointNet++ (NIPS 2017), section 3.2.
    """

    def __init__(self, ratio, radius, limit, **kwargs):
        super().__init__(**kwargs)
        if not 0 < ratio <= 1:
            raise ValueError(f"`ratio` must be in (0, 1]. Received: ratio={ratio}")
        if not radius > 0:
            raise ValueError(f"`radius` must be positive. Received: radius={radius}")
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"`limit` must be a positive integer. Received: limit={limit!r}")
        self.ratio = ratio
        self.radius = radius
        self.limit = limit

    def build(self, positions_shape, features_shape=None):
        if positions_shape[1] is None:
            raise ValueError(
                f"The number of points must be fixed. Received: {tuple(positions_shape)}"
            )

    def call(self, positions, features=None):
        count = sampled_count(positions.shape[1], self.ratio)
        centres = gathered(positions, farthest_points(positions, count))
        indices = neighbours_within(positions, centres, self.radius, self.limit)
        mask = indices >= 0
        chosen = ops.where(mask, indices, 0)
        edges = gathered(positions, chosen) - centres[:, :, None]
        if features is not None:
            edges = ops.concatenate([gathered(features, chosen), edges], axis=-1)
        return centres, ops.where(mask[..., None], edges, ops.zeros_like(edges)), mask

    def compute_output_spec(self, positions, features=None):
        batch, points, _ = positions.shape
        count = sampled_count(points, self.ratio)
        channels = 3 + (0 if features is None else features.shape[-1])
        return (
            keras.KerasTensor((batch, count, 3), self.compute_dtype),
            keras.KerasTensor((batch, count, self.limit, channels), self.compute_dtype),
            keras.KerasTensor((batch, count, self.limit), "bool"),
        )

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "ratio": self.ratio,
            "radius": self.radius,
            "limit": self.limit,
        }


@register
class NeighbourAggregation(EntropyMaximizingAggregation):
    """`EntropyMaximizingAggregation` over the neighbours that are there.

    The maximum ignores the others, the mean does not count them, and both have at least one.

    Args:
        mode: `"max"` (default) or `"mean"`.
        **kwargs: As `EntropyMaximizingAggregation`; the axis is 2.

    Call arguments:
        edges: `(batch, centres, neighbours, channels)`.
        present: `(batch, centres, neighbours)`, boolean: which of them are there.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from bnnkeras.layers.points import NeighbourAggregation
        >>> edges, there = np.array([[[[1.0], [2.0], [9.0]]]]), np.array([[[True, True, False]]])
        >>> keras.ops.convert_to_numpy(NeighbourAggregation("mean")(edges, there)).tolist()
        [[[1.5]]]

    Reference:
        Qin et al., BiPointNet (ICLR 2021), section 3.2; Qi et al., PointNet++ (NIPS 2017).
    """

    def __init__(self, mode="max", **kwargs):
        super().__init__(mode, **{"axis": 2, **kwargs})

    # One input more than the layer it derives from.
    def build(self, edges_shape, present_shape):  # type: ignore[override]
        super().build(edges_shape)

    def call(self, edges, present):  # type: ignore[override]
        present = ops.expand_dims(present, -1)
        if self.mode == "max":
            return super().call(ops.where(present, edges, ops.full_like(edges, -math.inf)))
        counted = ops.where(present, edges, ops.zeros_like(edges))
        number = ops.sum(ops.cast(present, edges.dtype), axis=2)
        return ops.sum(counted, axis=2) / number + self.shift(edges.shape)

    def compute_output_shape(self, edges_shape, present_shape):  # type: ignore[override]
        return super().compute_output_shape(edges_shape)


@register
class FarthestPoints(keras.layers.Layer):
    """A share of the points, far from each other, with their features.

    Args:
        ratio: Float in (0, 1] (`sampled_count`, `farthest_points`).
        **kwargs: As `keras.layers.Layer`.

    Call arguments:
        positions: `(batch, points, 3)`.
        features: `(batch, points, channels)`.

    Returns:
        Both for the chosen points.

    Raises:
        ValueError: If `ratio` is out of its range.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.layers.points import FarthestPoints
        >>> cloud = np.ones((2, 10, 3), "float32")
        >>> [tuple(y.shape) for y in FarthestPoints(0.25)(cloud, cloud)]
        [(2, 3, 3), (2, 3, 3)]
    """

    def __init__(self, ratio, **kwargs):
        super().__init__(**kwargs)
        if not 0 < ratio <= 1:
            raise ValueError(f"`ratio` must be in (0, 1]. Received: ratio={ratio}")
        self.ratio = ratio

    def build(self, positions_shape, features_shape):
        """Nothing to create."""

    def call(self, positions, features):
        indices = farthest_points(positions, sampled_count(positions.shape[1], self.ratio))
        return gathered(positions, indices), gathered(features, indices)

    def compute_output_spec(self, positions, features):
        count = sampled_count(positions.shape[1], self.ratio)
        return tuple(
            keras.KerasTensor((x.shape[0], count, x.shape[2]), self.compute_dtype)
            for x in (positions, features)
        )

    def get_config(self) -> dict:
        return {**super().get_config(), "ratio": self.ratio}


@register
class NeighbourFeatures(keras.layers.Layer):
    """The nearest neighbours of every point, itself first: where they are, and their features.

    Args:
        neighbours: Positive integer k.
        dilation: Positive integer d: every d-th of the k d nearest. Defaults to 1.
        **kwargs: As `keras.layers.Layer`.

    Call arguments:
        positions: `(batch, points, 3)`, of at least k d points.
        features: `(batch, points, channels)`, or `None` for none.

    Returns:
        [p_j - p_i, x_j], `(batch, points, k, 3 + channels)`.

    Raises:
        ValueError: If an argument is out of its range, or there are too few points.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.layers.points import NeighbourFeatures
        >>> tuple(NeighbourFeatures(4)(np.ones((2, 10, 3), "float32")).shape)
        (2, 10, 4, 3)

    Reference:
        Li et al., PointCNN (NeurIPS 2018), section 3.
    """

    def __init__(self, neighbours, dilation=1, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("neighbours", neighbours), ("dilation", dilation)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
        self.neighbours = neighbours
        self.dilation = dilation

    def build(self, positions_shape, features_shape=None):
        fewest = self.neighbours * self.dilation
        if positions_shape[1] is None or positions_shape[1] < fewest:
            raise ValueError(
                f"There must be at least {fewest} points, a fixed number. "
                f"Received: {tuple(positions_shape)}"
            )

    def call(self, positions, features=None):
        indices = nearest_neighbours(positions, self.neighbours * self.dilation)
        indices = indices[..., :: self.dilation]
        offsets = gathered(positions, indices) - positions[:, :, None]
        if features is None:
            return offsets
        return ops.concatenate([offsets, gathered(features, indices)], axis=-1)

    def compute_output_shape(self, positions_shape, features_shape=None):
        channels = 3 + (0 if features_shape is None else features_shape[-1])
        return (*positions_shape[:2], self.neighbours, channels)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "neighbours": self.neighbours,
            "dilation": self.dilation,
        }
