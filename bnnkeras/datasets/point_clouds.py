"""Point clouds: from meshes, embedded ones, and what official trainings do to them."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from bnnkeras.datasets.digits import digits


class Mesh(NamedTuple):
    """A surface of triangles.

    Attributes:
        vertices: `(vertices, 3)`, float.
        faces: `(faces, 3)`, indices of vertices, counterclockwise seen from outside.
        parts: `(faces,)`, integer labels of the faces, or `None`.
    """

    vertices: np.ndarray
    faces: np.ndarray
    parts: np.ndarray | None = None


class Clouds(NamedTuple):
    """Clouds with their labels.

    Attributes:
        points: `(clouds, points, channels)`, float32.
        labels: `(clouds,)`, int64: what each cloud shows.
        parts: `(clouds, points)`, int64: what each point belongs to, or `None`.
    """

    points: np.ndarray
    labels: np.ndarray
    parts: np.ndarray | None = None


# --- Meshes ----------------------------------------------------------------------------------


def sample_mesh(mesh: Mesh, points: int, generator: np.random.Generator):
    """Points drawn uniformly over a surface: triangles by their area, and uniformly within each.

    Args:
        mesh: A `Mesh` with some area.
        points: How many points.
        generator: Source of randomness.

    Returns:
        Positions `(points, 3)`, unit normals `(points, 3)` and the indices of the faces.

    Raises:
        ValueError: If the surface has no area.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.datasets import point_clouds
        >>> square = point_clouds.Mesh(np.eye(3), np.array([[0, 1, 2]]))
        >>> positions, normals, faces = point_clouds.sample_mesh(
        ...     square, 5, np.random.default_rng(0)
        ... )
        >>> positions.sum(axis=1).round(6).tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    corners = mesh.vertices[mesh.faces]  # (F, 3 corners, 3)
    first, second = (corners[:, index] - corners[:, 0] for index in (1, 2))
    cross = np.cross(first, second)
    doubled_areas = np.linalg.norm(cross, axis=1)
    total = doubled_areas.sum()
    if not total > 0:
        raise ValueError(f"`mesh` must have an area. Received: {len(mesh.faces)} faces without")
    faces = generator.choice(len(mesh.faces), size=points, p=doubled_areas / total)
    u, v = generator.uniform(size=(2, points, 1))
    # The half of the parallelogram that is no triangle, folded over.
    outside = u + v > 1
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    positions = corners[faces, 0] + u * first[faces] + v * second[faces]
    normals = cross[faces] / doubled_areas[faces, None]
    return positions, normals, faces


def in_unit_cube(vertices: np.ndarray) -> np.ndarray:
    """Moved to the mean vertex and scaled so that the largest coordinate is 0.999999.

    What the official trainings do once with each mesh of ModelNet40 and cloud of ShapeNetPart.
    """
    centred = vertices - vertices.mean(axis=0)
    return centred * (0.999999 / np.abs(centred).max())


def in_unit_sphere(positions: np.ndarray) -> np.ndarray:
    """Moved to the mean point and divided by the largest distance from it, cloud by cloud.

    Args:
        positions: `(..., points, 3)`.
    """
    centred = positions - positions.mean(axis=-2, keepdims=True)
    distances = np.linalg.norm(centred, axis=-1)
    return centred / distances.max(axis=-1)[..., None, None]


