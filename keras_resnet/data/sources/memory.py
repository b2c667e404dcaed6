"""Images in memory: arrays, and the digits of scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from keras_resnet.data.sources.base import Record


@dataclass(frozen=True)
class LabeledImages:
    """A `Source` of images in memory.

    Args:
        images: `(n, height, width, 3)`, uint8, RGB in [0, 255].
        labels: `(n,)`, integers, indices into `class_names`; converted to int32.
        class_names: one name per class.
        class_ids: identifiers of the classes, such as WordNet ids, or None.
        name: name in reports.

    Raises:
        ValueError: `images` is not such an array, or there is not one label per image.

    Examples:

    ```python
    source = LabeledImages(np.zeros((2, 32, 32, 3), np.uint8), np.array([0, 1]), ("cat", "dog"))
    ```
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


#: Number of held-out digits: a fifth of the 1,797, the same ones for every run.
DIGITS_TEST_SIZE = 360
_DIGITS_SPLIT_SEED = 0


def load_digits(size: int = 32) -> tuple[LabeledImages, LabeledImages]:
    """Return a training and a validation split of the digits that scikit-learn contains.

    These are 1,797 gray images of 8x8 pixels (UCI ML hand-written digits, 43 writers), enlarged
    bilinearly and repeated on three channels. The stratified division into 1,437 images for
    training and 360 for validation is fixed, and specific to this package.

    Args:
        size: height and width of the images, in pixels.
    """
    # Imported here, as it takes longer to import than this package.
    import sklearn.datasets
    import sklearn.model_selection

    digits = sklearn.datasets.load_digits()
    # The values are 0 to 16.
    gray = np.round(digits.images * (255 / 16)).astype(np.uint8)
    enlarged = [
        Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR) for image in gray
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
