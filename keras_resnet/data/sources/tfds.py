"""Data sets of tensorflow_datasets, read in any order without decoding."""

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
from keras_resnet.data.sources.parts import (
    PARTS,
    Parts,
    named_parts,
    open_parts,
    warn_of_left_out,
)
from keras_resnet.images.labels import names_and_ids
from keras_resnet.support.signals import call_in_thread


class _Features(NamedTuple):
    """Access to the image and the label in an example of a data set.

    Attributes:
        image: key of the image.
        label: key of the label.
        names: of the classes, in the order of the labels.
        deserialize: from the bytes of an example to its image, as a file, and its label.
    """

    image: str
    label: str
    names: tuple[str, ...]
    deserialize: Callable[[bytes], Any]


class TfdsImages:
    """A split of a data set of tensorflow_datasets, a `Source`.

    Records hold image files as they are stored there; grey ones become RGB where they are decoded.
    """

    def __init__(
        self, name: str, examples: Any, features: _Features, files: Sequence[str] = ()
    ) -> None:
        """Args: what reports call it; serialized examples; what is in them; their files."""
        self.name = name
        self.class_names, self.class_ids = names_and_ids(features.names)
        self._examples, self._features, self.files = examples, features, tuple(map(str, files))

    @functools.cached_property
    def labels(self) -> np.ndarray:
        # The first use reads all of them.
        return np.fromiter((self[index].label for index in range(len(self))), np.int32, len(self))

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Record:
        place = range(len(self))[index]
        in_files = isinstance(self._examples, TFRecordFiles)
        data = self._examples.read(place) if in_files else self._examples[place]
        try:
            example = self._features.deserialize(data)
            image, label = example[self._features.image], int(example[self._features.label])
        # Damaged examples raise what protobuf, NumPy or tfds has for them.
        except Exception as error:
            raise ValueError(
                f"Expected an example with `{self._features.image}` and `{self._features.label}`. "
                f"Received: {self.name_of(place)}, which is damaged: {error}"
            ) from error
        if not 0 <= label < len(self.class_names):
            raise ValueError(
                f"Expected a label in [0, {len(self.class_names) - 1}]. Received: {label} in "
                f"{self.name_of(place)}"
            )
        return Record(bytes(image), label)

    def name_of(self, index: int) -> str:
        if isinstance(self._examples, TFRecordFiles):
            return self._examples.name_of(index)
        return f"{self.name}: example {index}"


def load_tfds(name: str) -> Parts:
    """Opens a data set for classification of tensorflow_datasets, and prepares it if need be.

    It is looked for, and prepared, in the directory of the environment variable `TFDS_DATA_DIR`, or
    in `~/tensorflow_datasets`. Its splits are the parts that they are called by (`part_of`), others
    are left out, with a warning. Classes are in the data set's own order; where it names them by
    WordNet ids, these are the ids, and ImageNet's names the names.

    Args:
        name: as `tfds.builder` takes it, such as `cifar10` or `imagenet2012` or
            `imagenet_resized/64x64`.

    Raises:
        ValueError: there is no such data set, none of its splits is a part, or its examples are not
            one image and one label each.
        OSError: it cannot be downloaded, prepared or read.
    """
    builder = _builder(name)
    # Before something large is downloaded, and after: some names of classes are in the download.
    _features_of(builder, name)
    try:
        call_in_thread(builder.download_and_prepare)
    # The network, checksums, missing manual downloads: each has its own kind of error.
    except Exception as error:
        raise OSError(
            f"Expected tfds to download and prepare {name}. Received: {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error
    features = _features_of(builder, name)
    # Under `tfds.testing.mock_data`, no split is known, and every one is there.
    splits = tuple(builder.info.splits) or PARTS
    parts = named_parts(splits, f"tfds:{name}")
    if not parts:
        raise ValueError(
            f"Expected a data set with splits such as {', '.join(PARTS)}. Received: tfds:{name}, "
            f"with {', '.join(splits)}"
        )
    warn_of_left_out((name for name in splits if name not in parts.values()), f"tfds:{name}")

    def part(split: str) -> TfdsImages:
        info = builder.info.splits.get(split)
        examples, files = _examples(builder, split, name), info.filepaths if info else ()
        return TfdsImages(f"tfds:{name} ({split})", examples, features, files)

    return open_parts({name: partial(part, split) for name, split in parts.items()})


def _builder(name: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        # tfds reads the variable once, when it is imported.
        return tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR") or None)
    except tfds.core.DatasetNotFoundError as error:
        own = name.partition("/")[0].partition(":")[0]
        near = difflib.get_close_matches(own, tfds.list_builders(with_community_datasets=False))
        hint = f"Similar are {', '.join(near)}" if near else "`tfds.list_builders()` lists them"
        raise ValueError(
            f"Expected the name of a data set of tensorflow_datasets. Received: tfds:{name}. {hint}"
        ) from error
    # Names of configurations and versions, registered classes that are incomplete.
    except Exception as error:
        raise ValueError(
            f"Expected a data set of tensorflow_datasets. Received: tfds:{name}: "
            f"{' '.join(str(error).split())}"
        ) from error


def _features_of(builder: Any, name: str) -> _Features:
    """The features of an image and its label: the supervised pair, or the only ones."""
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
    # What else an example has is not parsed.
    own = tfds.features.FeaturesDict({image: found[image], label: found[label]})
    decoders = {image: tfds.decode.SkipDecoding()}
    return _Features(
        image,
        label,
        tuple(found[label].names),
        functools.partial(own.deserialize_example_np, decoders=decoders),
    )


def _is_image(feature: Any) -> bool:
    """Whether a feature is an image: no map of segments, animation, depths or 16-bit values."""
    import tensorflow_datasets as tfds

    return (
        isinstance(feature, tfds.features.Image)
        and not isinstance(feature, tfds.features.LabeledImage)
        and len(feature.shape) == 3
        and feature.np_dtype == np.uint8
    )


def _examples(builder: Any, split: str, name: str) -> Any:
    """Serialized examples of a split by index."""
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
