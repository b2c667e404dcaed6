"""Data sets of tensorflow_datasets, with random access to their encoded images."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from keras_resnet.data.shards.random_access import TFRecordFiles
from keras_resnet.data.sources.base import Record
from keras_resnet.data.sources.splits import (
    SPLITS,
    Splits,
    named_splits,
    open_splits,
    warn_of_left_out,
)
from keras_resnet.images.labels import names_and_ids
from keras_resnet.support.signals import call_in_thread


class _Features(NamedTuple):
    """Access to the image and the label in an example of a data set.

    Attributes:
        image: key of the image.
        label: key of the label.
        names: class names, in the order of the labels.
        deserialize: function from the bytes of an example to its encoded image and its label.
    """

    image: str
    label: str
    names: tuple[str, ...]
    deserialize: Callable[[bytes], Any]


class TfdsImages:
    """A `Source` of a split of a data set of tensorflow_datasets.

    Records hold the image files as tensorflow_datasets stores them, gray ones included.

    Args:
        name: name in reports.
        examples: the serialized examples, by index.
        features: access to the image and the label of an example.
        files: paths of the files of the examples.
    """

    def __init__(
        self, name: str, examples: Any, features: _Features, files: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.class_names, self.class_ids = names_and_ids(features.names)
        self._examples, self._features, self.files = examples, features, tuple(map(str, files))

    @functools.cached_property
    def labels(self) -> np.ndarray:
        # Reads all examples once.
        return np.fromiter((self[index].label for index in range(len(self))), np.int32, len(self))

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        in_files = isinstance(self._examples, TFRecordFiles)
        data = self._examples.read(index) if in_files else self._examples[index]
        try:
            example = self._features.deserialize(data)
            image, label = example[self._features.image], int(example[self._features.label])
        # Damaged examples raise errors of protobuf, NumPy or tfds.
        except Exception as error:
            raise ValueError(
                f"Expected an example with `{self._features.image}` and `{self._features.label}`. "
                f"Received: {self.name_of(index)}, which is damaged: {error}"
            ) from error
        if not 0 <= label < len(self.class_names):
            raise ValueError(
                f"Expected a label in [0, {len(self.class_names) - 1}]. Received: {label} in "
                f"{self.name_of(index)}"
            )
        return Record(bytes(image), label)

    def name_of(self, index: int) -> str:
        if isinstance(self._examples, TFRecordFiles):
            return self._examples.name_of(index)
        return f"{self.name}: example {index}"


def load_tfds(name: str) -> Splits:
    """Open a classification data set of tensorflow_datasets; download and prepare it if necessary.

    Data sets are in the directory of the environment variable `TFDS_DATA_DIR`, by default
    `~/tensorflow_datasets`. Splits without a common name (`split_of`) are left out, with a warning.
    The classes have the order of the data set. If the data set names them by WordNet ids, these are
    the class ids, and the class names are ImageNet's.

    Args:
        name: name for `tfds.builder`, such as `cifar10` or `imagenet_resized/64x64`.

    Raises:
        ValueError: there is no such data set, no split has a common name, or its examples do not
            have one image and one label each.
        OSError: the data set cannot be downloaded, prepared or read.
    """
    builder = _builder(name)
    # Checked before a large download; repeated below, as some class names are in the download.
    _features_of(builder, name)
    try:
        call_in_thread(builder.download_and_prepare)
    # The network, checksums and missing manual downloads all raise different errors.
    except Exception as error:
        raise OSError(
            f"Expected tfds to download and prepare {name}. Received: {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error
    features = _features_of(builder, name)
    # `tfds.testing.mock_data` lists no splits, but has any.
    names = tuple(builder.info.splits) or SPLITS
    named = named_splits(names, f"tfds:{name}")
    if not named:
        raise ValueError(
            f"Expected a data set with splits such as {', '.join(SPLITS)}. Received: tfds:{name}, "
            f"with {', '.join(names)}"
        )
    warn_of_left_out((split for split in names if split not in named.values()), f"tfds:{name}")

    def images_of(split: str) -> TfdsImages:
        info = builder.info.splits.get(split)
        examples, files = _examples(builder, split, name), info.filepaths if info else ()
        return TfdsImages(f"tfds:{name} ({split})", examples, features, files)

    return open_splits({split: partial(images_of, own) for split, own in named.items()})


def _builder(name: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        # tfds reads the variable once, when it is imported.
        return tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR") or None)
    except tfds.core.DatasetNotFoundError as error:
        plain = name.partition("/")[0].partition(":")[0]
        near = difflib.get_close_matches(plain, tfds.list_builders(with_community_datasets=False))
        hint = f"Similar: {', '.join(near)}" if near else "`tfds.list_builders()` lists all names"
        raise ValueError(
            f"Expected the name of a data set of tensorflow_datasets. Received: tfds:{name}. {hint}"
        ) from error
    # Unknown configurations and versions, and incomplete builder classes.
    except Exception as error:
        raise ValueError(
            f"Expected a data set of tensorflow_datasets. Received: tfds:{name}: "
            f"{' '.join(str(error).split())}"
        ) from error


def _features_of(builder: Any, name: str) -> _Features:
    """Return the image and label features: the supervised pair, or the only ones of their kind."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    found = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    images = [key for key, feature in found.items() if _is_image(feature)]
    labels = [key for key, value in found.items() if isinstance(value, tfds.features.ClassLabel)]
    pair = builder.info.supervised_keys
    if isinstance(pair, tuple) and len(pair) == 2 and pair[0] in images and pair[1] in labels:
        images, labels = [pair[0]], [pair[1]]
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            "Expected a data set for classification, with one image (uint8) and one class label. "
            f"Received: tfds:{name}, with {len(images)} such images and {len(labels)} labels among "
            f"{', '.join(f'{key} ({type(value).__name__})' for key, value in found.items())}"
        )
    image, label = images[0], labels[0]
    # Parse only these features of an example.
    parsed = tfds.features.FeaturesDict({image: found[image], label: found[label]})
    decoders = {image: tfds.decode.SkipDecoding()}
    return _Features(
        image,
        label,
        tuple(found[label].names),
        functools.partial(parsed.deserialize_example_np, decoders=decoders),
    )


def _is_image(feature: Any) -> bool:
    """Return whether a feature is an image, not a segmentation, video, depth or 16-bit image."""
    import tensorflow_datasets as tfds

    return (
        isinstance(feature, tfds.features.Image)
        and not isinstance(feature, tfds.features.LabeledImage)
        and len(feature.shape) == 3
        and feature.np_dtype == np.uint8
    )


def _examples(builder: Any, split: str, name: str) -> Any:
    """Return the serialized examples of a split, by index."""
    import tensorflow_datasets as tfds

    info = builder.info.splits.get(split)
    file_format = builder.info.file_format.value
    if info is None or file_format == "array_record":
        return builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
    if file_format != "tfrecord":
        raise ValueError(
            "Expected a data set that is prepared as tfrecord or array_record. Received: "
            f"tfds:{name}, prepared as {file_format}, in {builder.data_dir}"
        )
    files = TFRecordFiles(info.filepaths)
    if len(files) != info.num_examples:
        raise ValueError(
            f"Expected {info.num_examples} examples in the split {split}. Received: {len(files)}, "
            f"in {builder.data_dir}. Prepare it again"
        )
    return files
