"""`export()`: write artifacts, compare each with its Keras model, and publish those that agree."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_resnet.compression import strip
from keras_resnet.compression.layers import compressed_layers, ranges
from keras_resnet.export import record
from keras_resnet.export.comparison import Comparison, compare_outputs, disagreements, measured
from keras_resnet.export.images import ImageSet, image_sets
from keras_resnet.export.model import ExportedModel, as_float32, check_backend
from keras_resnet.export.options import ExportOptions
from keras_resnet.export.outputs import output_names
from keras_resnet.export.report.page import model_card, report_page
from keras_resnet.export.report.rows import ArtifactReport, ExportReport
from keras_resnet.export.report.timing import Timing, benchmark
from keras_resnet.export.runtime import KerasRunner, load_runner
from keras_resnet.export.targets import TARGETS, Target, choose_targets
from keras_resnet.images.protocol import DEFAULT_SIZE
from keras_resnet.models.info import get_info, learned_ranges
from keras_resnet.models.outputs import bare
from keras_resnet.models.untrained import untrained_part, warn_if_untrained
from keras_resnet.support.disks import raise_if_full
from keras_resnet.support.files import held, partial_directory, publish, size_of
from keras_resnet.support.fingerprints import fingerprint_of_artifact
from keras_resnet.support.progress import Progress, unseen

if TYPE_CHECKING:
    from keras_resnet.data import DataConfig

PAGE_FILE = "export.html"
CARD_FILE = "model_card.md"

_TIMING = Timing()

#: Number of layers that are reported for an artifact outside its limits.
_SUSPECTS = 5

#: Number of images for `layer_errors`, which is slow.
_SEARCH_IMAGES = 16

#: Approximate lower bound for the images that an artifact is verified on, whatever
#: `Target.max_pixels` says.
_FEWEST_IMAGES = 8


class ExportError(RuntimeError):
    """Error for artifacts that disagree with Keras or cannot be made.

    Attributes:
        report: `ExportReport` of all artifacts, those that agree included.
    """

    def __init__(self, report: ExportReport) -> None:
        super().__init__("; ".join(report.failures))
        self.report = report


def export(
    model: keras.Model,
    directory: str | PathLike[str],
    targets: Sequence[str] | None = None,
    *,
    calibration: str | DataConfig | Iterable[Any] | np.ndarray | None = None,
    images: str | DataConfig | Iterable[Any] | np.ndarray | None = None,
    labels: Sequence[int] | np.ndarray | None = None,
    options: ExportOptions | None = None,
    allow_disagreement: bool = False,
    timing: Timing | None = _TIMING,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = unseen,
) -> ExportReport:
    """Export a model to files for phones and servers, and compare every artifact with Keras.

    Each artifact is run in its own runtime, and gets its final name only if its outputs agree with
    Keras' within the limits of its target. If the export is interrupted, the same call again makes
    the missing artifacts only. With `overwrite`, all artifacts are made again, and then published
    together.

    Every artifact takes `image`: uint8 or float `(batch, height, width, channels)`, RGB in
    [0, 255]. A classifier's output is `probabilities`, or `logits` if it ends without an
    activation, float32 `(batch, classes)`. Other outputs have their names in the model.

    The directory also gets `export.json`, which lists the artifacts, and at the end `export.html`
    and `model_card.md`.

    Examples:
        >>> model = keras_resnet.load_model("run/best.keras")
        >>> report = export(model, "exported", ["tflite-int8"], calibration="folder:flowers")
        >>> report.artifacts[1].comparison.agreement
        0.9921875

    Args:
        model: Keras model that takes RGB pixels in [0, 255], with any dtype policy; it is exported
            in float32. Its normalization of pixels has to be part of the graph. A compressed model
            is stripped first. Ranges of activations from quantization-aware training become the
            ranges of int8 artifacts, with or without `calibration`.
        directory: directory for the artifacts; created if missing.
        targets: names from `keras_resnet.export.TARGETS`. By default `saved_model`, `onnx` and
            `tflite-int8`, or `tflite-float32` in place of the last if there are no ranges for int8.
        calibration: images that the ranges of int8 artifacts are measured on, not augmented. A data
            source such as `"folder:flowers"`, or a `DataConfig`: 256 training images, as many of
            each class. An array `(n, height, width, channels)`: all of it. Another iterable of
            arrays, paths or contents of image files: its first 256 items. If the model was trained
            with another `validation_fraction` than the default, pass a `DataConfig` with it, so
            that no validation image is used for calibration.
        images: images to compare the outputs on, in one of the forms of `calibration`; 256
            validation images of a data source. By default those of the data source in
            `calibration`, or every fourth image of `calibration`, which is then left out of the
            calibration. Without `calibration`, noise, which shows whether the arithmetic is right,
            but not how accurate the artifact is.
        labels: classes of `images`, integer `(n,)`, to measure accuracy. Not allowed with a data
            source, which has its own.
        options: options of the artifacts; by default `ExportOptions()`.
        allow_disagreement: whether to keep artifacts that are outside their target's limits.
        timing: how to measure latency and memory; by default one second for each artifact. `None`
            skips the measurement.
        seed: seed of the choice among the images of a data source.
        overwrite: whether to replace another export in the directory. All of its artifacts, those
            of other targets included, are removed once a new artifact agrees.
        progress: function that is called with the name of each step and the finished share, in
            [0, 1].

    Returns:
        Report of the export; its first row describes the Keras model itself.

    Raises:
        ValueError: a target is unknown, the model cannot be exported, the images do not fit, the
            directory cannot be written to or is in use by another process, or the only target
            cannot be made from this model.
        FileExistsError: the directory has an artifact of another export.
        ImportError: a package for a target is not installed.
        ExportError: an artifact is outside its target's limits or cannot be made from this model.
            It is not kept; those that agree are. If none agrees, `overwrite` replaces nothing.
        OSError: the disk is full.
    """
    check_backend()
    output_names(model)  # Raises ValueError if the model cannot be exported.
    model = bare(model)
    if labels is not None:
        KerasRunner(model).check_classifier()
    if compressed_layers(model) or ranges(model):
        model = strip(model)
    options = options or ExportOptions()
    has_ranges = calibration is not None or learned_ranges(model) is not None
    chosen = choose_targets(targets, has_ranges, options.keep_float)
    info = get_info(model)
    warn_if_untrained(model.name, untrained_part(model), stacklevel=2)
    sets = image_sets(model.input_shape, info, calibration, images, labels, seed)
    with held(Path(directory)), partial_directory(Path(directory)) as staging:
        export_ = _Export(as_float32(model), Path(directory), sets, options, allow_disagreement)
        export_.facts["weights"] = info.weights
        report = export_.run(chosen, staging, timing, overwrite, progress)
    if export_.failed:
        raise ExportError(report)
    return report


class _Export:
    """Export of one model into one directory.

    Attributes:
        failed: whether a requested target has no artifact.
        facts: facts about the model, for the report.
    """

    def __init__(
        self,
        model: keras.Model,
        directory: Path,
        images: tuple[ImageSet | None, ImageSet],
        options: ExportOptions,
        allow_disagreement: bool,
    ) -> None:
        self._model, self._directory, self._options = model, directory, options
        self._calibration, self._verification = images
        self._allow = allow_disagreement
        self._keras = KerasRunner(model)
        self._expected = self._keras.answers(self._verification.images)
        self._fingerprints = record.Fingerprints(model, *images, options)
        self._refusals: dict[str, str] = {}
        self.failed = False
        self.facts: dict[str, Any] = {
            "name": model.name,
            "fingerprint": self._fingerprints.model,
            "parameters": model.count_params(),
            "input": list(self._keras.input_shape),
            "outputs": list(self._keras.outputs),
        }

    def run(
        self,
        targets: list[Target],
        staging: Path,
        timing: Timing | None,
        overwrite: bool,
        progress: Progress,
    ) -> ExportReport:
        """Make the missing artifacts, measure all, and write the reports."""
        model, existing = record.finished(self._directory)
        known = existing if model == self._fingerprints.model else {}
        places = {target.name: target.place(self._options) for target in targets}
        # Artifacts that earlier exports made from the same model stay in the report.
        kept = {place: row for place, row in known.items() if place not in places.values()}
        replaced = [row for place, row in existing.items() if place not in kept]
        gone = [name for row in replaced for name in self._names(row, places)]
        done = {} if overwrite else self._finished(targets, known)
        if not overwrite:
            missing = [target for target in targets if target.name not in done]
            self._refuse_foreign(missing, known, [] if known else gone)
        workspace = Path(tempfile.mkdtemp(dir=staging))
        keras_path = workspace / "model.keras"
        self._model.save(keras_path)
        rows = [ArtifactReport("keras", None, size_of(keras_path), self._compare(self._expected))]
        images = None if self._calibration is None else self._calibration.images
        outputs, info = self._keras.outputs, self._keras.info
        exported = ExportedModel(self._model, images, workspace, outputs, info, self._options)
        new: list[str] = []
        for index, target in enumerate(targets):
            progress(target.name, index / (len(targets) + 1))
            row = done.get(target.name) or self._written(target, exported, staging, len(targets))
            if row is None:
                continue
            rows.append(row)
            if target.name in done or (row.disagreements and not self._allow):
                continue
            names = (places[target.name], *target.companions)
            new += [name for name in names if (staging / name).exists()]
            if not overwrite:
                record.write(staging, self._report([*rows, *kept.values()]))
                publish(staging, [*new, record.REPORT_FILE])
                new = []
        wrong = [row for row in rows if row.disagreements and not self._allow]
        self.failed = bool(self._refusals or wrong)
        rows += kept.values()
        if timing is not None:
            progress("latency and memory", len(targets) / (len(targets) + 1))
            rows = self._measured(rows, keras_path, staging, timing)
        report = self._report(rows)
        if overwrite and gone and not new:
            return report  # No new artifact agrees, so that the earlier export stays.
        if not overwrite:
            # These were kept by an export that allowed disagreement; this one does not.
            gone = [n for row in wrong if row.file_name in known for n in self._names(row, places)]
        record.write(staging, report)
        (staging / PAGE_FILE).write_text(report_page(report), encoding="utf-8")
        (staging / CARD_FILE).write_text(model_card(report), encoding="utf-8")
        publish(staging, [*new, PAGE_FILE, CARD_FILE, record.REPORT_FILE], gone)
        return report

    @staticmethod
    def _names(row: ArtifactReport, places: Mapping[str, str]) -> list[str]:
        """Return the files to remove with a replaced artifact.

        Other versions of a SavedModel stay, as servers may still load them.
        """
        target = TARGETS.get(row.target)
        if target is not None and target.versioned and row.file_name not in places.values():
            return []
        return [str(row.file_name), *(target.companions if target is not None else ())]

    def _finished(
        self, targets: list[Target], known: Mapping[str, ArtifactReport]
    ) -> dict[str, ArtifactReport]:
        """Return the rows of targets whose artifact an identical export has already made."""
        return {
            target.name: row
            for target in targets
            if (row := known.get(target.place(self._options))) is not None
            and row.fingerprint == self._fingerprints.of(target)
            and (self._allow or not row.disagreements)
        }

    def _refuse_foreign(
        self, targets: list[Target], known: Mapping[str, ArtifactReport], others: list[str]
    ) -> None:
        """Raise FileExistsError if an artifact of another export is in the way.

        Args:
            targets: targets that are to be made.
            known: rows of the artifacts that were made from the same model.
            others: names of artifacts of another model, whose report would be lost.
        """
        existing = others or [
            place
            for target in targets
            if (self._directory / (place := target.place(self._options))).exists()
            and (place not in known or known[place].fingerprint != self._fingerprints.of(target))
        ]
        if existing:
            raise FileExistsError(
                "Expected a directory without artifacts of another export. "
                f"Received: {self._directory}, which holds {', '.join(existing)}. Choose another "
                "directory, or pass `overwrite=True`"
            )

    def _written(
        self, target: Target, exported: ExportedModel, staging: Path, targets: int
    ) -> ArtifactReport | None:
        """Write an artifact and return its row; None if one of several targets is refused."""
        try:
            return self._write(target, exported, staging)
        except ValueError as error:
            raise_if_full(error, self._directory, only_reported=True)
            if targets == 1:
                raise
            # Other formats may have the operators that this one lacks.
            self._refusals[target.name] = str(error)
            return None

    def _write(self, target: Target, exported: ExportedModel, staging: Path) -> ArtifactReport:
        """Write an artifact to `staging`, run it and compare it with Keras."""
        target.write(exported, staging / target.file_name)
        place = target.place(self._options)
        path, images = staging / place, self._verification.images
        step = self._step(target)
        comparison = self._compare(load_runner(path, trust=True).answers(images[::step]), step)
        wrong = tuple(disagreements(comparison, measured(target.limits, comparison)))
        suspects: dict[str, float] = {}
        if wrong and target.layer_errors is not None:
            found = target.layer_errors(exported, images[:_SEARCH_IMAGES])
            suspects = dict(list(found.items())[:_SUSPECTS])
        return ArtifactReport(
            target.name,
            place,
            size_of(path),
            comparison,
            wrong,
            target.operators(path),
            target.float_layers(path),
            suspects,
            sha256=fingerprint_of_artifact(path),
            fingerprint=self._fingerprints.of(target),
        )

    def _step(self, target: Target) -> int:
        """Return n if the artifact is verified on every n-th verification image only."""
        number, height, width = self._verification.images.shape[:3]
        if target.max_pixels is None:
            return 1
        return -(-number // max(_FEWEST_IMAGES, target.max_pixels // (height * width)))

    def _compare(self, received: dict[str, np.ndarray], step: int = 1) -> Comparison:
        expected = {name: values[::step] for name, values in self._expected.items()}
        labels = self._verification.labels
        return compare_outputs(expected, received, None if labels is None else labels[::step])

    def _measured(
        self, rows: list[ArtifactReport], keras_path: Path, staging: Path, timing: Timing
    ) -> list[ArtifactReport]:
        """Return the rows with the latency and memory of all artifacts that are kept."""

        def path_of(name: str) -> Path:
            return next(p for p in (staging / name, self._directory / name) if p.exists())

        paths = {
            row.file_name: path_of(row.file_name) if row.file_name else keras_path
            for row in rows
            if not row.disagreements or self._allow
        }
        height, width = self._model.input_shape[1:3]
        fixed = self._options.batch_size
        measurements = benchmark(
            list(paths.values()),
            batch_sizes=(fixed,) if fixed else timing.batch_sizes,
            threads=timing.threads,
            seconds=timing.seconds,
            size=height or width or DEFAULT_SIZE,
            trust=True,
        ).measurements

        def measured(row: ArtifactReport) -> ArtifactReport:
            own = [m for m in measurements if m.artifact == str(paths.get(row.file_name))]
            renamed = tuple(dataclasses.replace(m, artifact=row.target) for m in own)
            return dataclasses.replace(row, measurements=renamed)

        return [measured(row) for row in rows]

    def _report(self, rows: list[ArtifactReport]) -> ExportReport:
        return ExportReport(
            tuple(rows),
            self.facts,
            dataclasses.asdict(self._options),
            {} if self._calibration is None else self._calibration.summary(),
            self._verification.summary(),
            record.versions(),
            dict(self._refusals),
        )
