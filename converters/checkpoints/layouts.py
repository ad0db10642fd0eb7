"""How PyTorch stores an array, and how Keras does.

A layout turns one official array into the value of one Keras variable, or of several, and back. It
knows the official shape from the shapes of the variables, so that a wrong checkpoint is found
before an array is read.
"""

import math

import numpy as np

Shape = tuple[int, ...]

# Rank of a kernel -> the official axes in Keras's order: (O, I, spatial) becomes (spatial, I, O).
_KERNEL_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0), 5: (2, 3, 4, 1, 0)}


class Layout:
    """The same array on both sides; the base of the others.

    A layout of several variables takes that many shapes and arrays, and returns a tuple from
    `to_keras`.
    """

    def official_shape(self, *shapes: Shape) -> Shape:
        """The shape of the official array, from those of the variables."""
        return shapes[0]

    def to_keras(self, array: np.ndarray, *shapes: Shape):
        """The values of the variables; an array, or a tuple where there are several."""
        return array

    def to_official(self, *arrays: np.ndarray) -> np.ndarray:
        """The inverse of `to_keras`."""
        return arrays[0]

    def note(self, array: np.ndarray) -> str | None:
        """What the user should know about this value, as "not initialised"; `None` for nothing."""
        return None


class Transposed(Layout):
    """The official axes in another order.

    Args:
        axes: Tuple of integers; as for `numpy.transpose(official, axes)`.
    """

    def __init__(self, axes: tuple[int, ...]):
        self.axes = tuple(axes)
        self.inverse = tuple(int(axis) for axis in np.argsort(self.axes))

    def official_shape(self, *shapes):
        return tuple(shapes[0][axis] for axis in self.inverse)

    def to_keras(self, array, *shapes):
        return array.transpose(self.axes)

    def to_official(self, *arrays):
        return arrays[0].transpose(self.inverse)


class _Standard(Layout):
    """Kernels (O, I, spatial...) to (spatial..., I, O); arrays of rank 0 and 1 as they are."""

    def _for(self, rank) -> Layout:
        return Transposed(_KERNEL_AXES[rank]) if rank in _KERNEL_AXES else Layout()

    def official_shape(self, *shapes):
        return self._for(len(shapes[0])).official_shape(*shapes)

    def to_keras(self, array, *shapes):
        return self._for(len(shapes[0])).to_keras(array, *shapes)

    def to_official(self, *arrays):
        return self._for(arrays[0].ndim).to_official(*arrays)


STANDARD = _Standard()


class Flat(Layout):
    """A kernel stored as a column (N, 1), its elements in the order of `inner`'s official shape."""

    def __init__(self, inner: Layout = STANDARD):
        self.inner = inner

    def official_shape(self, *shapes):
        return (math.prod(shapes[0]), 1)

    def to_keras(self, array, *shapes):
        return self.inner.to_keras(array.reshape(self.inner.official_shape(*shapes)), *shapes)

    def to_official(self, *arrays):
        return self.inner.to_official(*arrays).reshape(-1, 1)


class Depthwise(Layout):
    """Depthwise kernels: (C * m, 1, spatial...) to (spatial..., C, m)."""

    def official_shape(self, *shapes):
        *spatial, channels, multiplier = shapes[0]
        return (channels * multiplier, 1, *spatial)

    def to_keras(self, array, *shapes):
        *spatial, channels, multiplier = shapes[0]
        split = array.reshape(channels, multiplier, *spatial)
        return np.moveaxis(split, (0, 1), (-2, -1))

    def to_official(self, *arrays):
        split = np.moveaxis(arrays[0], (-2, -1), (0, 1))
        return split.reshape(-1, 1, *split.shape[2:])


class Pointwise(Layout):
    """Kernels of one tap: (O, I, 1...) to (1..., I, O), whatever the number of ones on each side.

    Args:
        ones: Integer. Trailing axes of size 1 of the official array. Defaults to 0, a Linear.
    """

    def __init__(self, ones: int = 0):
        self.ones = ones

    def official_shape(self, *shapes):
        inputs, outputs = shapes[0][-2:]
        return (outputs, inputs) + (1,) * self.ones

    def to_keras(self, array, *shapes):
        inputs, outputs = shapes[0][-2:]
        return array.reshape(outputs, inputs).T.reshape(shapes[0])

    def to_official(self, *arrays):
        inputs, outputs = arrays[0].shape[-2:]
        kernel = arrays[0].reshape(inputs, outputs).T
        return kernel.reshape(self.official_shape(arrays[0].shape))


class SingleAxis(Layout):
    """One value per channel, with axes of size 1 around: (1, C, 1, 1) to (C,), (1, 1, C), ...

    Args:
        rank: Integer. Rank of the official array. Defaults to 4.
        axis: Integer. Its channel axis. Defaults to 1.
    """

    def __init__(self, rank: int = 4, axis: int = 1):
        self.rank = rank
        self.axis = axis

    def official_shape(self, *shapes):
        shape = [1] * self.rank
        shape[self.axis] = math.prod(shapes[0])
        return tuple(shape)

    def to_keras(self, array, *shapes):
        return array.reshape(shapes[0])

    def to_official(self, *arrays):
        return arrays[0].reshape(self.official_shape(arrays[0].shape))


class Negated(Layout):
    """The same array with the other sign, as a bias in front of a sign is to its threshold.

    Args:
        inner: How it lies in memory.
    """

    def __init__(self, inner: Layout = STANDARD):
        self.inner = inner

    def official_shape(self, *shapes):
        return self.inner.official_shape(*shapes)

    def to_keras(self, array, *shapes):
        return -self.inner.to_keras(array, *shapes)

    def to_official(self, *arrays):
        return -self.inner.to_official(*arrays)


class Share(Layout):
    """One of several arrays that fill a variable side by side, along its last axis.

    Args:
        index: Integer. Which of them this is.
        count: Integer. How many there are, all of the same size.
        inner: How each lies in memory.
    """

    def __init__(self, index: int, count: int, inner: Layout = STANDARD):
        self.index = index
        self.count = count
        self.inner = inner

    def slice_of(self, size: int) -> slice:
        """The part of the last axis, `size` long, that this array fills."""
        share = size // self.count
        return slice(self.index * share, (self.index + 1) * share)

    def share_shape(self, shape: Shape) -> Shape:
        """The shape of this part of a variable."""
        return (*shape[:-1], shape[-1] // self.count)

    def official_shape(self, *shapes):
        return self.inner.official_shape(self.share_shape(shapes[0]))

    def to_keras(self, array, *shapes):
        return self.inner.to_keras(array, self.share_shape(shapes[0]))

    def to_official(self, *arrays):
        return self.inner.to_official(arrays[0][..., self.slice_of(arrays[0].shape[-1])])


class FlattenedFeatures(Layout):
    """A classifier on a flattened feature map: (O, C * H * W) to (H * W * C, O).

    Args:
        height: Integer. Height of the feature map.
        width: Integer. Its width.
    """

    def __init__(self, height: int, width: int):
        self.height = height
        self.width = width

    def official_shape(self, *shapes):
        return shapes[0][::-1]

    def to_keras(self, array, *shapes):
        split = array.reshape(len(array), -1, self.height, self.width)
        return split.transpose(2, 3, 1, 0).reshape(shapes[0])

    def to_official(self, *arrays):
        split = arrays[0].reshape(self.height, self.width, -1, arrays[0].shape[-1])
        return split.transpose(3, 2, 0, 1).reshape(arrays[0].shape[::-1])
