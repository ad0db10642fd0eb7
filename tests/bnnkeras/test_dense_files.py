"""Readers of the official folders, on generated files."""

import numpy as np
import pytest

from bnnkeras.datasets import dense_files

Image = pytest.importorskip("PIL.Image", reason="reading images needs the datasets extra")


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def picture(path, seed=0):
    save(path, np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype("uint8"))


def test_ade20k(tmp_path):
    for number in range(2):
        picture(tmp_path / f"images/training/ADE_train_{number}.jpg", number)
        labels = np.array([[0, 1], [150, 2 + number]], "uint8")
        save(tmp_path / f"annotations/training/ADE_train_{number}.png", labels)
    files = dense_files.ade20k(tmp_path)
    assert len(files) == 2 and files.classes == 151
    image, labels = files[1]
    assert image.shape == (4, 5, 3) and image.dtype == "uint8"
    assert labels.tolist() == [[150, 0], [149, 2]] and labels.dtype == "int32"
    with pytest.raises(FileNotFoundError, match="no images of this split"):
        dense_files.ade20k(tmp_path, "validation")
    with pytest.raises(ValueError, match="`split` must be .*Received: split='test'"):
        dense_files.ade20k(tmp_path, "test")
    (tmp_path / "annotations/training/ADE_train_0.png").unlink()
    with pytest.raises(FileNotFoundError, match="ADE_train_0.png"):
        dense_files.ade20k(tmp_path)


def test_pascal_voc(tmp_path):
    """A palette's indices are the classes; `trainval` holds what `val` tests on."""
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, names in {"train": "a b", "val": "c", "trainval": "a b c"}.items():
        (lists / f"{split}.txt").write_text("\n".join(names.split()))
    for name in "abc":
        picture(tmp_path / f"JPEGImages/{name}.jpg")
        mask = Image.fromarray(np.array([[0, 20], [255, 3]], "uint8"), mode="P")
        mask.putpalette(list(range(256)) * 3)
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        mask.save(tmp_path / f"SegmentationClass/{name}.png")
    train, val, both = (dense_files.pascal_voc(tmp_path, s) for s in ("train", "val", "trainval"))
    assert not set(train.pairs) & set(val.pairs) and set(val.pairs) < set(both.pairs)
    assert train[0][1].tolist() == [[0, 20], [21, 3]] and train.classes == 22


@pytest.mark.parametrize(
    "reader, unit", [(dense_files.nyu_depth, 1000), (dense_files.kitti_depth, 256)]
)
def test_depth_by_list(reader, unit, tmp_path):
    """Sixteen bits, names with a slash in front, and images without depth."""
    picture(tmp_path / "rgb/one.png")
    save(tmp_path / "depth/one.png", np.array([[0, unit], [9 * unit // 2, 65535]], "uint16"))
    listing = tmp_path / "files.txt"
    listing.write_text("/one.png /one.png 518.8\ntwo.png None 518.8\n")
    files = reader(listing, tmp_path / "rgb", tmp_path / "depth")
    assert len(files) == 1 and files.classes is None
    image, depth = files[0]
    assert image.shape == (4, 5, 3) and depth.shape == (2, 2, 1) and depth.dtype == "float32"
    np.testing.assert_allclose(depth[..., 0], [[0, 1], [4.5, 65535 / unit]], rtol=1e-6)
