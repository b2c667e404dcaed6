"""Explanations of image files, saved as images."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from keras_resnet.analysis.studies.choices import Method
from keras_resnet.analysis.studies.explain import (
    explain,
    explained_classes,
    overlay,
    short_run,
)
from keras_resnet.images.decode import UnreadableImageError
from keras_resnet.models.info import get_info
from keras_resnet.models.input import ModelInput
from keras_resnet.support.files import partial_directory, publish
from keras_resnet.support.progress import Begin, Progress, unannounced, unseen


def explain_files(
    model: keras.Model,
    paths: Sequence[str | os.PathLike[str]],
    output: Path,
    *,
    method: Method = "grad_cam",
    class_index: int | str | None = None,
    level: str | None = None,
    begin: Begin = unannounced,
    progress: Progress = unseen,
) -> dict[str, str]:
    """Write, for every image, a PNG of the model's input with the map of a class over it.

    `explain.json` lists the image, the name of its PNG, the explained class and its probability.

    Args:
        model, class_index, level: as for `grad_cam`.
        paths: image files.
        output: folder of the PNGs, which have the names of the images, numbered if these repeat.
        method: as for `explain`.
        begin: called with one step of the work, to time it, before the work begins.
        progress: called after every image with a description and the share of the images.

    Returns:
        Path -> reason, for the images that could not be read.
    """
    keywords: dict[str, Any] = {} if level is None else {"level": level}
    info = get_info(model)
    inputs = ModelInput((None, *model.input_shape[1:]), info)
    shorter, times = short_run(method, model.input_shape[1:3])
    for path in paths:
        with contextlib.suppress(UnreadableImageError):
            batch = inputs.prepared(path)[np.newaxis]
            run = functools.partial(explain, model, batch, class_index, method)
            begin(functools.partial(run, **keywords, **shorter), len(paths) * times, 0)
            break
    bad: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    with partial_directory(output) as staging:
        for number, path in enumerate(paths):
            try:
                pixels = inputs.prepared(path)
            except UnreadableImageError as error:
                bad[os.fspath(path)] = str(error)
                continue
            batch = pixels[np.newaxis]
            found, answers = explained_classes(model, batch, class_index)
            heat = explain(model, batch, int(found[0]), method, **keywords)[0]
            name, taken = f"{Path(path).stem}.png", {row["picture"] for row in rows}
            while name in taken:
                number += 1
                name = f"{Path(path).stem}-{number}.png"
            rgb = pixels if pixels.shape[-1] == 3 else pixels.repeat(3, axis=-1)
            Image.fromarray(overlay(rgb, heat)).save(staging / name)
            index = int(found[0])
            class_name = str(index) if info.class_names is None else info.class_names[index]
            rows.append(
                {
                    "image": os.fspath(path),
                    "picture": name,
                    "class": class_name,
                    "answer": float(answers[0, index]),
                }
            )
            progress(
                f"{len(rows) + len(bad)} of {len(paths)} images",
                (len(rows) + len(bad)) / len(paths),
            )
        (staging / "explain.json").write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
        publish(staging, [*(row["picture"] for row in rows), "explain.json"])
    return bad
