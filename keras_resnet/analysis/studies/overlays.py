"""Explanations of image files as pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from keras_resnet.analysis.studies.explain import Method, explain, overlay
from keras_resnet.images.decode import UnreadableImageError
from keras_resnet.models.info import get_info
from keras_resnet.models.input import ModelInput
from keras_resnet.support.files import partial_directory, publish
from keras_resnet.support.progress import Progress, unseen


def explain_files(
    model: keras.Model,
    paths: Sequence[str | os.PathLike[str]],
    output: Path,
    *,
    method: Method = "grad_cam",
    class_index: int | str | None = None,
    level: str | None = None,
    progress: Progress = unseen,
) -> dict[str, str]:
    """Writes a PNG of every image, cropped as the model sees it, with the map of a class over it.

    Args:
        model, class_index, level: as for `grad_cam`.
        paths: image files.
        output: a folder; its pictures are called like the files, with a number if names recur.
        method: see `explain`.
        progress: is told after every image.

    Returns:
        Path -> reason of images that could not be read.
    """
    keywords: dict[str, Any] = {} if level is None else {"level": level}
    inputs = ModelInput((None, *model.input_shape[1:]), get_info(model))
    bad: dict[str, str] = {}
    with partial_directory(output) as staging:
        names: list[str] = []
        for number, path in enumerate(paths):
            try:
                pixels = inputs.prepared(path, number)
            except UnreadableImageError as error:
                bad[os.fspath(path)] = str(error)
                continue
            heat = explain(model, pixels[np.newaxis], class_index, method, **keywords)[0]
            name = f"{Path(path).stem}.png"
            if name in names:
                name = f"{Path(path).stem}-{number}.png"
            Image.fromarray(overlay(pixels[..., :3], heat)).save(staging / name)
            names.append(name)
            progress(f"{number + 1} of {len(paths)} images", (number + 1) / len(paths))
        publish(staging, names)
    return bad
