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
    (text,) = set(builder.info.features) - {"image", "label"}
    for split, count in counts.items():
        examples = [
            {"image": picture(index, size), "label": index % classes, text: f"{index}"}
            for index in range(count)
        ]
        writer.add_examples({split: examples})
    writer.close_all()
