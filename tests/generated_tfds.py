"""Generated images in the layout in which TensorFlow Datasets stores the real ones."""

from pathlib import Path

import numpy as np


def picture(seed: int, size: int) -> np.ndarray:
    """An image that follows from its number."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype="uint8")


def write(folder: Path, name: str, counts: dict[str, int], size: int, classes: int) -> None:
    """Writes a data set that `tfds.builder(name, data_dir=folder)` finds, with its own features.

    Args:
        folder: Where data sets lie.
        name: Name of the data set.
        counts: Images of each split. The image of number i has the label i % classes.
        size: Height and width.
        classes: Labels in use.
    """

    def examples(features, count):
        (text,) = set(features) - {"image", "label"}
        for index in range(count):
            yield {"image": picture(index, size), "label": index % classes, text: f"{index}"}

    _write(folder, name, counts, examples)


def mask(seed: int, size: int) -> np.ndarray:
    """Numbers 0 to 150, as ADE20K's annotations hold."""
    return np.random.default_rng(seed).integers(0, 151, (size, size), dtype="uint8")


def depth(seed: int) -> np.ndarray:
    """Metres at NYUv2's size, as float16."""
    return np.random.default_rng(seed).uniform(0, 10, (480, 640)).astype("float16")


def write_dense(folder: Path, name: str, counts: dict[str, int], size: int = 24) -> None:
    """As `write`, for `"scene_parse150"` with masks, or `"nyu_depth_v2"` with depths."""

    def examples(features, count):
        for index in range(count):
            if name == "scene_parse150":
                grey = np.repeat(mask(index, size)[..., None], 3, axis=-1)
                yield {"image": picture(index, size), "annotation": grey}
            else:
                yield {"image": picture(index, 640)[:480], "depth": depth(index)}

    _write(folder, name, counts, examples)


def _write(folder, name, counts, examples) -> None:
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=str(folder))
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name,
        version=str(builder.info.version),
        data_dir=str(builder.data_dir),
        module_name=type(builder).__module__,
    )
    Path(builder.data_dir).mkdir(parents=True)
    info = tfds.core.DatasetInfo(builder=identity, features=builder.info.features)
    # Several files for each split.
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=10)
    writer.initialize_splits(list(counts))
    for split, count in counts.items():
        writer.add_examples({split: list(examples(builder.info.features, count))})
    writer.close_all()
