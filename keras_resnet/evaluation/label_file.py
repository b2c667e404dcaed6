"""Files of correct classes, for images without class folders or with several labels."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from keras_resnet.data.sources.imagenet_labels import validation_synsets
from keras_resnet.evaluation.classes import Classes
from keras_resnet.images.labels import indices_of
from keras_resnet.support.checks import some_of
from keras_resnet.support.json_text import load_json

#: The number of a validation image of ImageNet, by which files list labels.
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


class LabelFile:
    """A file of the correct classes of images, by file name.

    Args:
        path: a JSON list with a list of class indices for each validation image of ImageNet in the
            order of their numbers, such as ImageNet-ReaL's `real.json` (Beyer et al. 2020,
            arXiv:2006.07159); a JSON object from file name to a class or a list of classes, each
            given by index, id or name; or a file for `validation_synsets`, such as the archive of
            the devkit.

    Raises:
        ValueError: the file is JSON of another form.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._values: Any = None
        if self._path.suffix != ".json":
            return
        try:
            self._values = load_json(self._path)
        except ValueError as error:
            raise ValueError(f"Expected labels as JSON. Received: {path} ({error})") from error
        if not isinstance(self._values, (list, dict)):
            raise ValueError(
                "Expected a JSON list of lists of class indices, or an object from file name to "
                f"classes. Received: {path}"
            )

    def right_classes(self, names: Sequence[str], classes: Classes) -> list[list[int]]:
        """Return the indices of the correct classes of every image, in the order of the file.

        Args:
            names: paths of the images.
            classes: the classes that the file refers to.

        Raises:
            ValueError: the file lacks an image, or refers to a class that does not exist or whose
                name is ambiguous.
        """
        index_of = {**indices_of(classes.names), **indices_of(classes.ids or ())}
        found: list[list[int]] = []
        for name, values in zip(names, self._values_of(names), strict=True):
            values = values if isinstance(values, list) else [values]
            indices: list[Any] = [index_of.get(v, v) if isinstance(v, str) else v for v in values]
            for index, value in zip(indices, values, strict=True):
                if type(index) is not int or not 0 <= index < len(classes):
                    raise ValueError(
                        f"Expected one of {len(classes)} classes in {self._path}. Received: "
                        f"{value!r} for {name}"
                    )
            found.append(indices)
        return found

    def _values_of(self, names: Sequence[str]) -> list[Any]:
        files = [PurePath(name).name for name in names]
        duplicates = [name for name, count in Counter(files).items() if count > 1]
        if duplicates:
            raise ValueError(
                f"Expected images with different file names, by which {self._path} lists labels. "
                f"Received: {some_of(duplicates)} in several folders"
            )
        if isinstance(self._values, Mapping):
            missing = next((name for name in files if name not in self._values), None)
            if missing is not None:
                raise ValueError(f"Expected {missing} in {self._path}. Received: no entry for it")
            return [self._values[name] for name in files]
        if self._values is None:
            return list(validation_synsets(self._path, [PurePath(name).stem for name in files]))
        return [self._values[self._number(name) - 1] for name in files]

    def _number(self, name: str) -> int:
        match = _NUMBER.match(name)
        if match is None or not 1 <= int(match[1]) <= len(self._values):
            raise ValueError(
                "Expected images named like ILSVRC2012_val_00000001.JPEG, with a number of at most "
                f"{len(self._values)}, as {self._path} lists labels by number. Received: {name}"
            )
        return int(match[1])
