"""`compress()`: compression of a trained network with further training and verified artifacts."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from keras_resnet.compression.options import CompressionOptions
from keras_resnet.compression.pruning import prunable
from keras_resnet.compression.rebuild import kernels
from keras_resnet.data import DataConfig, Source, load_data
from keras_resnet.data.identity import identity_of, warn_of_unknown_contents
from keras_resnet.export import export, load_runner
from keras_resnet.export.images import ImageSet, image_sets
from keras_resnet.export.options import ExportOptions
from keras_resnet.export.report.timing import Timing
from keras_resnet.export.runtime import KerasRunner
from keras_resnet.images.protocol import DEFAULT_SIZE
from keras_resnet.jobs.compress_tfmot import TfmotEngine
from keras_resnet.jobs.compression_report import (
    CompressionError,
    CompressionReport,
    CompressionRow,
    compression_page,
    pruning_pace,
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
from keras_resnet.training.run.resolved import check_classes

#: Factor of the learning rate in the last phase of quantization-aware training, with fixed ranges.
_SETTLING = 0.1

_TIMING = Timing()

MODEL_FILE = "model.keras"
REPORT_FILE = "compression.json"
PAGE_FILE = "compression.html"

#: Results that are published together at the end, besides the phases.
_RESULTS = ("after", MODEL_FILE, PAGE_FILE, REPORT_FILE)


def compress(
    model: keras.Model,
    data: str,
    out_dir: str | os.PathLike[str],
    options: CompressionOptions | None = None,
    *,
    recipe: Recipe | str = "finetune",
    validation_fraction: float = 0.1,
    max_bad_fraction: float = 0.01,
    seed: int = 0,
    timing: Timing | None = _TIMING,
    say: Say = terminal.print_lines,
    **keywords: Any,
) -> CompressionReport:
    """Compress a network with further training, and compare its artifacts before and after.

    Every phase is a run of `train` in its own subfolder, such as `1-prune`, and the same call
    resumes after an interruption. The subfolders `before` and `after` contain artifacts and their
    reports; all reported results are measured on these files. `before` is written first and kept
    unless something changes; all other results are published together at the end.

    With `options.engine="tfmot"`, tensorflow-model-optimization trains a phase by the same recipe
    on one device, and an interrupted phase starts from its beginning. The result is a Keras 3
    network.

    Args:
        model: a flat network of this package with trained weights for the classes of `data`; it is
            not changed. Zeros and shared values of an earlier compression are kept.
        data: a data source such as `"folder:flowers"`, for training, validation and the ranges of
            activations.
        out_dir: output folder for the phases, the artifacts, `model.keras` (the network as a plain
            Keras model), `compression.json` and `compression.html`.
        options: options of the compression; None: their defaults.
        recipe: the recipe that the network was trained with, or a similar one. In every phase, its
            learning rate is multiplied by `options.rate` and decays to 0 along a cosine; its
            schedule, duration and patience are ignored.
        validation_fraction: share of the data for validation, in [0, 1], if `data` has no
            validation part.
        max_bad_fraction: largest share of unreadable images, in [0, 1]; they are skipped.
        seed: random seed of data order, augmentation, clustering and the choice of images.
        timing: as for `export`; None: latencies are not measured.
        say: called with sentences about the progress.
        **keywords: further arguments of `train`, such as `checkpoint_every`, except `epochs`,
            `resume` and `callbacks`.

    Returns:
        The results of all artifacts before and after.

    Raises:
        ValueError: If network, data and options do not fit together, the engine does not support
            them, or another process is using `out_dir`.
        ImportError: If packages of the engine are not installed.
        ExportError: If the network cannot be exported in int8; raised before the training.
        CompressionError: If an artifact disagrees with the trained network; all files are written.
        ResumeError: If `out_dir` holds another compression.
    """
    options, out_dir = options or CompressionOptions(), Path(out_dir)
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    recipe = _gentle(recipe, options.rate)
    size = model.input_shape[1] or DEFAULT_SIZE
    shares: dict[str, Any] = {
        "validation_fraction": validation_fraction,
        "max_bad_fraction": max_bad_fraction,
    }
    config = DataConfig(data, size=size, **shares)
    calibration, held_out = image_sets(model.input_shape, get_info(model), config, None, None, seed)
    assert calibration is not None
    sources = load_data(config, say)
    # Impossible settings are refused before the training.
    check_classes(model, sources[0])
    for _ in _phases(model, calibration.images, options, seed):
        pass
    engine = None
    if options.engine == "tfmot":
        engine = TfmotEngine(
            model, calibration.images, sources, options, recipe, config, seed, _SETTLING, **keywords
        )
    images, folder = (calibration, held_out), RunFolder(out_dir)
    with folder.held(), partial_directory(out_dir) as staging:
        _claim(folder, _settings(model, sources, options, seed), config)
        # A network that cannot be exported is refused before the training, too.
        say("Exporting the network before compression")
        rows = _exported(model, out_dir, "before", options, images, None, timing)
        if engine is None:
            phases = _phases(model, calibration.images, options, seed)
            keywords |= {"seed": seed, "max_bad_fraction": max_bad_fraction}
            network = _trained(phases, sources, recipe, out_dir, options.sparsity, say, **keywords)
            classes = KerasRunner(network).predict(held_out.images).argmax(-1)
        else:
            network, classes = engine.run(out_dir, held_out.images, say)
        result = strip(network)
        for layer in result.layers:
            # Layers that `freeze_ranges` froze are trainable again in the result.
            layer.trainable = model.get_layer(layer.name).trainable
        result.save(staging / MODEL_FILE)
        say("Exporting the network after compression")
        rows += _exported(result, staging, "after", options, images, classes, timing)
        outcome = CompressionReport(tuple(rows), options, out_dir)
        text = json.dumps(outcome.to_dict(), indent=1)
        (staging / REPORT_FILE).write_text(f"{text}\n", "utf-8")
        (staging / PAGE_FILE).write_text(compression_page(outcome), "utf-8")
        publish(staging, _RESULTS)
    _check_agreement(outcome, len(held_out.images))
    return outcome


def _gentle(recipe: Recipe, rate: float) -> Recipe:
    """Return the recipe with a lower learning rate and a cosine schedule, for a trained network."""
    schedule = dataclasses.asdict(ScheduleConfig("cosine"))
    changes: dict[str, Any] = {f"schedule.{name}": value for name, value in schedule.items()}
    changes["optimizer.learning_rate"] = recipe.optimizer.learning_rate * rate
    # If a phase ended early, it would not reach its sparsity or final ranges.
    changes["patience"] = None
    return override(recipe, changes)


def _exported(
    network: keras.Model,
    folder: Path,
    name: str,
    options: CompressionOptions,
    images: tuple[ImageSet, ImageSet],
    classes: np.ndarray | None,
    timing: Timing | None,
) -> list[CompressionRow]:
    """Export to `folder/name`, and return a row per artifact, with its agreement with `classes`."""
    calibration, held_out = images
    quantized = "qat" in options.methods
    targets = ["tflite-int8"]
    targets += ["tflite-float32"] if name == "before" or not quantized else []
    targets += ["onnx-int8"] if quantized else []
    # Artifacts are compared with the trained network instead of `network`: after stripping,
    # activations are no longer rounded.
    run = functools.partial(
        export,
        *(network, folder / name, targets),
        calibration=calibration.images,
        images=held_out.images,
        labels=held_out.labels,
        options=ExportOptions(keep_float=options.skip if quantized else ()),
        allow_disagreement=True,
        timing=timing,
    )
    try:
        # Existing artifacts of the same network, images and versions are kept.
        found = run()
    except FileExistsError:
        found = run(overwrite=True)
    rows = []
    for artifact in found.artifacts[1:]:
        agreement = None
        if classes is not None:
            path = folder / name / str(artifact.file_name)
            predicted = load_runner(path).predict(held_out.images).argmax(-1)
            agreement = float(np.mean(predicted == classes))
        rows.append(row_of(name, artifact, folder, agreement))
    return rows


def _settings(
    model: keras.Model, data: tuple[Source, Source], options: CompressionOptions, seed: int
) -> dict[str, Any]:
    """Return the settings that must not change when a compression is resumed, for JSON."""
    return {
        "network": model.name,
        "weights": fingerprint_of_weights(model.get_weights()),
        "train_data": identity_of(data[0]),
        "validation_data": identity_of(data[1]),
        "options": dataclasses.asdict(options),
        "seed": seed,
    }


def _claim(folder: RunFolder, settings: dict[str, Any], data: DataConfig) -> None:
    """Write the settings to the folder, or check that it holds this compression."""
    earlier = {"data": data.source, "validation_fraction": data.validation_fraction}
    # In earlier versions, the contents of images were not recorded.
    if earlier.keys() <= (folder.read_config() or {}).keys():
        own = {name: value for name, value in settings.items() if not name.endswith("_data")}
        settings = {**own, **earlier}
        warn_of_unknown_contents()
    defaults = {"options": dataclasses.asdict(CompressionOptions())}
    folder.claim(settings, "compression", defaults, replaces=True, others=_RESULTS)


def _check_agreement(outcome: CompressionReport, images: int) -> None:
    """Raise CompressionError if artifacts disagree with the trained network."""
    # Agreement in int8 is required only after quantization-aware training.
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


class _Phase(NamedTuple):
    """A phase of the training.

    Attributes:
        network: the network to train.
        name: name of the phase, part of the name of its folder.
        epochs: length in epochs; 0: the phase is skipped.
        rate: factor of the learning rate.
        pruned: names of the layers that are gradually pruned.
    """

    network: keras.Model
    name: str
    epochs: float
    rate: float = 1.0
    pruned: Sequence[str] = ()


def _phases(
    model: keras.Model, images: np.ndarray, options: CompressionOptions, seed: int
) -> Iterator[_Phase]:
    """Yield the phases of training, each of which starts with the previous network.

    If the phases are not trained, only the kinds of layers change.
    """
    skip = options.skip
    if unknown := sorted(set(skip) - {layer.name for layer in model.layers}):
        raise ValueError(f"Expected `skip` to name layers. Received: {', '.join(unknown)}")
    # Skipped layers with weights that could be pruned or shared.
    dense = [layer.name for layer in kernels(model) if layer.name in skip]
    network = _as_before(model, dense if "cluster" in options.methods else None, seed)
    for method in options.methods:
        if method == "prune":
            gradual = options.pattern != "2:4"
            share = 0.0 if gradual else options.sparsity
            left = [kernels(network)[0].name, *dense]
            network = prune(network, share, pattern=options.pattern, skip=left)
            # Other layers may have masks from an earlier compression.
            names = prunable(network, options.pattern, left) if gradual else ()
            yield _Phase(network, "prune", options.epochs, pruned=names)
        elif method == "cluster":
            network = cluster(network, options.clusters, skip=dense, seed=seed)
            yield _Phase(network, "cluster", options.epochs)
        else:
            network = quantize_aware(network, images, skip=skip)
            yield _Phase(network, "qat", options.epochs)
            if options.frozen_bn:
                freeze_bn(network)
                yield _Phase(network, "frozen-bn", options.frozen_bn)
            freeze_ranges(network)
            yield _Phase(network, "settle", options.settle, rate=_SETTLING)


def _trained(
    phases: Iterator[_Phase],
    data: Any,
    recipe: Recipe,
    folder: Path,
    sparsity: float,
    say: Say,
    **keywords: Any,
) -> keras.Model:
    """Train all phases, each in its own folder, and return the network of the last one."""
    for count, phase in enumerate(phases, 1):
        if phase.epochs:
            say(f"Phase {count}: {phase.name}")
            path = folder / f"{count}-{phase.name}"
            _train(phase, data, recipe, path, sparsity, **keywords)
    return phase.network


def _train(
    phase: _Phase, data: Any, recipe: Recipe, folder: Path, sparsity: float, **keywords: Any
) -> None:
    """Train a phase, or resume it; `sparsity` is the final share of zeros in pruned layers."""
    rate = recipe.optimizer.learning_rate * phase.rate
    callbacks = []
    if phase.pruned:
        steps = max(1, round(phase.epochs * -(-len(data[0]) // recipe.batch_size)))
        last, every = pruning_pace(steps)
        callbacks.append(GradualPruning(sparsity, last, every=every, layers=phase.pruned))
    train(
        phase.network,
        data,
        override(recipe, {"optimizer.learning_rate": rate}),
        folder,
        epochs=phase.epochs,
        callbacks=callbacks,
        **keywords,
    )


def _as_before(model: keras.Model, clustered: Sequence[str] | None, seed: int) -> keras.Model:
    """Return a network with the zeros and shared values of an earlier compression.

    Shared values are kept for the layers `clustered` only; None: for all layers.
    """
    names = [layer.name for layer in kernels(model)]
    known = {name: kernel for name, kernel in compressed_kernels(model).items() if name in names}
    if any(kernel.zeros for kernel in known.values()):
        # With a sparsity of 0, masks cover exactly the weights that are zero.
        dense = [name for name in names if name not in known or not known[name].zeros]
        model = prune(model, 0, skip=dense)
    chosen = names if clustered is None else clustered
    counts = {name: kernel.distinct for name, kernel in known.items() if name in chosen}
    for count in sorted({count for count in counts.values() if count}):
        others = [name for name in names if counts.get(name) != count]
        model = cluster(model, count, skip=others, seed=seed)
    return model
