"""`compress()`: a trained network is made smaller, trained meanwhile, and proved as artifacts."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.compression import (
    GradualPruning,
    cluster,
    freeze_bn,
    freeze_ranges,
    prune,
    quantize_aware,
    strip,
)
from keras_resnet.compression.pruning import prunable
from keras_resnet.compression.rebuild import kernels
from keras_resnet.data import DataConfig, load_data
from keras_resnet.export import export, load_runner
from keras_resnet.export.images import ImageSet, image_sets
from keras_resnet.export.options import ExportOptions
from keras_resnet.export.report.timing import Timing
from keras_resnet.jobs.compression_report import (
    CompressionError,
    CompressionOptions,
    CompressionReport,
    CompressionRow,
    row_of,
)
from keras_resnet.models.info import compressed_kernels, get_info
from keras_resnet.support import terminal
from keras_resnet.support.files import partial_directory, publish
from keras_resnet.support.fingerprints import fingerprint_of_weights
from keras_resnet.support.progress import Say
from keras_resnet.training import Recipe, find_recipe, override, train
from keras_resnet.training.recipes.parts import ScheduleConfig
from keras_resnet.training.run.folder import RunFolder
from keras_resnet.training.run.plan import check_classes

#: Share of its training after which a network has all the zeros that it is to have.
_PRUNED_AT = 0.6

#: What the last part of quantization-aware training, with all ranges fixed, multiplies rates with.
_SETTLING = 0.1

_TIMING = Timing()

MODEL_FILE = "model.keras"
REPORT_FILE = "compression.json"


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
    say: Say = terminal.console.print,
    **keywords: Any,
) -> CompressionReport:
    """Compresses a trained network while it trains on, and compares artifacts before and after.

    Every part of training is a run of `train` in a folder of its own, `1-prune` and so on, so that
    the same call goes on after an interruption. `before` and `after` have artifacts with their
    reports: what was reached is read from these files.

    Args:
        model: a flat network of this package with trained weights, for the classes of `data`; it
            stays as it is. Zeros and shared values of an earlier compression stay, too.
        data: a data source such as `"folder:flowers"`: to train, to validate, and for ranges.
        out_dir: folder for all files; it also gets `model.keras`, the network as a plain Keras
            model, and `compression.json`.
        options: what is done.
        recipe: that the network was trained by, or one like it. Its learning rate is multiplied by
            `options.rate` and falls like a cosine to 0 in every part; its own schedule, which is
            for random weights, and its duration and patience count for nothing.
        validation_fraction: of data without a validation part.
        seed: of data order, augmentation, clusters and the choice of images.
        timing: as for `export`; None: not at all.
        say: is told what happens, in sentences.
        **keywords: those of `train`, such as `checkpoint_every`, but for `epochs`, `resume` and
            `callbacks`.

    Raises:
        ValueError: network, data and options do not go together.
        ExportError: the network has no int8 artifact, which is found before anything trains.
        CompressionError: an artifact disagrees with the trained network; all files are there.
        ResumeError: `out_dir` holds another compression.
    """
    options, out_dir = options or CompressionOptions(), Path(out_dir)
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    recipe = _gentle(recipe, options.rate)
    config = DataConfig(
        data, size=model.input_shape[1] or 224, validation_fraction=validation_fraction
    )
    calibration, held_out = image_sets(model.input_shape, get_info(model), config, None, None, seed)
    assert calibration is not None
    sources = load_data(config)
    # What cannot be is refused before anything trains.
    check_classes(model, sources[0])
    _trained(model, calibration.images, options, None, seed)
    _claim(out_dir, model, config, options, seed)
    stages = _Stages(sources, recipe, out_dir, seed, say, keywords)
    # A network that has no artifacts is refused now, too.
    say("Exporting the network before")
    images = (calibration, held_out)
    rows = _exported(model, out_dir, "before", options, images, None, timing)
    network = _trained(model, calibration.images, options, stages, seed)
    classes = network.predict(held_out.images, verbose=0).argmax(-1)
    result = strip(network)
    for layer in result.layers:
        # What `freeze_ranges` froze may train on in what is made of the network next.
        layer.trainable = model.get_layer(layer.name).trainable
    with partial_directory(out_dir) as staging:
        result.save(staging / MODEL_FILE)
        publish({staging / MODEL_FILE: out_dir / MODEL_FILE})
    say("Exporting the network after")
    rows += _exported(result, out_dir, "after", options, images, classes, timing)
    outcome = CompressionReport(tuple(rows), options, out_dir)
    with partial_directory(out_dir) as staging:
        text = json.dumps(outcome.to_dict(), indent=1)
        (staging / REPORT_FILE).write_text(f"{text}\n", "utf-8")
        publish({staging / REPORT_FILE: out_dir / REPORT_FILE})
    _check_agreement(outcome, len(held_out.images))
    return outcome


def _gentle(recipe: Recipe, rate: float) -> Recipe:
    """What a network that is trained already goes on with."""
    schedule = dataclasses.asdict(ScheduleConfig("cosine"))
    return override(
        recipe,
        {
            "optimizer.learning_rate": recipe.optimizer.learning_rate * rate,
            **{f"schedule.{name}": value for name, value in schedule.items()},
            # With a stage that ends early, its zeros or ranges would not be what they are to be.
            "patience": None,
        },
    )


def _exported(
    network: keras.Model,
    out_dir: Path,
    name: str,
    options: CompressionOptions,
    images: tuple[ImageSet, ImageSet],
    classes: np.ndarray | None,
    timing: Timing | None,
) -> list[CompressionRow]:
    """The rows of artifacts in the folder `name`; `classes` are what they have to agree with."""
    calibration, held_out = images
    quantized = "qat" in options.methods
    targets = ["tflite-int8"]
    if name == "before" or not quantized:
        targets.append("tflite-float32")
    if quantized:
        targets.append("onnx-int8")
    found = export(
        network,
        out_dir / name,
        targets,
        calibration=calibration.images,
        images=held_out.images,
        labels=held_out.labels,
        options=ExportOptions(keep_float=options.skip if quantized else ()),
        # What int8 costs is for the table to show; and after stripping, activations are no longer
        # rounded, so that it is the trained network which artifacts have to agree with.
        allow_disagreement=True,
        timing=timing,
        overwrite=True,
    )
    rows = []
    for artifact in found.artifacts[1:]:
        agreement = None
        if classes is not None:
            path = out_dir / name / str(artifact.file_name)
            answers = load_runner(path).predict(held_out.images).argmax(-1)
            agreement = float(np.mean(answers == classes))
        rows.append(row_of(name, artifact, out_dir, agreement))
    return rows


def _claim(
    out_dir: Path, model: keras.Model, data: DataConfig, options: CompressionOptions, seed: int
) -> None:
    """Notes in the folder what is compressed there and how, and refuses to do another thing."""
    started = any(out_dir.glob("[0-9]*-*")) or (out_dir / MODEL_FILE).exists()
    settings = {
        "network": model.name,
        "weights": fingerprint_of_weights(model.get_weights()),
        "data": data.source,
        "validation_fraction": data.validation_fraction,
        "options": dataclasses.asdict(options),
        "seed": seed,
    }
    RunFolder(out_dir).claim(settings, "compression", started)


def _check_agreement(outcome: CompressionReport, images: int) -> None:
    # Without training for it, int8 may lose what it loses.
    bound = "qat" in outcome.options.methods
    wrong = [
        f"{row.what} agrees with it on {row.agreement:.1%} of {images} images"
        for row in outcome.rows
        if row.agreement is not None
        and (bound or not row.what.endswith("int8"))
        and round((1 - row.agreement) * images) > max(1, images // 20)
    ]
    if wrong:
        raise CompressionError(
            f"Expected artifacts that agree with the trained network. Received: {'; '.join(wrong)}",
            outcome,
        )


def _trained(
    model: keras.Model,
    images: np.ndarray,
    options: CompressionOptions,
    stages: _Stages | None,
    seed: int,
) -> keras.Model:
    """The network after all methods, not stripped yet; without stages, nothing trains."""
    network, skip = model, options.skip
    if unknown := sorted(set(skip) - {layer.name for layer in model.layers}):
        raise ValueError(f"Expected `skip` to name layers. Received: {', '.join(unknown)}")
    # Others have no weights that could be pruned or shared.
    dense = [layer.name for layer in kernels(model) if layer.name in skip]
    network = _as_before(network, dense if "cluster" in options.methods else None, seed)

    def run(name: str, epochs: float, **keywords: Any) -> None:
        if stages is not None and epochs:
            stages.train(network, name, epochs, **keywords)

    for method in options.methods:
        if method == "prune":
            gradual = options.pattern != "2:4"
            share = 0.0 if gradual else options.sparsity
            left = [kernels(network)[0].name, *dense]
            network = prune(network, share, pattern=options.pattern, skip=left)
            # Others may have masks of an earlier compression.
            names = prunable(network, options.pattern, left)
            run("prune", options.epochs, sparsity=options.sparsity, names=names if gradual else ())
        elif method == "cluster":
            network = cluster(network, options.clusters, skip=dense, seed=seed)
            run("cluster", options.epochs)
        else:
            network = quantize_aware(network, images, skip=skip)
            run("qat", options.epochs)
            if options.frozen_bn:
                freeze_bn(network)
                run("frozen-bn", options.frozen_bn)
            freeze_ranges(network)
            run("settle", options.settle, rate=_SETTLING)
    return network


def _as_before(model: keras.Model, clustered: Sequence[str] | None, seed: int) -> keras.Model:
    """Takes up zeros and shared values of a network that was compressed before and stripped.

    Values only of the layers `clustered`, if the others get new ones; None: of all.
    """
    names = [layer.name for layer in kernels(model)]
    known = compressed_kernels(model)
    pruned = {name for name in names if name in known and known[name].zeros}
    if pruned:
        # At no sparsity, what is zero already gets its mask.
        model = prune(model, 0, skip=[name for name in names if name not in pruned])
    counts = {name: known[name].distinct for name in names if name in known}
    if clustered is not None:
        counts = {name: count for name, count in counts.items() if name in clustered}
    for count in sorted({count for count in counts.values() if count}):
        others = [name for name in names if counts.get(name) != count]
        model = cluster(model, count, skip=others, seed=seed)
    return model


class _Stages:
    """One run of `train` after the other."""

    def __init__(
        self,
        data: Any,
        recipe: Recipe,
        folder: Path,
        seed: int,
        say: Say,
        keywords: dict[str, Any],
    ) -> None:
        self._data, self._recipe, self._folder = data, recipe, folder
        self._seed, self._say, self._keywords = seed, say, keywords
        self._count = 0

    def train(
        self,
        network: keras.Model,
        name: str,
        epochs: float,
        *,
        rate: float = 1.0,
        sparsity: float = 0.0,
        names: Sequence[str] = (),
    ) -> None:
        """Trains, or goes on with what is in the stage's folder; prunes the layers `names`."""
        self._count += 1
        self._say(f"Stage {self._count}: {name}")
        recipe = override(
            self._recipe,
            {"optimizer.learning_rate": self._recipe.optimizer.learning_rate * rate},
        )
        callbacks = []
        if names:
            images = len(self._data[0])
            steps = max(1, round(epochs * -(-images // recipe.batch_size)))
            callbacks.append(
                GradualPruning(
                    sparsity,
                    max(1, round(_PRUNED_AT * steps)),
                    every=max(1, steps // 100),
                    layers=names,
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
