"""`verify()`: compare an existing artifact with its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_resnet.export.comparison import Limits, compare_outputs, disagreements, measured
from keras_resnet.export.images import image_sets
from keras_resnet.export.model import as_float32
from keras_resnet.export.record import REPORT_FILE
from keras_resnet.export.report.rows import ArtifactReport
from keras_resnet.export.runner import Runner
from keras_resnet.export.runtime import KerasRunner, artifact_path, load_runner
from keras_resnet.export.targets import TARGETS
from keras_resnet.models.foreign import adapt
from keras_resnet.models.pixels import find_pixel_format
from keras_resnet.support.checks import MODEL_SUFFIXES
from keras_resnet.support.files import size_of
from keras_resnet.support.fingerprints import fingerprint_of_artifact
from keras_resnet.support.json_text import load_json

if TYPE_CHECKING:
    from keras_resnet.data import DataConfig

#: Limits for artifacts whose target is not known.
DEFAULT_LIMITS = Limits(min_agreement=0.98, max_accuracy_drop=0.01, min_cosine=0.95)

#: Number of parent directories that are searched for a report: layouts for servers are nested.
_LEVELS = 5


def verify(
    artifact: str | PathLike[str],
    against: keras.Model | str | PathLike[str],
    images: str | DataConfig | Iterable[Any] | np.ndarray | None = None,
    labels: Sequence[int] | np.ndarray | None = None,
    *,
    limits: Limits | Mapping[str, float] | None = None,
    seed: int = 0,
    trust: bool = False,
    pixels: str | None = None,
    against_pixels: str | None = None,
) -> ArtifactReport:
    """Run an artifact in its own runtime and compare its outputs with those of its model.

    Examples:
        >>> report = verify("exported/model.onnx", "run/best.keras", "folder:flowers")
        >>> report.disagreements
        ()

    Args:
        artifact: `.keras`, `.h5`, `.tflite` or `.onnx` file, or directory of a SavedModel, of this
            package or another.
        against: the Keras model, its file, or another artifact of it.
        images: images to compare the outputs on, or a data source, in one of the forms that
            `export` takes; by default noise.
        labels: classes of `images`, integer `(n,)`, to measure accuracy. Not allowed with a data
            source, which has its own.
        limits: largest allowed differences, or some of the fields of `Limits`. A limit that is
            passed here and cannot be checked counts as a disagreement. By default the limits of the
            artifact's target, if it is in the directory of its export; else a top-1 agreement of
            98%, an accuracy drop of one percentage point and a mean cosine of 0.95. Default limits
            that cannot be checked are ignored.
        seed: seed of the choice among the images of a data source.
        trust: whether to load a SavedModel that may do more than compute, as in `load_runner`.
        pixels: normalization of images before the artifact gets them, as in `load_runner`.
        against_pixels: normalization of images before `against` gets them.

    Returns:
        Report with the comparison and, as `disagreements`, the exceeded limits.

    Raises:
        ValueError: there is no such artifact, or its outputs are not those of `against`.
    """
    path = artifact_path(artifact)
    runner = load_runner(path, trust=trust, pixels=pixels)
    reference = _reference(against, trust, against_pixels)
    same_kind = reference.is_classifier == runner.is_classifier
    if len(reference.outputs) == len(runner.outputs) == 1 and not reference.is_classifier:
        runner.outputs = reference.outputs  # Other packages name their only output otherwise.
    same_names = reference.is_classifier or set(reference.outputs) == set(runner.outputs)
    if not (same_kind and same_names):
        raise ValueError(
            f"Expected an artifact with the outputs {', '.join(reference.outputs)}. "
            f"Received: {artifact}, with the outputs {', '.join(runner.outputs)}"
        )
    if labels is not None:
        reference.check_classifier()
    _, chosen = image_sets(reference.input_shape, reference.info, None, images, labels, seed)
    expected, received = reference.answers(chosen.images), runner.answers(chosen.images)
    comparison = compare_outputs(expected, received, chosen.labels)
    if not isinstance(limits, Limits):
        default = measured(limits_of(path), comparison)
        limits = dataclasses.replace(default, **(limits or {}))
    target = target_of(path)
    known = TARGETS.get(target or "")
    return ArtifactReport(
        target or Path(artifact).name,
        str(artifact),
        size_of(Path(artifact)),
        comparison,
        tuple(disagreements(comparison, limits)),
        {} if known is None else known.operators(path),
        () if known is None else known.float_layers(path),
        sha256=fingerprint_of_artifact(Path(artifact)),
        notes=(
            *(f"{artifact}: {note}" for note in runner.notes),
            *(f"{against}: {note}" for note in reference.notes),
        ),
    )


def _reference(
    against: keras.Model | str | PathLike[str], trust: bool, pixels: str | None
) -> Runner:
    """Return a runner of `against`; a Keras model computes in float32, as in `export`."""
    if isinstance(against, keras.Model):
        runner = KerasRunner(as_float32(against))
        runner.pixels = find_pixel_format(pixels or "raw", runner.input_shape[3])
        return runner
    path = artifact_path(against)
    if path.suffix not in MODEL_SUFFIXES:
        return load_runner(path, trust=trust, pixels=pixels)
    runner = KerasRunner.of_file(path, as_float32)
    adapt(runner, against, pixels)
    return runner


def limits_of(artifact: str | PathLike[str]) -> Limits:
    """Return the default limits of `verify` for an artifact.

    They are the limits of the artifact's target, if it is in the directory of its export; else an
    agreement of 98%, an accuracy drop of one percentage point and a mean cosine of 0.95.

    Raises:
        ValueError: there is no such artifact.
    """
    known = TARGETS.get(target_of(artifact_path(artifact)) or "")
    return known.limits if known else DEFAULT_LIMITS


def target_of(artifact: Path) -> str | None:
    """Return the name of an artifact's target, if a report beside or above it has it."""
    path = artifact.absolute()
    for folder in list(path.parents)[:_LEVELS]:
        try:
            rows = load_json(folder / REPORT_FILE)["artifacts"]
            for row in rows:
                if row["file_name"] and folder / row["file_name"] in (path, *path.parents):
                    return str(row["target"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
