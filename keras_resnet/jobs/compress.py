"""`compress()`: a trained network is made smaller, trained meanwhile, and proved as artifacts."""

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

#: Factor of the learning rate in the last phase of quantization, in which all ranges are fixed.
_SETTLING = 0.1

_TIMING = Timing()

MODEL_FILE = "model.keras"
REPORT_FILE = "compression.json"
PAGE_FILE = "compression.html"

#: What appears when all is done, besides the phases.
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
    """Compress a trained network while it trains on, and compares artifacts before and after.

    Every phase is a run of `train` in a folder of its own, `1-prune` and so on, so that the same
    call goes on after an interruption. `before` and `after` have artifacts with their reports: what
    was reached is read from these files. `before` is written first, and stays for as long as
    nothing changes; all others appear in the end, together.

    With `options.engine="tfmot"`, a phase is trained by tensorflow-model-optimization on one
    device, by the same recipe, and begins anew if it was interrupted. The network comes back as one
    of Keras 3.

    Args:
        model: a flat network of this package with trained weights, for the classes of `data`; it
            stays as it is. Zeros and shared values of an earlier compression stay, too.
        data: a data source such as `"folder:flowers"`: to train, to validate, and for ranges.
        out_dir: folder for all files; it also gets `model.keras`, the network as a plain Keras
            model, and `compression.json` and `compression.html`.
        options: what is done.
        recipe: that the network was trained by, or one like it. Its learning rate is multiplied by
            `options.rate` and falls like a cosine to 0 in every phase; its own schedule, which is
            for random weights, and its duration and patience count for nothing.
        validation_fraction: of data without a validation part.
        max_bad_fraction: share of the images that may be unreadable; they are skipped.
        seed: of data order, augmentation, clusters and the choice of images.
        timing: as for `export`; None: not at all.
        say: is told what happens, in sentences.
        **keywords: those of `train`, such as `checkpoint_every`, but for `epochs`, `resume` and
            `callbacks`.

    Raises:
        ValueError: If network, data and options do not go together, or are beyond
            tensorflow-model-optimization; or another process is at work in `out_dir`.
        ImportError: If the engine's packages are not installed.
        ExportError: If the network has no int8 artifact, which is found before anything trains.
        CompressionError: If an artifact disagrees with the trained network; all files are there.
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
    # What cannot be is refused before anything trains.
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
        # A network that has no artifacts is refused now, too.
        say("Exporting the network before")
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
            # What `freeze_ranges` froze may train on in what is made of the network next.
            layer.trainable = model.get_layer(layer.name).trainable
        result.save(staging / MODEL_FILE)
        say("Exporting the network after")
        rows += _exported(result, staging, "after", options, images, classes, timing)
        outcome = CompressionReport(tuple(rows), options, out_dir)
        text = json.dumps(outcome.to_dict(), indent=1)
        (staging / REPORT_FILE).write_text(f"{text}\n", "utf-8")
        (staging / PAGE_FILE).write_text(compression_page(outcome), "utf-8")
        publish(staging, _RESULTS)
    _check_agreement(outcome, len(held_out.images))
    return outcome


def _gentle(recipe: Recipe, rate: float) -> Recipe:
    """Return the recipe with the gentle rate for a network that is already trained."""
    schedule = dataclasses.asdict(ScheduleConfig("cosine"))
    changes: dict[str, Any] = {f"schedule.{name}": value for name, value in schedule.items()}
    changes["optimizer.learning_rate"] = recipe.optimizer.learning_rate * rate
    # If a phase ended early, its zeros or ranges would not be what they are to be.
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
    """Return the rows of artifacts in `folder/name`; `classes` are what they have to agree with."""
    calibration, held_out = images
    quantized = "qat" in options.methods
    targets = ["tflite-int8"]
    targets += ["tflite-float32"] if name == "before" or not quantized else []
    targets += ["onnx-int8"] if quantized else []
    # What int8 costs is for the table to show; and after stripping, activations are no longer
    # rounded, so that it is the trained network which artifacts have to agree with.
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
        # Of the same network, images and versions, what is there already stays.
        found = run()
    except FileExistsError:
        found = run(overwrite=True)
    rows = []
    for artifact in found.artifacts[1:]:
        agreement = None
        if classes is not None:
            path = folder / name / str(artifact.file_name)
            answers = load_runner(path).predict(held_out.images).argmax(-1)
            agreement = float(np.mean(answers == classes))
        rows.append(row_of(name, artifact, folder, agreement))
    return rows


def _settings(
    model: keras.Model, data: tuple[Source, Source], options: CompressionOptions, seed: int
) -> dict[str, Any]:
    """Return the settings that must not change when a compression goes on, fit for JSON."""
    return {
        "network": model.name,
        "weights": fingerprint_of_weights(model.get_weights()),
        "train_data": identity_of(data[0]),
        "validation_data": identity_of(data[1]),
        "options": dataclasses.asdict(options),
        "seed": seed,
    }


def _claim(folder: RunFolder, settings: dict[str, Any], data: DataConfig) -> None:
    """Make sure that the folder holds this compression, or nothing."""
    earlier = {"data": data.source, "validation_fraction": data.validation_fraction}
    # From before the contents of images were noted.
    if earlier.keys() <= (folder.read_config() or {}).keys():
        own = {name: value for name, value in settings.items() if not name.endswith("_data")}
        settings = {**own, **earlier}
        warn_of_unknown_contents()
    defaults = {"options": dataclasses.asdict(CompressionOptions())}
    folder.claim(settings, "compression", defaults, replaces=True, others=_RESULTS)


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


class _Phase(NamedTuple):
    """A part of the training.

    Attributes:
        network: what is trained.
        name: of the folder, after a number.
        epochs: how long; 0: not at all.
        rate: factor of the learning rate.
        pruned: layers that get more and more zeros meanwhile.
    """

    network: keras.Model
    name: str
    epochs: float
    rate: float = 1.0
    pruned: Sequence[str] = ()


def _phases(
    model: keras.Model, images: np.ndarray, options: CompressionOptions, seed: int
) -> Iterator[_Phase]:
    """Yield the phases of training, each of which starts from the previous network.

    Unless phases are trained, nothing but the kinds of layers changes.
    """
    skip = options.skip
    if unknown := sorted(set(skip) - {layer.name for layer in model.layers}):
        raise ValueError(f"Expected `skip` to name layers. Received: {', '.join(unknown)}")
    # Others have no weights that could be pruned or shared.
    dense = [layer.name for layer in kernels(model) if layer.name in skip]
    network = _as_before(model, dense if "cluster" in options.methods else None, seed)
    for method in options.methods:
        if method == "prune":
            gradual = options.pattern != "2:4"
            share = 0.0 if gradual else options.sparsity
            left = [kernels(network)[0].name, *dense]
            network = prune(network, share, pattern=options.pattern, skip=left)
            # Others may have masks of an earlier compression.
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
    """Return the network of the last phase, each trained in a folder of its own."""
    for count, phase in enumerate(phases, 1):
        if phase.epochs:
            say(f"Phase {count}: {phase.name}")
            path = folder / f"{count}-{phase.name}"
            _train(phase, data, recipe, path, sparsity, **keywords)
    return phase.network


def _train(
    phase: _Phase, data: Any, recipe: Recipe, folder: Path, sparsity: float, **keywords: Any
) -> None:
    """Train, or goes on with what is in the folder; `sparsity` is that of pruned layers."""
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
    """Take up zeros and shared values of a network that was compressed before and stripped.

    Values only of the layers `clustered`, if the others get new ones; None: of all.
    """
    names = [layer.name for layer in kernels(model)]
    known = {name: kernel for name, kernel in compressed_kernels(model).items() if name in names}
    if any(kernel.zeros for kernel in known.values()):
        # At no sparsity, what is zero already gets its mask.
        dense = [name for name in names if name not in known or not known[name].zeros]
        model = prune(model, 0, skip=dense)
    chosen = names if clustered is None else clustered
    counts = {name: kernel.distinct for name, kernel in known.items() if name in chosen}
    for count in sorted({count for count in counts.values() if count}):
        others = [name for name in names if counts.get(name) != count]
        model = cluster(model, count, skip=others, seed=seed)
    return model
