"""Embedded point clouds, readers of public ones on generated files, and scores."""

import json

import numpy as np
import pytest

from bnnkeras.datasets import point_clouds, point_clouds_files, point_clouds_scores
from bnnkeras.datasets.point_clouds import Mesh


def generator(seed=0):
    return np.random.default_rng(seed)


# --- Meshes ----------------------------------------------------------------------------------


def test_points_follow_the_area():
    """A square of two triangles beside one of nine times the area, and one without area."""
    vertices = np.array(
        [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (2, 0, 0), (5, 0, 0), (5, 3, 0), (2, 3, 0)],
        "float64",
    )
    faces = np.array([(0, 1, 2), (0, 2, 3), (4, 5, 6), (4, 6, 7), (0, 0, 1)])
    positions, normals, chosen = point_clouds.sample_mesh(
        Mesh(vertices, faces), 20_000, generator()
    )
    small = positions[:, 0] <= 1
    assert small.mean() == pytest.approx(0.1, abs=0.01)
    np.testing.assert_array_equal(small, chosen < 2)
    np.testing.assert_array_equal(normals, np.tile([0.0, 0.0, 1.0], (20_000, 1)))
    # Uniform within: mean and variance of a uniform distribution along each axis. Of 18,000 points
    # their standard errors are 0.007 and 0.005.
    inside = positions[~small, :2] - [2, 0]
    np.testing.assert_allclose(inside.mean(axis=0), 1.5, atol=0.03)
    np.testing.assert_allclose(inside.var(axis=0), 9 / 12, atol=0.03)
    assert (inside >= 0).all() and (inside <= 3).all()
    with pytest.raises(ValueError, match="`mesh` must have an area. Received: 1 faces without"):
        point_clouds.sample_mesh(Mesh(vertices, faces[4:]), 3, generator())


def test_batches_of_meshes():
    meshes = [point_clouds.solid(name, generator()) for name in ("cone", "torus", "table")]
    batches = point_clouds.MeshBatches(meshes, [0, 1, 2], batch_size=2, points=50, seed=3)
    first, labels = batches[0]
    assert len(batches) == 2 and first.shape == (2, 50, 3) and first.dtype == np.float32
    np.testing.assert_array_equal(first, batches[0][0])
    np.testing.assert_allclose(np.linalg.norm(first, axis=-1).max(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(first.mean(axis=1), 0, atol=1e-6)
    assert sorted([*labels, *batches[1][1]]) == [0, 1, 2]
    batches.on_epoch_end()
    assert not np.array_equal(first, batches[0][0])
    plain = point_clouds.MeshBatches(meshes, [0, 1, 2], 3, 50, shuffle=False, unit_sphere=False)
    assert plain[0][1].tolist() == [0, 1, 2] and np.abs(plain[0][0].mean(axis=1)).max() > 1e-3


def test_unit_cube_and_sphere():
    vertices = generator().normal(size=(30, 3)) + 5
    cube = point_clouds.in_unit_cube(vertices)
    assert np.abs(cube).max() == pytest.approx(0.999999, rel=1e-12)
    np.testing.assert_allclose(cube.mean(axis=0), 0, atol=1e-12)
    spheres = point_clouds.in_unit_sphere(generator().normal(size=(4, 30, 3)))
    np.testing.assert_allclose(np.linalg.norm(spheres, axis=-1).max(axis=-1), 1, rtol=1e-12)


# --- Augmentation ----------------------------------------------------------------------------


def test_padding():
    cloud = np.arange(10.0).reshape(5, 2)
    rows = point_clouds.padded(cloud, 12, generator())
    assert rows.shape == (12, 2) and {tuple(r) for r in rows} == {tuple(r) for r in cloud}
    assert not np.array_equal(rows[:5], cloud)
    fewer = point_clouds.padded(cloud, 3, generator())
    assert len({tuple(r) for r in fewer}) == 3


def test_jitter_and_rotation():
    clouds = generator().normal(size=(200, 40, 6)).astype("float32")
    turned = point_clouds.jitter_and_rotate(jitter=0)(clouds, generator(1))
    np.testing.assert_array_equal(turned[..., 3:], clouds[..., 3:])
    assert turned.dtype == np.float32
    # A rotation: distances stay, no mirror; three turns of at most 15 degrees. (Of float32 clouds,
    # from which the matrices are estimated.)
    pairs = zip(clouds[..., :3], turned[..., :3], strict=True)
    matrices = np.stack([np.linalg.lstsq(before, after, rcond=None)[0] for before, after in pairs])
    np.testing.assert_allclose(np.linalg.det(matrices), 1, rtol=1e-4)
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.tile(np.eye(3), (200, 1, 1)), atol=1e-4
    )
    # A column is turned about x, then y, then z: R = Rz Ry Rx, whose angles can be read off.
    rotation = matrices.transpose(0, 2, 1)
    angles = np.degrees(
        [
            np.arctan2(rotation[:, 2, 1], rotation[:, 2, 2]),
            -np.arcsin(rotation[:, 2, 0]),
            np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]),
        ]
    )
    assert np.abs(angles).max() <= 15.001 and np.abs(angles).max(axis=1).min() > 13
    jittered = point_clouds.jitter_and_rotate(degrees=0)(clouds, generator(1))
    moved = np.abs(jittered - clouds)[..., :3]
    assert 0.0099 < moved.max() <= 0.010001


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_turning(axis):
    clouds = generator().normal(size=(300, 20, 6)).astype("float32")
    turned = point_clouds.turned(axis)(clouds, generator(1))
    assert turned.dtype == np.float32
    first, second = (axis + 1) % 3, (axis + 2) % 3
    before, after = (
        vectors[..., first::3] + 1j * vectors[..., second::3] for vectors in (clouds, turned)
    )
    # Every vector of a cloud by one angle, and the angles of the clouds go all around.
    ratios = (after / before).reshape(300, -1)
    # (Quotients of float32 vectors, some of them near 0.)
    np.testing.assert_allclose(np.abs(ratios), 1, rtol=1e-3)
    np.testing.assert_allclose(ratios, ratios[:, :1].repeat(40, axis=1), atol=2e-2)
    np.testing.assert_array_equal(turned[..., axis::3], clouds[..., axis::3])
    angles = np.sort(np.angle(ratios[:, 0]))
    assert np.diff(angles).max() < 0.3 and np.ptp(angles) > 5.9
    with pytest.raises(ValueError, match="`axis` must be 0, 1 or 2. Received: axis=3"):
        point_clouds.turned(3)