class MeshBatches(keras.utils.PyDataset):
    """Feeds `model.fit` with points sampled anew from meshes at every access.

    As in the official training on ModelNet40, in evaluation too. Each batch is a pure function of
    (seed, epoch, number).

    Args:
        meshes: Sequence of `Mesh`es; see `in_unit_cube`.
        labels: `(meshes,)`, integers.
        batch_size: Clouds per batch.
        points: Points per cloud. Defaults to 1024.
        shuffle: Whether the order changes from epoch to epoch.
        unit_sphere: Whether each sample is put `in_unit_sphere`, as for PointNet and PointCNN
            (default), or stays as it is, as for PointNet++ and DGCNN.
        seed: Integer that all randomness follows from.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.datasets import point_clouds
        >>> meshes = [point_clouds.Mesh(np.eye(3), np.array([[0, 1, 2]]))] * 3
        >>> batches = point_clouds.MeshBatches(meshes, np.arange(3), batch_size=2, points=16)
        >>> len(batches), batches[0][0].shape
        (2, (2, 16, 3))
    """

    def __init__(
        self, meshes, labels, batch_size, points=1024, shuffle=True, unit_sphere=True, seed=0
    ):
        super().__init__()
        if len(meshes) != len(labels):
            raise ValueError(
                "`meshes` and `labels` must have the same length. "
                f"Received: {len(meshes)} and {len(labels)}"
            )
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be positive. Received: batch_size={batch_size}")
        self.meshes, self.labels = meshes, np.asarray(labels)
        self.batch_size, self.points = batch_size, points
        self.shuffle, self.unit_sphere, self.seed = shuffle, unit_sphere, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.meshes) // self.batch_size)

    def __getitem__(self, number: int):
        order = np.arange(len(self.meshes))
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(len(order))
        chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
        generator = np.random.default_rng((self.seed, self.epoch, number))
        clouds = np.stack(
            [sample_mesh(self.meshes[index], self.points, generator)[0] for index in chosen]
        )
        if self.unit_sphere:
            clouds = in_unit_sphere(clouds)
        return clouds.astype("float32"), self.labels[chosen]

    def on_epoch_end(self) -> None:
        self.epoch += 1


# --- What official trainings do to clouds -----------------------------------------------------


def padded(cloud: np.ndarray, points: int, generator: np.random.Generator) -> np.ndarray:
    """The rows in random order, some of them repeated until there are `points`.

    Of a cloud with more points, as many are drawn. ShapeNetPart is trained and tested so, with 4096
    points.

    Args:
        cloud: `(rows, columns)`: coordinates, normals, labels.
        points: How many rows are wanted.
        generator: Source of randomness.
    """
    chosen = generator.permutation(len(cloud))[:points]
    repeated = generator.integers(0, len(cloud), max(points - len(cloud), 0))
    return cloud[generator.permutation(np.concatenate([chosen, repeated]))]


