"""Batches from TensorFlow Datasets, in an order that a resumed training repeats."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from bnnkeras.datasets.dense_files import ade20k_labels
from bnnkeras.datasets.dense_images import DenseTransforms
from bnnkeras.datasets.images import ImageTransforms

# Data sets of dense prediction: the feature that is the target, how to read it, and the channels of
# a network's logits. (TensorFlow Datasets has neither the masks of PASCAL VOC nor KITTI's depths.)
_DENSE = {
    # The grey masks come as three equal channels.
    "scene_parse150": ("annotation", lambda values: ade20k_labels(values[..., 0]), 151),
    "nyu_depth_v2": ("depth", lambda values: values.astype("float32")[..., None], None),
}


class TFDSBatches(keras.utils.PyDataset):
    """Feeds `model.fit` from a data set of images and targets that TensorFlow Datasets prepared.

    A target is a label, or for `"scene_parse150"` (ADE20K) a mask and for `"nyu_depth_v2"` a map of
    depths in metres, as those of `bnnkeras.datasets.dense_files`.

    The order and the augmentation of an epoch follow from (seed, epoch), as those of `Batches`, so
    that `bnnkeras.training.fit_resumable` continues exactly. Examples are read in sequence and
    shuffled within a buffer.

    Args:
        name: Name of the data set: `"imagenet2012"`, `"cifar10"`, `"scene_parse150"`.
        split: `"train"`, `"validation"`, `"test[:100]"`, ...
        batch_size: Positive integer; the last batch may be smaller.
        transforms: Tuple of functions of one image and a generator, as in
            `bnnkeras.datasets.images`; of an image, its target and a generator, as in
            `bnnkeras.datasets.dense_images`, for masks and depths.
        shuffle: Whether the order is random. Defaults to `True`.
        seed: Integer that all randomness follows from.
        data_dir: Where the data lie. Defaults to `~/tensorflow_datasets`.
        download: Whether to download and prepare data that are not there. Defaults to `False`.
        buffer_size: Images among which the order is random. Defaults to 10,000.
        threads: Threads that transform images. Defaults to 8.

    Raises:
        FileNotFoundError: If the data are not prepared and `download` is `False`.
        ImportError: If TensorFlow Datasets is not installed.

    Example:
        ```python
        train = datasets.TFDSBatches("cifar10", "train", 128, transforms=(images.Normalize(),))
        ```
    """

    def __init__(
        self,
        name: str,
        split: str,
        batch_size: int,
        transforms: tuple = (),
        shuffle: bool = True,
        seed: int = 0,
        data_dir=None,
        download: bool = False,
        buffer_size: int = 10_000,
        threads: int = 8,
    ):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be positive. Received: batch_size={batch_size}")
        self._builder = _builder(name, data_dir, download)
        self.split = split
        self.batch_size = batch_size
        self._dense = _DENSE.get(name.partition("/")[0].partition(":")[0])
        self.transforms = tuple(transforms)
        self.shuffle = shuffle
        self.seed = seed
        self.buffer_size = buffer_size
        self.threads = threads
        self.epoch = 0
        self.samples = self._builder.info.splits[split].num_examples
        self._stream: Iterator | None = None
        self._next: tuple[int, int] | None = None

    @property
    def classes(self) -> int | None:
        """The number of classes; for masks with the one to ignore; `None` for depths."""
        if self._dense:
            return self._dense[2]
        return self._builder.info.features["label"].num_classes

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def __getitem__(self, number: int):
        if self._stream is None or self._next != (self.epoch, number):
            self._stream = self._examples(self.epoch)
            first = number * self.batch_size
            self._stream = itertools.islice(self._stream, first, None)
        examples = list(itertools.islice(self._stream, self.batch_size))
        self._next = (self.epoch, number + 1)
        first = number * self.batch_size
        with ThreadPoolExecutor(self.threads) as pool:
            pairs = list(pool.map(self._transformed, itertools.count(first), examples))
        images, targets = zip(*pairs, strict=True)
        return np.stack(images), np.stack(targets)

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def _transformed(self, index, example):
        generator = np.random.default_rng((self.seed, self.epoch, index))
        if self._dense:
            feature, decode, _ = self._dense
            target = decode(example[feature])
            return DenseTransforms(self.transforms)(example["image"], target, generator)
        image = ImageTransforms(self.transforms).image(example["image"], generator)
        return image, example["label"]

    def _examples(self, epoch: int) -> Iterator:
        import tensorflow as tf
        import tensorflow_datasets as tfds

        # TensorFlow takes one integer.
        seed = int(np.random.default_rng((self.seed, epoch)).integers(2**31))
        options = tf.data.Options()
        options.deterministic = True
        config = tfds.ReadConfig(shuffle_seed=seed, options=options, try_autocache=False)
        data = self._builder.as_dataset(
            split=self.split, shuffle_files=self.shuffle, read_config=config
        )
        if self.shuffle:
            data = data.shuffle(min(self.buffer_size, self.samples), seed=seed)
        return iter(tfds.as_numpy(data.prefetch(self.batch_size)))


def _builder(name, data_dir, download):
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            'Data sets by name need TensorFlow Datasets: pip install "bnnkeras[datasets]"'
        ) from error
    builder = tfds.builder(name, data_dir=data_dir)
    if download:
        builder.download_and_prepare()
    if not builder.is_prepared():
        raise FileNotFoundError(
            f"The data set {name!r} is not prepared. Prepare it with `tfds build {name}`, give the "
            "folder that holds it as `data_dir`, or allow `download=True`. "
            f"Received: data_dir={data_dir!r}, which resolves to {str(builder.data_path)!r}"
        )
    return builder