# --- Embedded clouds -------------------------------------------------------------------------


def test_digits():
    train, test = point_clouds.digit_clouds()
    assert train.points.shape == (1437, 64, 3) and test.points.shape == (360, 64, 3)
    ink = train.points[..., 2]
    assert (np.diff(ink, axis=1) <= 0).all() and ink.max() <= 1
    # A one stands upright: its ink spreads along y.
    ones = train.points[train.labels == 1][:, :24]
    assert ones[..., 1].std(axis=1).mean() > ones[..., 0].std(axis=1).mean()
    with pytest.raises(ValueError, match="`points` must be 1 to 256. Received: points=257"):
        point_clouds.digit_clouds(257)


@pytest.mark.parametrize("name", point_clouds.SOLIDS)
def test_solids_are_closed_surfaces(name):
    mesh = point_clouds.solid(name, generator())
    corners = mesh.vertices[mesh.faces]
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    np.testing.assert_allclose(areas.sum(axis=0), 0, atol=1e-9)
    # Seen from outside, corners go counterclockwise: the enclosed volume is positive.
    assert np.einsum("fi,fi->f", corners[:, 0], areas).sum() / 3 > 0.1
    assert len(mesh.parts) == len(mesh.faces)
    assert sorted(set(mesh.parts.tolist())) == list(range(mesh.parts.max() + 1))


def test_solids():
    train, test = point_clouds.solids(points=256, train_per_class=2, test_per_class=1)
    assert len(point_clouds.SOLIDS) >= 10
    assert train.points.shape == (26, 256, 6) and train.points.dtype == np.float32
    assert test.labels.tolist() == list(range(13))
    again, _ = point_clouds.solids(points=256, train_per_class=2, test_per_class=1)
    np.testing.assert_array_equal(train.points, again.points)
    other, _ = point_clouds.solids(points=256, train_per_class=2, test_per_class=1, seed=1)
    assert not np.array_equal(train.points, other.points)
    np.testing.assert_allclose(np.linalg.norm(train.points[..., 3:], axis=-1), 1, rtol=1e-5)
    assert np.linalg.norm(train.points[..., :3], axis=-1).max() < 1.06
    # A sphere's normals point away from its middle, whatever its stretching and turning.
    ball = train.points[train.labels == point_clouds.SOLIDS.index("sphere")]
    assert ((ball[..., :3] * ball[..., 3:]).sum(axis=-1) > 0.5).all()
    turned, _ = point_clouds.solids(points=256, train_per_class=1, test_per_class=1, upright=False)
    cylinder = turned.points[point_clouds.SOLIDS.index("cylinder")]
    assert np.abs(cylinder[:, 5]).min() > 1e-3  # No vertical side any more.
    with pytest.raises(ValueError, match="`name` must be one of .*Received: name='egg'"):
        point_clouds.solid("egg", generator())