def jitter_and_rotate(jitter: float = 0.01, degrees: float = 15.0) -> Callable:
    """The augmentation of the official part segmentation, of positions only.

    Each coordinate is moved by U(-jitter, jitter); then the cloud is turned by U(-degrees, degrees)
    about x, then y, then z. Channels behind the third, such as normals, stay as they are.

    Args:
        jitter: Float. Defaults to 0.01.
        degrees: Float. Defaults to 15.

    Returns:
        A function of clouds `(batch, points, channels)` and a generator, for `Batches`.
    """

    def augment(clouds: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        positions = clouds[..., :3] + generator.uniform(-jitter, jitter, (*clouds.shape[:2], 3))
        angles = np.radians(generator.uniform(-degrees, degrees, (len(clouds), 3)))
        for axis in range(3):
            matrix = _rotations(angles[:, axis], axis)
            positions = positions @ matrix.transpose(0, 2, 1)
        return np.concatenate([positions, clouds[..., 3:]], axis=-1).astype(clouds.dtype)

    return augment


def turned(axis: int = 2) -> Callable:
    """Turns every cloud by any angle about an axis, its normals with it.

    Args:
        axis: 0, 1 or 2. Defaults to 2, which is upright.

    Returns:
        A function of clouds `(batch, points, channels)` and a generator, for `Batches`. The
        channels are x, y, z of positions, then of normals if there are any.

    Raises:
        ValueError: If `axis` is out of range.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.datasets import point_clouds
        >>> cloud = np.array([[[3.0, 4.0, 1.0]]])
        >>> x, y, z = point_clouds.turned()(cloud, np.random.default_rng(0))[0, 0].tolist()
        >>> round(x * x + y * y, 6), z
        (25.0, 1.0)
    """
    if axis not in (0, 1, 2):
        raise ValueError(f"`axis` must be 0, 1 or 2. Received: axis={axis!r}")

    def augment(clouds: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        angles = generator.uniform(0, 2 * np.pi, len(clouds))
        matrices = _rotations(angles, axis).transpose(0, 2, 1)
        vectors = np.split(clouds, clouds.shape[-1] // 3, axis=-1)
        return np.concatenate([v @ matrices for v in vectors], axis=-1).astype(clouds.dtype)

    return augment


def _rotations(angles: np.ndarray, axis: int) -> np.ndarray:
    """Matrices that turn columns counterclockwise about an axis, seen from its tip."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrices = np.tile(np.eye(3), (len(angles), 1, 1))
    matrices[:, first, first] = matrices[:, second, second] = np.cos(angles)
    matrices[:, second, first] = np.sin(angles)
    matrices[:, first, second] = -np.sin(angles)
    return matrices


# --- The embedded digits ----------------------------------------------------------------------


def digit_clouds(points: int = 64) -> tuple[Clouds, Clouds]:
    """The scanned digits (`bnnkeras.datasets.digits`) as clouds of their darkest pixels.

    A point is (x, y, ink): pixel centres of the scan enlarged to 16x16, x to the right and y
    upwards, all from -1 to 1, the darkest first.

    Args:
        points: How many pixels, 1 to 256. Defaults to 64.

    Returns:
        Clouds to train on, 1,437, and to test on, 360.

    Raises:
        ValueError: If `points` is out of range.
        ImportError: If scikit-learn, which holds the scans, is missing.

    Example:
        >>> from bnnkeras.datasets import point_clouds
        >>> train, test = point_clouds.digit_clouds()
        >>> train.points.shape, test.labels.shape
        ((1437, 64, 3), (360,))
    """
    if not 1 <= points <= 256:
        raise ValueError(f"`points` must be 1 to 256. Received: points={points}")
    centres = (np.arange(16) + 0.5) / 8 - 1
    x, y = np.meshgrid(centres, -centres)
    places = np.stack([x, y], axis=-1).reshape(-1, 2)

    def clouds(images, labels):
        ink = images.reshape(len(images), -1)
        chosen = np.argsort(-ink, axis=1, kind="stable")[:, :points]
        values = np.concatenate(
            [places[chosen], np.take_along_axis(ink, chosen, axis=1)[..., None]], axis=-1
        )
        return Clouds(values.astype("float32"), labels)

    train, test = digits(size=16, channels=1)
    return clouds(*train), clouds(*test)


# --- Parametric solids ------------------------------------------------------------------------


def _revolved(profile, segments: int, parts) -> Mesh:
    """A profile of pairs (radius, height), turned about z; counterclockwise seen from outside."""
    profile = np.asarray(profile, "float64")
    angles = 2 * np.pi * np.arange(segments) / segments
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=-1)  # (S, 2)
    flat = profile[:, :1, None] * ring[None]  # (P, S, 2)
    height = np.broadcast_to(profile[:, 1:, None], (*flat.shape[:2], 1))
    vertices = np.concatenate([flat, height], axis=-1).reshape(-1, 3)
    here = np.arange(segments)
    there = (here + 1) % segments
    faces, labels = [], []
    for step, part in zip(range(len(profile) - 1), parts, strict=True):
        low, high = step * segments, (step + 1) * segments
        faces.append(np.stack([low + here, low + there, high + there], axis=-1))
        faces.append(np.stack([low + here, high + there, high + here], axis=-1))
        labels.append(np.full(2 * segments, part))
    return Mesh(vertices, np.concatenate(faces), np.concatenate(labels))


def _box(low, high, part: int) -> Mesh:
    low, high = np.asarray(low, "float64"), np.asarray(high, "float64")
    bits = (np.arange(8)[:, None] >> np.arange(3)) & 1  # (8 corners, x y z)
    vertices = np.where(bits == 1, high, low)
    quads = [(0, 4, 6, 2), (1, 3, 7, 5), (0, 1, 5, 4), (2, 6, 7, 3), (0, 2, 3, 1), (4, 5, 7, 6)]
    faces = [(a, b, c) for a, b, c, _ in quads] + [(a, c, d) for a, _, c, d in quads]
    return Mesh(vertices, np.array(faces), np.full(12, part))


def _joined(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([m.faces + start for m, start in zip(meshes, starts, strict=False)]),
        np.concatenate([mesh.parts for mesh in meshes if mesh.parts is not None]),
    )


def _arc(radius, low, high, steps=12, centre=(0.0, 0.0)):
    """A piece of a circle in a profile, by angles from the equator, in radians."""
    angles = np.linspace(low, high, steps + 1)
    return [(centre[0] + radius * np.cos(a), centre[1] + radius * np.sin(a)) for a in angles]


_HALF = np.pi / 2


def _sphere(draw):
    profile = _arc(1.0, -_HALF, _HALF, 16)
    return _revolved(profile, 24, [0] * 8 + [1] * 8)  # lower and upper half


def _cylinder(draw):
    r, h = draw(0.4, 0.9), 1.0
    return _revolved([(0, -h), (r, -h), (r, h), (0, h)], 24, [0, 1, 2])  # bottom, side, top


def _cone(draw):
    r, h = draw(0.5, 1.0), 1.0
    return _revolved([(0, -h), (r, -h), (0, h)], 24, [0, 1])  # base, side


def _torus(draw):
    tube = draw(0.2, 0.4)
    profile = _arc(tube, -_HALF, 3 * _HALF, 16, centre=(1.0, 0.0))
    return _revolved(profile, 24, [0] * 8 + [1] * 8)  # outer and inner half


def _pyramid(draw):
    r, h = draw(0.7, 1.2), 1.0
    return _revolved([(0, -h), (r, -h), (0, h)], 4, [0, 1])


def _prism(draw):
    r, h = draw(0.5, 0.9), 1.0
    return _revolved([(0, -h), (r, -h), (r, h), (0, h)], 3, [0, 1, 2])


def _capsule(draw):
    r, h = draw(0.35, 0.55), draw(0.5, 0.9)
    bottom, top = _arc(r, -_HALF, 0, 8, (0, -h)), _arc(r, 0, _HALF, 8, (0, h))
    return _revolved([*bottom, *top], 24, [0] * 8 + [1] + [2] * 8)  # caps and side


def _tube(draw):
    r, inner, h = 0.8, draw(0.4, 0.65), draw(0.7, 1.1)
    profile = [(inner, h), (inner, -h), (r, -h), (r, h), (inner, h)]
    return _revolved(profile, 24, [0, 1, 2, 1])  # inside, rims, outside


def _dumbbell(draw):
    r, bar, h = draw(0.45, 0.6), draw(0.1, 0.2), 1.0
    bottom = _arc(r, -_HALF, _HALF * 0.9, 10, (0, -h))
    top = _arc(r, -_HALF * 0.9, _HALF, 10, (0, h))
    bar = [(bar, bottom[-1][1]), (bar, top[0][1])]
    return _revolved([*bottom, *bar, *top], 24, [0] * 10 + [1] * 3 + [0] * 10)  # weights, bar


def _mushroom(draw):
    stem, cap = draw(0.2, 0.35), draw(0.8, 1.1)
    dome = _arc(cap, 0, _HALF, 10)
    profile = [(0, -1.2), (stem, -1.2), (stem, 0), *dome]
    return _revolved(profile, 24, [0, 0, 1] + [1] * 10)  # stem, cap


def _block(draw):
    return _box((-1, -draw(0.4, 0.9), -draw(0.3, 0.8)), (1, draw(0.4, 0.9), draw(0.3, 0.8)), 0)


def _table(draw):
    x, y, leg = draw(0.7, 1.1), draw(0.6, 0.9), draw(0.08, 0.15)
    legs = [
        _box((sx * x - leg, sy * y - leg, -1), (sx * x + leg, sy * y + leg, 0.3), 1)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    return _joined(_box((-x - leg, -y - leg, 0.3), (x + leg, y + leg, 0.5), 0), *legs)


def _chair(draw):
    x, leg = draw(0.5, 0.7), draw(0.06, 0.1)
    legs = [
        _box((sx * x - leg, sy * x - leg, -1), (sx * x + leg, sy * x + leg, -0.1), 1)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    seat = _box((-x - leg, -x - leg, -0.1), (x + leg, x + leg, 0.05), 0)
    back = _box((-x - leg, x - leg, 0.05), (x + leg, x + leg, draw(0.8, 1.2)), 2)
    return _joined(seat, back, *legs)


_SOLIDS: dict[str, Callable] = {
    "block": _block,
    "capsule": _capsule,
    "chair": _chair,
    "cone": _cone,
    "cylinder": _cylinder,
    "dumbbell": _dumbbell,
    "mushroom": _mushroom,
    "prism": _prism,
    "pyramid": _pyramid,
    "sphere": _sphere,
    "table": _table,
    "torus": _torus,
    "tube": _tube,
}
SOLIDS = tuple(_SOLIDS)


def solid(name: str, generator: np.random.Generator) -> Mesh:
    """The surface of a solid with random proportions, with labels of its parts.

    Args:
        name: One of `SOLIDS`.
        generator: Source of the proportions.

    Raises:
        ValueError: If there is no such solid.

    Example:
        >>> import numpy as np
        >>> from bnnkeras.datasets import point_clouds
        >>> mesh = point_clouds.solid("cone", np.random.default_rng(0))
        >>> sorted(set(mesh.parts.tolist()))
        [0, 1]
    """
    if name not in _SOLIDS:
        raise ValueError(f"`name` must be one of {SOLIDS}. Received: name={name!r}")
    return _SOLIDS[name](generator.uniform)


def solids(
    points: int = 1024,
    train_per_class: int = 100,
    test_per_class: int = 30,
    noise: float = 0.01,
    upright: bool = True,
    seed: int = 0,
) -> tuple[Clouds, Clouds]:
    """Clouds sampled from parametric solids, made anew and always the same.

    13 classes (`SOLIDS`) with random proportions, stretched by up to 15 % along each axis, turned
    at random about the vertical axis, with noise on the positions, in the unit sphere.

    Args:
        points: Points per cloud. Defaults to 1024.
        train_per_class: Clouds of each class to train on. Defaults to 100.
        test_per_class: Clouds of each class to test on. Defaults to 30.
        noise: Standard deviation of the noise, relative to the unit sphere. Defaults to 0.01.
        upright: `False` turns the solids about a random axis.
        seed: Integer that everything follows from.

    Returns:
        Clouds to train on and to test on; channels x, y, z and the normal; `parts` are numbered
        from 0 within each solid.

    Example:
        >>> from bnnkeras.datasets import point_clouds
        >>> train, test = point_clouds.solids(points=32, train_per_class=2, test_per_class=1)
        >>> train.points.shape, test.parts.shape
        ((26, 32, 6), (13, 32))
    """

    def clouds(split, count):
        labels = np.repeat(np.arange(len(SOLIDS)), count)
        rows = []
        for index, label in enumerate(labels):
            generator = np.random.default_rng((seed, split, index))
            rows.append(_sampled_solid(SOLIDS[label], points, noise, upright, generator))
        values, parts = (np.stack(column) for column in zip(*rows, strict=True))
        return Clouds(values.astype("float32"), labels, parts.astype("int64"))

    return clouds(0, train_per_class), clouds(1, test_per_class)


def _sampled_solid(name, points, noise, upright, generator):
    mesh = solid(name, generator)
    stretched = mesh._replace(vertices=mesh.vertices * generator.uniform(0.85, 1.15, 3))
    positions, normals, faces = sample_mesh(stretched, points, generator)
    if upright:
        turn = _rotations(generator.uniform(0, 2 * np.pi, 1), 2)[0]
    else:
        turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
        turn[:, 0] *= np.sign(np.linalg.det(turn))
    positions = in_unit_sphere(positions @ turn.T) + generator.normal(0, noise, (points, 3))
    assert mesh.parts is not None
    return np.concatenate([positions, normals @ turn.T], axis=1), mesh.parts[faces]
