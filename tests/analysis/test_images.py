"""The images of studies: labelled, prepared, and without those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_resnet import ResNetConfig, build
from keras_resnet.analysis.studies.images import labeled_images
from keras_resnet.data.bad_records import TooManyBadRecordsError


def test_unreadable_images_are_left_out_up_to_the_limit(
    tiny_config: ResNetConfig, tmp_path: Path
) -> None:
    model = build(tiny_config, input_shape=(16, 16, 3), classes=2)
    for index in range(12):
        path = tmp_path / "val" / f"class{index % 2}" / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (20 * index,) * 3).save(path)
    for index in range(4):
        path = tmp_path / "train" / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(path)
    (tmp_path / "val" / "class1" / "03.png").write_text("no image")
    source = f"folder:{tmp_path}"
    with pytest.raises(TooManyBadRecordsError, match=r"03\.png.*or raise `max_bad_fraction`"):
        labeled_images(model, source)
    pixels, labels = labeled_images(model, source, max_bad_fraction=0.1)
    shades = [*range(0, 12, 2), *(index for index in range(1, 12, 2) if index != 3)]
    assert pixels[:, 0, 0, 0].tolist() == [20 * index for index in shades]
    assert labels.tolist() == [index % 2 for index in shades]
    with pytest.raises(TooManyBadRecordsError):
        labeled_images(model, source, max_bad_fraction=0)
    for path in (tmp_path / "val").rglob("*.png"):
        path.write_text("no image")
    # Whatever may be bad, something has to be good.
    with pytest.raises(TooManyBadRecordsError, match="12 of 12"):
        labeled_images(model, source, max_bad_fraction=1)
    assert np.unique(labels).tolist() == [0, 1]
