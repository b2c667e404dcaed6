"""`compress()`: a trained network is made smaller, trained meanwhile, and proved as artifacts."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np
from rich.table import Table

from keras_resnet import terminal
from keras_resnet.compression import (
    GradualPruning,
    cluster,
    freeze_ranges,
    prune,
    quantize_aware,
    strip,
)
from keras_resnet.compression.pruning import Pattern
from keras_resnet.data import DataConfig, load_data
from keras_resnet.export import export
from keras_resnet.export.calibration import image_sets
from keras_resnet.export.report import ArtifactReport
from keras_resnet.export.signature import ExportOptions
from keras_resnet.export.tflite.inspect import kernels
from keras_resnet.export.timing import Timing
from keras_resnet.files import partial_directory, publish
from keras_resnet.model_info import get_info
from keras_resnet.training import Recipe, find_recipe, override, train

Method = Literal["prune", "cluster", "qat"]

#: Share of its training after which a network has all the zeros that it is to have.
_PRUNED_AT = 0.6

#: What the last part of quantization-aware training, with all ranges fixed, multiplies rates with.
_SETTLING = 0.1

_TIMING = Timing()

MODEL_FILE = "model.keras"
REPORT_FILE = "compression.json"


@dataclass(frozen=True)
class CompressionOptions:
    """How a network is compressed.

    Attributes:
        methods: `"prune"`, `"cluster"` and `"qat"` (quantization-aware training), or some of them;
            they are applied in this order, each keeping what those before have reached.
        sparsity: share of zeros, reached step by step.
        pattern: which weights are pruned together, see `prune`.
        clusters: different weights of a layer, see `cluster`.
        epochs: of training, for each method.
        settle: of training after `"qat"`, with ranges and batch normalisation fixed.
        rate: what the recipe's learning rate is multiplied by.
        skip: names of layers that are left alone; with `"qat"`, they stay in float.

    Raises:
        ValueError: a field has another value than these.
    """

    methods: tuple[Method, ...] = ("qat",)
    sparsity: float = 0.8
    pattern: Pattern = "unstructured"
    clusters: int = 16
    epochs: float = 3.0
    settle: float = 1.0
    rate: float = 0.1
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        order = [method for method in get_args(Method) if method in self.methods]
        if list(self.methods) != order or not order:
            raise ValueError(
                f"Expected `methods` among {', '.join(get_args(Method))}, in this order. Received: "
                f"{', '.join(map(str, self.methods)) or 'none'}"
            )
        for name in ("epochs", "settle", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected `{name}` above 0. Received: {getattr(self, name)}")


@dataclass(frozen=True)
class CompressionRow:
    """An artifact before or after.

    Attributes:
        what: `"before"` or `"after"`, and the target.
        file: the artifact, below the folder.
        accuracy: on the verification images, as a share.
        size: bytes.
        packed: bytes after `gzip -9`.
        latency_ms: median of one image, on all cores; None: not measured.
        zeros: share of zeros among all weights of convolutions and dense layers; None: not known of
            this format.
        distinct: most different weights of a layer, of a channel in float; None: likewise.
    """

    what: str
    file: str
    accuracy: float | None
    size: int
    packed: int
    latency_ms: float | None
    zeros: float | None
    distinct: int | None


@dataclass(frozen=True)
class CompressionReport:
    """What compression came to; `folder` has the network as `model.keras`."""

    rows: tuple[CompressionRow, ...]
    options: CompressionOptions
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        return {"rows": rows, "options": dataclasses.asdict(self.options)}

    def to_table(self) -> Table:
        """For a terminal."""
        columns = ("artifact", "accuracy", "size", "gzip", "latency", "zeros", "distinct")
        table = terminal.table(columns)
        for row in self.rows:
            table.add_row(
                row.what,
                "–" if row.accuracy is None else f"{row.accuracy:.2%}",
                f"{row.size / 1e6:.2f} MB",
                f"{row.packed / 1e6:.2f} MB",
                "–" if row.latency_ms is None else f"{row.latency_ms:.2f} ms",
                "–" if row.zeros is None else f"{row.zeros:.1%}",
                "–" if row.distinct is None else str(row.distinct),
            )
        return table


def compress(
    model: keras.Model,
    data: str,
    out_dir: str | os.PathLike[str],
    options: CompressionOptions | None = None,
    *,
    recipe: Recipe | str = "finetune",
    validation_fraction: float = 0.1,
    seed: int = 0,
    timing: Timing | None = _TIMING,
    report: Callable[[str], None] = terminal.console.print,
    **keywords: Any,
) -> CompressionReport:
    """Compresses a trained network while it trains on, and compares artifacts before and after.

    Every part of training is a run of `train` in a folder of its own, `1-prune` and so on, so that
    the same call goes on after an interruption. `before` and `after` have artifacts with their
    reports: what was reached is read from these files.

    Args:
        model: a flat network of this package with trained weights, for the classes of `data`; it
            stays as it is.
        data: a data source such as `"folder:flowers"`: to train, to validate, and for ranges.
        out_dir: folder for all files; it also gets `model.keras`, the network as a plain Keras
            model, and `compression.json`.
        options: what is done.
        recipe: that the network was trained by, or one like it; its learning rate is multiplied by
            `options.rate`, and its duration counts for nothing.
        validation_fraction: of data without a validation part.
        seed: of data order, augmentation, clusters and the choice of images.
        timing: as for `export`; None: not at all.
        report: is told what happens, in sentences.
        **keywords: those of `train`, such as `checkpoint_every`.

    Raises:
        ValueError: network, data and options do not go together.
        ExportError: an artifact disagrees with the network.
        ResumeError: `out_dir` holds another compression.
    """
    options, out_dir = options or CompressionOptions(), Path(out_dir)
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    recipe = override(
        recipe, {"optimizer.learning_rate": recipe.optimizer.learning_rate * options.rate}
    )
    calibration, held_out = image_sets(model.input_shape, get_info(model), data, None, None, seed)
    assert calibration is not None
    config = DataConfig(
        data, size=model.input_shape[1] or 224, validation_fraction=validation_fraction
    )
    stages = _Stages(load_data(config), recipe, out_dir, seed, report, keywords)
    result = strip(_trained(model, calibration.images, options, stages, seed))
    with partial_directory(out_dir) as staging:
        result.save(staging / MODEL_FILE)
        publish({staging / MODEL_FILE: out_dir / MODEL_FILE})
    rows: list[CompressionRow] = []
    quantized = "qat" in options.methods
    for name, one in (("before", model), ("after", result)):
        report(f"Exporting the network {name}")
        after = name == "after"
        found = export(
            one,
            out_dir / name,
            ["tflite-int8", "onnx-int8" if quantized and after else "tflite-float32"],
            calibration=calibration.images,
            images=held_out.images,
            labels=held_out.labels,
            options=ExportOptions(keep_float=options.skip if quantized and after else ()),
            # What int8 costs without training is for the table to show.
            allow_disagreement=not (quantized and after),
            timing=timing,
            seed=seed,
            overwrite=True,
        )
        rows += [_row(name, each, out_dir) for each in found.artifacts if each.file_name]
    outcome = CompressionReport(tuple(rows), options, out_dir)
    with partial_directory(out_dir) as staging:
        text = json.dumps(outcome.to_dict(), indent=1)
        (staging / REPORT_FILE).write_text(f"{text}\n", "utf-8")
        publish({staging / REPORT_FILE: out_dir / REPORT_FILE})
    return outcome


def _trained(
    model: keras.Model,
    images: np.ndarray,
    options: CompressionOptions,
    stages: _Stages,
    seed: int,
) -> keras.Model:
    """The network after all methods, not stripped yet."""
    network, skip = model, options.skip
    for method in options.methods:
        if method == "prune":
            gradual = options.pattern != "2:4"
            share = 0.0 if gradual else options.sparsity
            network = prune(network, share, pattern=options.pattern, skip=skip or None)
            stages.train(network, "prune", options.epochs, pruning=options if gradual else None)
        elif method == "cluster":
            network = cluster(network, options.clusters, skip=skip, seed=seed)
            stages.train(network, "cluster", options.epochs)
        else:
            network = quantize_aware(network, images, skip=skip)
            stages.train(network, "qat", options.epochs)
            stages.train(freeze_ranges(network), "settle", options.settle, rate=_SETTLING)
    return network


class _Stages:
    """One run of `train` after the other."""

    def __init__(
        self,
        data: Any,
        recipe: Recipe,
        folder: Path,
        seed: int,
        report: Callable[[str], None],
        keywords: dict[str, Any],
    ) -> None:
        self._data, self._recipe, self._folder = data, recipe, folder
        self._seed, self._report, self._keywords = seed, report, keywords
        self._count = 0

    def train(
        self,
        network: keras.Model,
        name: str,
        epochs: float,
        *,
        rate: float = 1.0,
        pruning: CompressionOptions | None = None,
    ) -> None:
        """Trains, or goes on with what is in the stage's folder."""
        self._count += 1
        self._report(f"Stage {self._count}: {name}")
        recipe = override(
            self._recipe,
            {"optimizer.learning_rate": self._recipe.optimizer.learning_rate * rate},
        )
        callbacks = []
        if pruning is not None:
            images = len(self._data[0])
            steps = max(1, round(epochs * -(-images // recipe.batch_size)))
            callbacks.append(
                GradualPruning(
                    pruning.sparsity,
                    max(1, round(_PRUNED_AT * steps)),
                    every=max(1, steps // 100),
                    pattern=pruning.pattern,
                )
            )
        train(
            network,
            self._data,
            recipe,
            self._folder / f"{self._count}-{name}",
            epochs=epochs,
            seed=self._seed,
            callbacks=callbacks,
            **self._keywords,
        )


def _row(name: str, artifact: ArtifactReport, folder: Path) -> CompressionRow:
    path = folder / name / str(artifact.file_name)
    zeros = distinct = None
    if path.suffix == ".tflite":
        facts = kernels(path)
        zeros = sum(fact.zeros for fact in facts) / sum(fact.weights for fact in facts)
        distinct = max(fact.distinct for fact in facts)
    return CompressionRow(
        f"{name}: {artifact.target}",
        f"{name}/{artifact.file_name}",
        artifact.comparison.accuracy,
        artifact.size,
        len(gzip.compress(path.read_bytes(), 9)),
        artifact.latency_ms,
        zeros,
        distinct,
    )