# --- Readers ---------------------------------------------------------------------------------

SQUARE = "4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n"


@pytest.mark.parametrize("header", ["OFF\n", "OFF"])
def test_off(header, tmp_path):
    path = tmp_path / "square.off"
    path.write_text(header + SQUARE)
    mesh = point_clouds_files.read_off(path)
    assert mesh.vertices.shape == (4, 3) and mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "must start with OFF"),
        ("PLY\n", "must start with OFF"),
        ("OFF\n" + SQUARE[:20], "damaged or cut off"),
        ("OFF\n" + SQUARE.replace("4 0 1 2 3", "4 0 1 2"), "damaged or cut off"),
        ("OFF\n" + SQUARE.replace("4 0 1 2 3", "3 0 1 9"), "a vertex that is not there"),
        ("OFF\n" + SQUARE.replace("1 1 0", "1 x 0"), "damaged or cut off"),
    ],
)
def test_damaged_off(text, message, tmp_path):
    path = tmp_path / "mesh.off"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        point_clouds_files.read_off(path)


def test_modelnet_meshes(tmp_path):
    for name in ("chair", "bathtub"):
        for split, count in (("train", 2), ("test", 1)):
            folder = tmp_path / name / split
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{name}_{index:04}.off").write_text("OFF\n" + SQUARE)
    (tmp_path / "README.txt").write_text("not a class")
    meshes, labels, classes = point_clouds_files.modelnet_meshes(tmp_path)
    assert classes == ["bathtub", "chair"] and labels.tolist() == [0, 0, 1, 1]
    assert np.abs(meshes[0].vertices).max() == pytest.approx(0.999999)
    batches = point_clouds.MeshBatches(meshes, labels, batch_size=4, points=8)
    assert batches[0][0].shape == (4, 8, 3)
    assert len(point_clouds_files.modelnet_meshes(tmp_path, "test")[0]) == 2
    with pytest.raises(ValueError, match="`split` must be one of .*Received: split='val'"):
        point_clouds_files.modelnet_meshes(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match="No mesh"):
        point_clouds_files.modelnet_meshes(tmp_path / "chair")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        point_clouds_files.modelnet_meshes(tmp_path / "nowhere")


def write_hdf5(path, data, label):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = data, label


def test_modelnet40_hdf5(tmp_path):
    data = generator().normal(size=(5, 2048, 3)).astype("float32")
    labels = np.array([[3], [1], [4], [1], [39]], "uint8")
    write_hdf5(tmp_path / "ply_data_train0.h5", data[:3], labels[:3])
    write_hdf5(tmp_path / "ply_data_train1.h5", data[3:], labels[3:])
    lines = [f"data/modelnet40_ply_hdf5_2048/ply_data_train{i}.h5" for i in (0, 1)]
    (tmp_path / "train_files.txt").write_text("\n".join(lines) + "\n")
    clouds = point_clouds_files.modelnet40_hdf5(tmp_path)
    np.testing.assert_array_equal(clouds.points, data)
    assert clouds.labels.tolist() == [3, 1, 4, 1, 39] and clouds.labels.dtype == np.int64
    with pytest.raises(FileNotFoundError, match="test_files.txt"):
        point_clouds_files.modelnet40_hdf5(tmp_path, "test")
    (tmp_path / "ply_data_train1.h5").unlink()
    with pytest.raises(FileNotFoundError, match="names 'ply_data_train1.h5'"):
        point_clouds_files.modelnet40_hdf5(tmp_path)


