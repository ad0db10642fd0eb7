"""Readers of public point clouds in their official file layouts; nothing is downloaded.

ModelNet40 as meshes and as the HDF5 release of 2048 points, ShapeNetPart with normals, S3DIS as the
HDF5 release of blocks.
"""

import json
from pathlib import Path

import numpy as np

from bnnkeras.datasets.point_clouds import Clouds, Mesh, in_unit_cube

# The parts of ShapeNetPart's categories, numbered through in this order.
SHAPENET_PARTS = {
    "Airplane": 4,
    "Bag": 2,
    "Cap": 2,
    "Car": 4,
    "Chair": 4,
    "Earphone": 3,
    "Guitar": 3,
    "Knife": 2,
    "Lamp": 4,
    "Laptop": 2,
    "Motorbike": 6,
    "Mug": 2,
    "Pistol": 3,
    "Rocket": 3,
    "Skateboard": 3,
    "Table": 3,
}


def _folder(folder) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"There is no such folder. Received: {str(folder)!r}")
    return path


def _check_split(split, allowed):
    if split not in allowed:
        raise ValueError(f"`split` must be one of {allowed}. Received: split={split!r}")


def read_off(path) -> Mesh:
    """The mesh in an OFF file; polygons are cut into triangles from their first corner.

    The header of some files of ModelNet40 lacks the line break behind `OFF`; they are read too.

    Args:
        path: Path of a text file.

    Raises:
        ValueError: If the file holds something else.
    """
    words = Path(path).read_text().split()
    if not words or not words[0].startswith("OFF"):
        raise ValueError(f"An OFF file must start with OFF. Received: {str(path)!r}")
    words = [words[0][3:], *words[1:]] if len(words[0]) > 3 else words[1:]
    try:
        vertices, faces = int(words[0]), int(words[1])
        numbers = words[3:]
        points = np.array(numbers[: 3 * vertices], "float64").reshape(vertices, 3)
        position, triangles = 3 * vertices, []
        for _ in range(faces):
            corners = int(numbers[position])
            face = [int(word) for word in numbers[position + 1 : position + 1 + corners]]
            if len(face) < corners or not all(0 <= corner < vertices for corner in face):
                raise ValueError("a face names a vertex that is not there")
            triangles += [(face[0], *face[i : i + 2]) for i in range(1, corners - 1)]
            position += 1 + corners
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"The OFF file is damaged or cut off ({error}). Received: {str(path)!r}"
        ) from error
    return Mesh(points, np.array(triangles, "int64").reshape(-1, 3))


def modelnet_meshes(folder, split: str = "train") -> tuple[list[Mesh], np.ndarray, list[str]]:
    """The meshes of ModelNet40 or ModelNet10, `<folder>/<class>/<train|test>/<class>_0001.off`.

    Each is put `in_unit_cube`. `MeshBatches` samples points from them.

    Args:
        folder: Path of the unpacked archive.
        split: `"train"` or `"test"`.

    Returns:
        The meshes, their labels, and the names of the classes, which are sorted.

    Raises:
        FileNotFoundError: If the folder, or any mesh in it, is missing.
        ValueError: If `split` is neither, or a file is damaged.
    """
    _check_split(split, ("train", "test"))
    root = _folder(folder)
    classes = sorted(path.name for path in root.iterdir() if (path / split).is_dir())
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((root / name / split).glob("*.off"))
    ]
    if not files:
        raise FileNotFoundError(f"No mesh <class>/{split}/*.off. Received: {str(folder)!r}")
    meshes = []
    for file, _ in files:
        mesh = read_off(file)
        meshes.append(mesh._replace(vertices=in_unit_cube(mesh.vertices)))
    return meshes, np.array([label for _, label in files], "int64"), classes


def _hdf5(paths):
    """The arrays `data` and `label` of HDF5 files, joined."""
    import h5py

    data, labels = [], []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"The list of files names {path.name!r}. Received: {path}")
        with h5py.File(path, "r") as file:
            data.append(np.asarray(file["data"], "float32"))
            labels.append(np.asarray(file["label"], "int64"))
    return np.concatenate(data), np.concatenate(labels)


