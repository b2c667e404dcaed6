"""Images that are held in memory: arrays of one's own, scikit-learn's digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from keras_resnet.data.sources.base import Record


@dataclass(frozen=True)
class LabeledImages:
    """Images held in memory with their labels.

    Attributes:
        images: `(n, height, width, 3)`, uint8, RGB.
        labels: `(n,)`, int32, indices into `class_names`.
        class_names: one name per class.
        class_ids: identifiers of the classes, if there are any.
        name: what reports call them.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    class_ids: tuple[str, ...] | None = None
    name: str = "images in memory"

    def __post_init__(self) -> None:
        shape, dtype = np.shape(self.images), getattr(self.images, "dtype", None)
        if len(shape) != 4 or shape[-1] != 3 or dtype != np.uint8:
            raise ValueError(
                "Expected `images` to be an array (n, height, width, 3) of uint8, RGB in [0, 255]. "
                f"Received: {dtype}, {shape}"
            )
        if np.shape(self.labels) != shape[:1]:
            raise ValueError(
                f"Expected {shape[0]} labels, one per image. Received: {np.shape(self.labels)}"
            )
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int32))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Record:
        return Record(self.images[index], int(self.labels[index]))

    def name_of(self, index: int) -> str:
        return f"{self.name}: image {index}"


#: Held-out digits: a fifth of the 1,797, chosen once and for all, so that every run is judged on
#: the same images.
DIGITS_TEST_SIZE = 360
_DIGITS_SPLIT_SEED = 0


def load_digits(size: int = 32) -> tuple[LabeledImages, LabeledImages]:
    """The handwritten digits that ship inside scikit-learn, as a training and a validation part.

    1,797 real 8x8 grey images (UCI ML hand-written digits, 43 writers), enlarged bilinearly to
    `size` and repeated on three channels. The stratified division is this package's own, and
    fixed: 1,437 for training, 360 held out.
    """
    # It takes longer to import than this package; sources without it are checked at once.
    import sklearn.datasets
    import sklearn.model_selection

    digits = sklearn.datasets.load_digits()
    # Grey levels are 0 to 16.
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    enlarged = [
        Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR) for image in grey
    ]
    images = np.repeat(
        np.stack([np.asarray(image) for image in enlarged])[..., np.newaxis], 3, axis=-1
    )
    labels = digits.target.astype(np.int32)
    train, test = sklearn.model_selection.train_test_split(
        np.arange(len(labels)),
        test_size=DIGITS_TEST_SIZE,
        stratify=labels,
        random_state=_DIGITS_SPLIT_SEED,
    )
    names = tuple(str(name) for name in digits.target_names)
    return (
        LabeledImages(images[train], labels[train], names, name="digits (training)"),
        LabeledImages(images[test], labels[test], names, name="digits (held out)"),
    )
