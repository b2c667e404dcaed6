"""Right classes of images from a file, where folders do not tell, or not all."""

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

#: The number of an image of ImageNet's validation part, which lists of labels go by.
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


class LabelFile:
    """The right classes of images, by the names of their files."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Reads the file.

        Args:
            path: a JSON list with a list of class indices for each of ImageNet's validation images
                in the order of their numbers, as ImageNet-ReaL's `real.json` (Beyer et al. 2020,
                arXiv:2006.07159); a JSON object from file name to a class or a list of classes,
                each an index, an id or a name; or what `validation_synsets` takes, such as the
                devkit's archive.

        Raises:
            ValueError: it is JSON of another kind.
            OSError: it cannot be read.
        """
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
        """The right classes of every image, the first one first; of some images there are none.

        Args:
            names: paths of the images.
            classes: what the indices, ids and names in the file are of.

        Raises:
            ValueError: the file lacks an image, or names a class that there is not, or by a name
                that several have.
        """
        index_of = {**indices_of(classes.names), **indices_of(classes.ids or ())}
        found: list[list[int]] = []
        for name, values in zip(names, self._values_of(names), strict=True):
            several = values if isinstance(values, list) else [values]
            indices: list[Any] = [index_of.get(v, v) if isinstance(v, str) else v for v in several]
            for index, value in zip(indices, several, strict=True):
                if type(index) is not int or not 0 <= index < len(classes):
                    raise ValueError(
                        f"Expected one of {len(classes)} classes in {self._path}. Received: "
                        f"{value!r} for {name}"
                    )
            found.append(indices)
        return found

    def _values_of(self, names: Sequence[str]) -> list[Any]:
        files = [PurePath(name).name for name in names]
        double = [name for name, count in Counter(files).items() if count > 1]
        if double:
            raise ValueError(
                f"Expected images of different names, as {self._path} goes by these. Received: "
                f"{some_of(double)} in several folders"
            )
        if isinstance(self._values, Mapping):
            missing = next((name for name in files if name not in self._values), None)
            if missing is not None:
                raise ValueError(f"Expected {missing} in {self._path}. Received: none there")
            return [self._values[name] for name in files]
        if self._values is None:
            return list(validation_synsets(self._path, [PurePath(name).stem for name in files]))
        return [self._values[self._number(name) - 1] for name in files]

    def _number(self, name: str) -> int:
        match = _NUMBER.match(name)
        if match is None or not 1 <= int(match[1]) <= len(self._values):
            raise ValueError(
                "Expected images named like ILSVRC2012_val_00000001.JPEG, with a number of at most "
                f"{len(self._values)}, as {self._path} goes by the number. Received: {name}"
            )
        return int(match[1])
