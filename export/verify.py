"""`verify()`: an artifact that lies somewhere against the model that it is said to be of."""

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

#: Of artifacts of which nobody knows how exact they should be.
DEFAULT_LIMITS = Limits(min_agreement=0.98, max_accuracy_drop=0.01, min_cosine=0.95)

#: How far above an artifact a report may lie: servers want it in folders of folders.
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
    """Runs an artifact in its own runtime and compares it with the model that it is of.

    Args:
        artifact: a `.keras`, `.h5`, `.tflite` or `.onnx` file, or a SavedModel directory, of this
            package or of others.
        against: the model, or another artifact of it.
        images: images to compare on, or a data source, as for `export`; by default noise.
        labels: their classes, if these are images.
        limits: how far it may be off, or some fields of that; what cannot be measured counts as a
            disagreement. By default those of its target, if the artifact lies where `export` has
            put it, else a top-1 agreement of 98 %, an accuracy drop of one point and a mean cosine
            of 0.95, as far as they can be measured.
        seed: of the choice among the images of a data source.
        trust: as of `load_runner`.
        pixels: how images are normalised before the artifact gets them, as of `load_runner`.
        against_pixels: the same for `against`.

    Returns:
        The comparison, and what is outside the limits.

    Raises:
        ValueError: there is no such artifact, or it is of another kind of model.
    """
    path = artifact_path(artifact)
    theirs = load_runner(path, trust=trust, pixels=pixels)
    ours = _reference(against, trust, against_pixels)
    same = ours.is_classifier == theirs.is_classifier
    if len(ours.outputs) == len(theirs.outputs) == 1:
        # Whatever it is called elsewhere.
        theirs.outputs = theirs.outputs if ours.is_classifier else ours.outputs
    if not same or (not ours.is_classifier and set(ours.outputs) != set(theirs.outputs)):
        raise ValueError(
            f"Expected an artifact that puts out {', '.join(ours.outputs)}. "
            f"Received: {artifact}, which puts out {', '.join(theirs.outputs)}"
        )
    if labels is not None:
        ours.check_classifier()
    _, chosen = image_sets(ours.input_shape, ours.info, None, images, labels, seed)
    expected, received = ours.answers(chosen.images), theirs.answers(chosen.images)
    comparison = compare_outputs(expected, received, chosen.labels)
    if not isinstance(limits, Limits):
        own = measured(limits_of(path), comparison)
        limits = dataclasses.replace(own, **(limits or {}))
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
            *(f"{artifact}: {note}" for note in theirs.notes),
            *(f"{against}: {note}" for note in ours.notes),
        ),
    )


def _reference(
    against: keras.Model | str | PathLike[str], trust: bool, pixels: str | None
) -> Runner:
    """Return the reference of the comparison: as in `export`, a Keras model in float32."""
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
    """The limits that `verify` holds an artifact to, if no others are given."""
    known = TARGETS.get(target_of(artifact_path(artifact)) or "")
    return known.limits if known else DEFAULT_LIMITS


def target_of(artifact: Path) -> str | None:
    """The target that an artifact was written for, if a report beside or above it says so."""
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