def _listed(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no such file. Received: {path}")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def modelnet40_hdf5(folder, split: str = "train") -> Clouds:
    """ModelNet40 as released in HDF5 (`modelnet40_ply_hdf5_2048`): 2048 points per shape.

    Args:
        folder: Path of the unpacked archive, with `train_files.txt` and `test_files.txt`.
        split: `"train"` or `"test"`.

    Returns:
        `Clouds` of x, y and z.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If `split` is neither.
    """
    _check_split(split, ("train", "test"))
    root = _folder(folder)
    # The list has paths of another machine.
    names = [Path(line).name for line in _listed(root / f"{split}_files.txt")]
    data, labels = _hdf5([root / name for name in names])
    return Clouds(data, labels.reshape(-1))


def shapenet_part(
    folder, category: str, split: str = "train"
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """One category of ShapeNetPart (`shapenetcore_partanno_segmentation_benchmark_v0_normal`).

    Positions are put `in_unit_cube`; shapes have different numbers of points: see `padded`. Parts
    are numbered from 0 within the category. (The released code subtracts the lowest label of a
    batch instead, which is wrong where no shape of it has the first part.)

    Args:
        folder: Path of the unpacked archive, with `synsetoffset2category.txt`.
        category: One of `SHAPENET_PARTS`.
        split: `"train"`, `"val"`, `"trainval"` (on which the official networks are trained) or
            `"test"`.

    Returns:
        For each shape x, y, z and the normal `(points, 6)`, float32; and the parts `(points,)`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If an argument is out of range, or a shape has parts of another category.
    """
    _check_split(split, ("train", "val", "trainval", "test"))
    if category not in SHAPENET_PARTS:
        raise ValueError(
            f"`category` must be one of {tuple(SHAPENET_PARTS)}. Received: category={category!r}"
        )
    root = _folder(folder)
    synsets = dict(line.split() for line in _listed(root / "synsetoffset2category.txt"))
    synset = synsets[category]
    before = list(SHAPENET_PARTS)[: list(SHAPENET_PARTS).index(category)]
    first = sum(SHAPENET_PARTS[name] for name in before)
    clouds, parts = [], []
    for one in ("train", "val") if split == "trainval" else (split,):
        path = root / "train_test_split" / f"shuffled_{one}_file_list.json"
        # "shape_data/<synset>/<shape>"
        names = [name.split("/") for name in json.loads("".join(_listed(path)))]
        for _, folder_name, shape in names:
            if folder_name != synset:
                continue
            rows = np.loadtxt(root / synset / f"{shape}.txt", ndmin=2)
            labels = rows[:, 6].astype("int64") - first
            if labels.min() < 0 or labels.max() >= SHAPENET_PARTS[category]:
                raise ValueError(
                    f"Parts of {category!r} are numbered {first} to "
                    f"{first + SHAPENET_PARTS[category] - 1}. Received: {shape}.txt with "
                    f"{sorted(set((labels + first).tolist()))}"
                )
            positions = in_unit_cube(rows[:, :3])
            cloud = np.concatenate([positions, rows[:, 3:6]], axis=1)
            clouds.append(cloud.astype("float32"))
            parts.append(labels)
    return clouds, parts


def s3dis_hdf5(folder, test_area: int = 5, split: str = "train") -> Clouds:
    """S3DIS as released in HDF5 (`indoor3d_sem_seg_hdf5_data`): blocks of 4096 points.

    Args:
        folder: Path of the unpacked archive, with `all_files.txt` and `room_filelist.txt`.
        test_area: The area, 1 to 6, that is held out.
        split: `"train"` (the other areas) or `"test"`.

    Returns:
        `Clouds` of 9 channels: coordinates in the block, colours, coordinates in the room; `labels`
        are the areas of the blocks, `parts` the classes of the points, 0 to 12.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If an argument is out of range, or the lists do not fit the files.
    """
    _check_split(split, ("train", "test"))
    if test_area not in range(1, 7):
        raise ValueError(f"`test_area` must be 1 to 6. Received: test_area={test_area}")
    root = _folder(folder)
    names = [Path(line).name for line in _listed(root / "all_files.txt")]
    data, classes = _hdf5([root / name for name in names])
    rooms = _listed(root / "room_filelist.txt")
    if len(rooms) != len(data):
        raise ValueError(
            f"room_filelist.txt must name the room of each of the {len(data)} blocks. "
            f"Received: {len(rooms)} lines"
        )
    # "Area_1_conferenceRoom_1"
    areas = np.array([int(room.split("_")[1]) for room in rooms])
    chosen = (areas == test_area) == (split == "test")
    return Clouds(data[chosen], areas[chosen], classes[chosen])


def class_weights(classes: np.ndarray, count: int) -> np.ndarray:
    """(largest frequency / frequency)^(1/3): the official weights of S3DIS's classes.

    Args:
        classes: Labels of the training points, any shape.
        count: Number of classes; one that never occurs has the weight of one that occurs once.
    """
    frequencies = np.bincount(np.ravel(classes), minlength=count) / np.size(classes)
    frequencies = np.maximum(frequencies, 1 / np.size(classes))
    return np.cbrt(frequencies.max() / frequencies)
