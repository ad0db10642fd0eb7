"""How much of its features a network retains from stage to stage, as LCR-BNN measures it.

All functions take feature maps `(batch, height, width, channels)`. Where the later map of a pair is
smaller, the earlier one is averaged down to its size.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

FORMS = ("code", "paper")


def retention_matrix(earlier, later):
    """M = F1^T F2 / N per sample: how the channels of two feature maps go together.

    Args:
        earlier: F1, `(batch, height, width, channels_1)`.
        later: F2, `(batch, height_2, width_2, channels_2)` with N = height_2 width_2.

    Returns:
        `(batch, channels_1, channels_2)`.

    Raises:
        ValueError: If the maps have other ranks, or sizes that differ and are not known.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.training.retention import retention_matrix
        >>> tuple(retention_matrix(np.ones((2, 8, 8, 3)), np.ones((2, 4, 4, 5))).shape)
        (2, 3, 5)

    Reference:
        Shang et al., LCR-BNN (ECCV 2022), released code.
    """
    first, second = _aligned(earlier, later)
    return ops.einsum("bnc,bnd->bcd", first, second) / first.shape[1]


def retention_value(earlier, later, iterations: int = 1, normalize_start: bool = False):
    """An estimate of the largest singular value of the retention matrix M, one per sample.

    sqrt(||K v||) with K = M M^T and v the vector of ones, after `iterations` steps of power
    iteration. In the released form (1 step from v not normalised) it is sqrt(||K 1||), larger than
    the estimate by channels_1^(1/4); from the second step on v has length 1.

    Neither M nor K is formed: a step costs batch * N * (channels_1 + channels_2) multiplications.
    Half precision is computed in float32. Features that are all 0 give a value near 0 and no
    gradient.

    Args:
        earlier: As for `retention_matrix`.
        later: Likewise.
        iterations: Positive integer. Defaults to 1, as released.
        normalize_start: Whether v starts with length 1. Defaults to `False`, as released.

    Returns:
        `(batch,)`.

    Raises:
        ValueError: If the maps have other ranks, or sizes that are not known, or `iterations` is
            not positive.

    Example:
        >>> import keras, numpy as np
        >>> from bnnkeras.training.retention import retention_value
        >>> ones = np.ones((1, 2, 2, 4))  # M is all ones, of singular value 4.
        >>> value = retention_value(ones, ones, normalize_start=True)
        >>> keras.ops.convert_to_numpy(value).round(4).tolist()
        [4.0]

    Reference:
        Shang et al., LCR-BNN (ECCV 2022), released code.
    """
    if iterations < 1:
        raise ValueError(
            f"`iterations` must be a positive integer. Received: iterations={iterations}"
        )
    first, second = _aligned(earlier, later)
    number, channels = first.shape[1:]
    vector = ops.ones_like(first[:, 0])
    if normalize_start:
        vector = vector / channels**0.5
    norm = ops.ones_like(vector[:, :1])
    for _ in range(iterations):
        # From right to left through K = F1^T F2 F2^T F1 / N^2, a vector at a time.
        along = ops.einsum("bnc,bc->bn", first, vector)
        along = ops.einsum("bnd,bn->bd", second, along) / number
        along = ops.einsum("bnd,bd->bn", second, along)
        product = ops.einsum("bnc,bn->bc", first, along) / number
        norm = _norm(product)
        vector = product / norm
    return ops.sqrt(norm[:, 0])


def lipschitz_retention_loss(
    student_features: Sequence,
    teacher_features: Sequence,
    form: str = "code",
    iterations: int = 1,
    normalize_start: bool = False,
    beta: float = 2.0,
):
    """How far the retention values of one network are from those of another.

        form="code":   sum_i 2^-(L - i) mean((s_i - t_i)^2),              i = 1 .. L - 1
        form="paper":  sum_i mean(((s_i^2 / t_i^2 - 1) beta^(i - L + 1))^2)

    s_i and t_i are `retention_value`s of the maps i and i + 1 of student and teacher, L their
    number; means are over the batch. No gradient reaches the teacher's features.

    Args:
        student_features: Sequence of L feature maps, from the first stage to the last.
        teacher_features: Likewise; their channels may differ.
        form: `"code"` (default, as released) or `"paper"`.
        iterations: As for `retention_value`. The paper iterates until it converges.
        normalize_start: As for `retention_value`.
        beta: Positive float, how much more a later stage counts in the paper's form.

    Returns:
        A scalar.

    Raises:
        ValueError: If the sequences differ in length or have fewer than two maps, or `form` is
            unknown.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.training.retention import lipschitz_retention_loss
        >>> maps = [np.ones((1, 4, 4, 2)), np.ones((1, 2, 2, 4))]
        >>> float(lipschitz_retention_loss(maps, maps))
        0.0

    Reference:
        Shang et al., LCR-BNN (ECCV 2022), section 3, and the released code.
    """
    if len(student_features) != len(teacher_features) or len(student_features) < 2:
        raise ValueError(
            "`student_features` and `teacher_features` must be equally many, and two or more. "
            f"Received: {len(student_features)} and {len(teacher_features)}"
        )
    if form not in FORMS:
        raise ValueError(f"`form` must be one of {FORMS}. Received: form={form!r}")

    def values(features):
        return [
            retention_value(earlier, later, iterations, normalize_start)
            for earlier, later in zip(features, features[1:], strict=False)
        ]

    targets = [ops.stop_gradient(value) for value in values(teacher_features)]
    pairs = list(zip(values(student_features), targets, strict=True))
    terms = []
    for index, (value, target) in enumerate(pairs, start=1):
        remaining = len(pairs) - index
        if form == "code":
            terms.append(ops.mean(ops.square(value - target)) * 0.5 ** (remaining + 1))
        else:
            ratio = ops.square(value) / ops.square(target)
            terms.append(ops.mean(ops.square((ratio - 1) * beta**-remaining)))
    return sum(terms[1:], terms[0])


def _norm(vectors):
    """Lengths `(batch, 1)`, not quite 0 where a vector is 0: 0 / 0 would be NaN."""
    square = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    tiny = ops.full_like(square, 1e-30)
    return ops.sqrt(ops.where(square > tiny, square, tiny))


def _aligned(earlier, later):
    """Both maps as `(batch, positions, channels)` with the same positions, in float32 at least."""
    earlier, later = widened(earlier), widened(later)
    for features in (earlier, later):
        if len(features.shape) != 4:
            raise ValueError(
                "Feature maps must be (batch, height, width, channels). "
                f"Received: shape {tuple(features.shape)}"
            )
    sizes, target = tuple(earlier.shape[1:3]), tuple(later.shape[1:3])
    if None in (*sizes, *target):
        raise ValueError(
            "Feature maps must have known sizes; build the networks with a fixed input_shape. "
            f"Received: shapes {tuple(earlier.shape)} and {tuple(later.shape)}"
        )
    if sizes != target:
        # Adaptive average pooling is separable: an averaging matrix for each axis.
        rows, columns = map(_averaging, sizes, target)
        dtype = earlier.dtype
        earlier = ops.einsum("rh,bhwc->brwc", ops.convert_to_tensor(rows, dtype), earlier)
        earlier = ops.einsum("sw,brwc->brsc", ops.convert_to_tensor(columns, dtype), earlier)
    # (B, H, W, C) -> (B, N, C)
    number = target[0] * target[1]
    return tuple(ops.reshape(x, (-1, number, x.shape[-1])) for x in (earlier, later))


def _averaging(size: int, target: int) -> np.ndarray:
    """The matrix of PyTorch's adaptive average pooling: windows may overlap."""
    matrix = np.zeros((target, size))
    for row in range(target):
        start, end = row * size // target, -(-(row + 1) * size // target)
        matrix[row, start:end] = 1 / (end - start)
    return matrix


def widened(x):
    """x in float32 if it has half precision."""
    x = ops.convert_to_tensor(x)
    # Values reach 1e3 and their squares 1e6: too much for float16.
    half = keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16")
    return ops.cast(x, "float32") if half else x
