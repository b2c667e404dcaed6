"""SavedModel: what TensorFlow and TF Serving load."""

from __future__ import annotations

import shutil
from pathlib import Path

from keras_resnet.export.metadata import into_saved_model
from keras_resnet.export.signature import ExportSource

#: TF Serving wants `<base>/<version>/saved_model.pb`.
VERSION = "1"


def write(source: ExportSource, path: Path) -> None:
    """Writes `path/1/saved_model.pb` with the signature `serving_default`."""
    shutil.copytree(source.saved_model, path / VERSION)
    into_saved_model(path / VERSION, source.info)
