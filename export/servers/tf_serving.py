"""Configuration and warm-up requests for TF Serving."""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format  # type: ignore[import-untyped]
from PIL import Image

from keras_resnet.export.options import ExportOptions
from keras_resnet.export.targets import BATCHING_CONFIG, MODELS_CONFIG
from keras_resnet.support.extras import require

#: Folder where `examples/serving/compose.yaml` mounts the export directory.
MODELS_FOLDER = "/models"

_WARM_UP = "assets.extra/tf_serving_warmup_requests"

#: Heights and widths of the pictures in warm-up requests, which every model has to resize.
_PICTURES = ((96, 128), (150, 100))


def model_name(name: str) -> str:
    """Return a model's name with the characters of URLs only: letters, digits, `_`, `.`, `-`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "model"


def write_configs(directory: Path, name: str, options: ExportOptions, folder: str) -> None:
    """Write `models.config` and `batching.config`.

    Args:
        directory: parent directory of the SavedModel, which servers mount as `MODELS_FOLDER`.
        name: name of the model in requests.
        options: `serving_batch_sizes` are the sizes that batches are filled up to.
        folder: name of the SavedModel's folder in `directory`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    configs = require("tensorflow_serving.config.model_server_config_pb2").ModelServerConfig()
    config = configs.model_config_list.config.add()
    config.name, config.model_platform = name, "tensorflow"
    config.base_path = f"{MODELS_FOLDER}/{folder}"
    config.model_version_policy.latest.num_versions = 1
    text = text_format.MessageToString(configs)
    (directory / MODELS_CONFIG).write_text(text, encoding="utf-8")
    (directory / BATCHING_CONFIG).write_text(batching_config(options), encoding="utf-8")


def batching_config(options: ExportOptions) -> str:
    """Return TF Serving's `BatchingParameters` as text, with batch sizes in ascending order."""
    sizes = sorted(set(options.serving_batch_sizes))
    allowed = "".join(f"allowed_batch_sizes: {size}\n" for size in sizes)
    # These settings suit a machine with a few cores.
    return f"""\
# Requests are merged into batches of these sizes. Set num_batch_threads to the number of
# CPU cores. One broken image fails the batch that it is merged into.
max_batch_size {{ value: {sizes[-1]} }}
batch_timeout_micros {{ value: 1000 }}
max_enqueued_batches {{ value: 64 }}
num_batch_threads {{ value: 4 }}
{allowed}"""


def write_warmup(
    directory: Path,
    name: str,
    options: ExportOptions,
    shape: tuple[int, int, int],
    signatures: Collection[str],
) -> None:
    """Write the requests that TF Serving sends to itself before it answers others.

    Pixels have a single value, so that the requests are small. Files are JPEG and PNG files of
    several sizes.

    Args:
        directory: directory of the SavedModel's version.
        name: name of the model in requests.
        options: `serving_batch_sizes` are the numbers of images in the requests.
        shape: shape of the images, `(height, width, channels)`.
        signatures: names of the SavedModel's signatures.
    """
    pb = require("tensorflow_serving.apis.prediction_log_pb2")
    path = directory / _WARM_UP
    path.parent.mkdir(exist_ok=True)
    files = [_picture(*size, form) for size in _PICTURES for form in ("JPEG", "PNG")]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in sorted(set(options.serving_batch_sizes)):
            for signature in signatures:
                log = pb.PredictionLog()
                request = log.predict_log.request
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                if signature == "serving_bytes":
                    pictures = [files[n % len(files)] for n in range(size)]
                    request.inputs["bytes"].CopyFrom(tf.make_tensor_proto(pictures, tf.string))
                else:
                    dtype = tf.uint8 if signature == "serving_uint8" else tf.float32
                    request.inputs["image"].CopyFrom(_gray((size, *shape), dtype))
                writer.write(log.SerializeToString())


def _gray(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return a gray tensor; the message has its value once, for all elements."""
    proto = tf.make_tensor_proto(128, dtype)
    proto.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return proto


def _picture(height: int, width: int, form: str) -> bytes:
    """Return the content of a file with a small picture."""
    coarse = np.random.default_rng(height).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()