def test_shapenet_part(tmp_path):
    (tmp_path / "synsetoffset2category.txt").write_text("Airplane\t02691156\nBag\t02773838\n")
    splits = tmp_path / "train_test_split"
    splits.mkdir()
    rows = generator().normal(size=(7, 7))
    rows[:, 6] = [4, 5, 5, 5, 4, 5, 5]  # A bag's parts follow those of the airplane.
    for folder, names in {"02691156": ["a"], "02773838": ["b", "c"]}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            np.savetxt(tmp_path / folder / f"{name}.txt", rows)
    train, val = (["shape_data/02691156/a", "shape_data/02773838/b"], ["shape_data/02773838/c"])
    for split, names in {"train": train, "val": val, "test": []}.items():
        (splits / f"shuffled_{split}_file_list.json").write_text(json.dumps(names))
    clouds, parts = point_clouds_files.shapenet_part(tmp_path, "Bag")
    assert len(clouds) == 1 and clouds[0].shape == (7, 6)
    assert parts[0].tolist() == [0, 1, 1, 1, 0, 1, 1]
    np.testing.assert_allclose(clouds[0][:, 3:], rows[:, 3:6], rtol=1e-5)
    assert np.abs(clouds[0][:, :3]).max() == pytest.approx(0.999999)
    assert len(point_clouds_files.shapenet_part(tmp_path, "Bag", "trainval")[0]) == 2
    assert point_clouds_files.shapenet_part(tmp_path, "Bag", "test") == ([], [])
    with pytest.raises(ValueError, match=r"Parts of 'Airplane' are .*Received: a.txt with \[4, 5"):
        point_clouds_files.shapenet_part(tmp_path, "Airplane")
    with pytest.raises(ValueError, match="`category` must be one of .*Received: category='Boat'"):
        point_clouds_files.shapenet_part(tmp_path, "Boat")
    assert sum(point_clouds_files.SHAPENET_PARTS.values()) == 50


def test_s3dis(tmp_path):
    data = generator().normal(size=(4, 4096, 9)).astype("float32")
    classes = generator().integers(0, 13, (4, 4096))
    for index in (0, 1):
        chosen = slice(2 * index, 2 * index + 2)
        write_hdf5(tmp_path / f"ply_data_all_{index}.h5", data[chosen], classes[chosen])
    names = [f"indoor3d_sem_seg_hdf5_data/ply_data_all_{i}.h5" for i in (0, 1)]
    (tmp_path / "all_files.txt").write_text("\n".join(names))
    rooms = ["Area_1_office_1", "Area_5_hallway_2", "Area_5_hallway_2", "Area_6_lobby_1"]
    (tmp_path / "room_filelist.txt").write_text("\n".join(rooms) + "\n")
    train = point_clouds_files.s3dis_hdf5(tmp_path)
    test = point_clouds_files.s3dis_hdf5(tmp_path, split="test")
    assert train.labels.tolist() == [1, 6] and test.labels.tolist() == [5, 5]
    np.testing.assert_array_equal(test.points, data[1:3])
    np.testing.assert_array_equal(test.parts, classes[1:3])
    with pytest.raises(ValueError, match="`test_area` must be 1 to 6. Received: test_area=7"):
        point_clouds_files.s3dis_hdf5(tmp_path, 7)
    (tmp_path / "room_filelist.txt").write_text("Area_1_office_1\n")
    with pytest.raises(ValueError, match="each of the 4 blocks. Received: 1 lines"):
        point_clouds_files.s3dis_hdf5(tmp_path)


def test_class_weights():
    weights = point_clouds_files.class_weights(np.repeat([0, 1], [80, 10]), 3)
    np.testing.assert_allclose(weights, [1, 2, np.cbrt(80)])


# --- Scores ----------------------------------------------------------------------------------


def test_scores():
    labels, predictions = [0, 0, 0, 1, 1, 3], [0, 0, 1, 1, 1, 0]
    matrix = point_clouds_scores.confusion(labels, predictions, 5)
    assert matrix[0].tolist() == [2, 1, 0, 0, 0] and matrix.sum() == 6
    assert point_clouds_scores.overall_accuracy(matrix) == 4 / 6
    assert point_clouds_scores.class_accuracy(matrix) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert point_clouds_scores.mean_iou(matrix) == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)
    # Two parts that neither shape has count as 1.
    expected = (2 / 4 + 2 / 3 + 1 + 0 + 1) / 5
    assert point_clouds_scores.shape_iou(labels, predictions, 5) == pytest.approx(expected)
    instance, category = point_clouds_scores.part_scores(
        [[0, 1], [0, 0], [1, 1]], [[0, 1], [1, 1], [1, 1]], [4, 7, 7], {4: 2, 7: 2}
    )
    assert (instance, category) == (pytest.approx(2 / 3), 0.75)
    with pytest.raises(ValueError, match="`predictions` must be 0 to 1. Received: 0 to 2"):
        point_clouds_scores.confusion([0, 1], [2, 0], 2)
    with pytest.raises(ValueError, match="as many values. Received: 2 and 1"):
        point_clouds_scores.confusion([0, 1], [0], 2)
