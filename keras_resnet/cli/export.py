"""`keras-resnet export`, `verify` and `benchmark`: make, check and time artifacts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.cli import checks, inputs, options
from keras_resnet.cli.options import parse_integers, print_json
from keras_resnet.support.files import check_writable
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, progress_bar

if TYPE_CHECKING:
    import keras

    from keras_resnet.data import DataConfig

Calibration = Annotated[
    str | None,
    typer.Option(
        help="Measure the ranges of integer artifacts on training images of this data source, "
        "such as folder:PATH. Integer targets need it, except after quantization-aware training."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Compare on validation images of this data source. By default, that of "
        "--calibration; without one, noise."
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Read the class names from this file: one per line, CSV or JSON. By default, those "
        "of the model."
    ),
]
KeepFloat = Annotated[
    list[str] | None,
    typer.Option(
        "--keep-float",
        "--skip",
        help="Leave this layer of integer artifacts in float. May be repeated.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Fix the batch size of TFLite and ONNX artifacts. By default, they take any.",
    ),
]
Serving = Annotated[
    str, typer.Option(help="Prepare servers for these batch sizes, separated by commas.")
]
StorageURI = Annotated[
    str | None,
    typer.Option(
        help="Let KServe load the model from this address, such as s3://bucket/folder. By "
        "default, from the persistent volume claim with the service's name."
    ),
]
Allow = Annotated[
    bool,
    typer.Option(
        "--allow-disagreement", help="Keep artifacts that exceed the limits of their target."
    ),
]


@options.app.command(rich_help_panel=options.EXPORT)
def export(
    model: options.ModelArgument,
    output: Annotated[Path, typer.Option(help="Write the artifacts to this directory.")],
    targets: Annotated[
        str,
        typer.Option(
            help="Export to these targets, separated by commas, or to all. By default, to "
            "saved_model, onnx and tflite-int8 (without --calibration, tflite-float32).",
            show_default=False,
        ),
    ] = "",
    calibration: Calibration = None,
    data: Data = None,
    labels: Labels = None,
    weights: options.Weights = None,
    keep_float: KeepFloat = None,
    batch_size: BatchSize = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    layout: Annotated[
        str, typer.Option(help="Give ONNX artifacts an input of this layout: NHWC or NCHW.")
    ] = "NHWC",
    saved_model_version: Annotated[
        int, typer.Option(min=1, help="Give the SavedModel this version number, for servers.")
    ] = 1,
    serving_batch_sizes: Serving = "1,4,16",
    storage_uri: StorageURI = None,
    allow_disagreement: Allow = False,
    batch: options.TimedBatches = "1",
    threads: options.Threads = "0",
    seconds: options.TimingSeconds = 1.0,
    seed: options.Seed = 0,
    validation_fraction: options.ValidationFraction = 0.1,
    max_bad_fraction: options.MaxBadFraction = 0.01,
    log_every: options.LogEvery = 60.0,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Export a model to files for servers and phones, each compared with Keras.

    After an interruption, run the same command again: it makes the missing artifacts only. The exit
    code is 1 if an artifact disagrees with Keras or cannot be made.
    """
    from keras_resnet.export.options import ExportOptions

    layers, sizes = tuple(keep_float or ()), parse_integers(serving_batch_sizes, 1)
    wanted = ExportOptions(batch_size, layers, layout, saved_model_version, sizes, storage_uri)
    batches, cores = parse_integers(batch, 1), parse_integers(threads, 0)
    names = checks.check_targets(targets) if targets else []
    checks.check_data(calibration, data)
    checks.check_file("labels", labels)
    check_writable(output)
    _refuse_number(version)
    fields = inputs.network_options(version, shortcut, net)
    network = _network(model, weights, fields, seed, labels)
    with quiet():
        from keras_resnet.export import Timing
    inputs.export_network(
        network,
        output,
        names,
        as_json,
        calibration=_data_config(calibration, validation_fraction, max_bad_fraction),
        images=_data_config(data, validation_fraction, max_bad_fraction),
        options=wanted,
        allow_disagreement=allow_disagreement,
        timing=Timing(batches, cores, seconds) if seconds else None,
        seed=seed,
        overwrite=overwrite,
    )


def _refuse_number(version: str | None) -> None:
    """Raise ValueError if `--version` is a number: that of a SavedModel has another option."""
    if version is not None and version.isdecimal():
        raise ValueError(
            "Expected `--version` to be that of the network: v1, v1.5 or v2. "
            f"Received: {version}. For a SavedModel, pass `--saved-model-version {version}`"
        )


def _network(
    model: str, weights: str | None, fields: dict[str, Any], seed: int, labels: Path | None
) -> keras.Model:
    """Return the network, with the class names of the file `labels` if there is one."""
    model = checks.check_model(model, weights, fields=fields)
    if labels is None:
        return inputs.load_network(model, weights, fields=fields, seed=seed)
    from keras_resnet.images.label_files import read_class_names

    names = read_class_names(labels)
    network = inputs.load_network(model, weights, fields=fields, seed=seed)
    from keras_resnet.models.info import set_class_names

    set_class_names(network, *names)
    return network


@options.app.command(rich_help_panel=options.EXPORT)
def verify(
    artifact: Annotated[
        str,
        typer.Argument(
            help="A .keras, .h5, .tflite or .onnx file, or the directory of a SavedModel."
        ),
    ],
    against: Annotated[
        str, typer.Option(help="Compare with this .keras file, or another artifact of the model.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Compare on validation images of this data source, such as folder:PATH. By "
            "default, on noise."
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Allow this difference of a probability, from 0 to 1. By default, that of the "
            "artifact's target.",
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Require this share of images with the same top-1 class, from 0 to 1. By default, "
            "that of the artifact's target, or else 0.98.",
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Allow this drop of the accuracy, from 0 to 1. By default, that of the artifact's "
            "target, or else 0.01.",
        ),
    ] = None,
    seed: options.Seed = 0,
    validation_fraction: options.ValidationFraction = 0.1,
    max_bad_fraction: options.MaxBadFraction = 0.01,
    pixels: options.Pixels = None,
    against_pixels: Annotated[
        str | None, typer.Option(help="The same as --pixels for the model of --against.")
    ] = None,
    trust: options.Trust = False,
    log_every: options.LogEvery = 60.0,
    as_json: options.AsJson = False,
) -> int:
    """Compare an artifact with its model. The exit code is 1 if they disagree."""
    limits = {"max_error": max_error, "min_agreement": min_agreement, "max_accuracy_drop": max_drop}
    given = {name: value for name, value in limits.items() if value is not None}
    checks.check_readable(artifact, against)
    checks.check_pixels(pixels)
    checks.check_pixels(against_pixels, "against_pixels")
    checks.check_data(data)
    with quiet():
        from keras_resnet.export import verify as run
        from keras_resnet.export.report.rows import not_measured_in_words

    images = _data_config(data, validation_fraction, max_bad_fraction)
    with progress_bar("Comparing", hidden=as_json, lines=0), quiet():
        row = run(
            artifact, against, images, limits=given, seed=seed, trust=trust,
            pixels=pixels, against_pixels=against_pixels,
        )  # fmt: skip
    found = row.comparison
    if as_json:
        more = {"images": data or "noise", "not_measured": found.not_measured}
        print_json({**dataclasses.asdict(row), **more})
        return 1 if row.disagreements else 0
    for note in row.notes:
        console.print(note)
    what = "images of noise" if data is None else "images"
    console.print(f"{found.images} {what}: largest error {found.max_error:.2g}")
    for words, share in (
        ("top-1 agreement", found.agreement),
        ("top-5 agreement", found.top5_agreement),
        ("accuracy", found.accuracy),
        ("accuracy of the model", found.keras_accuracy),
    ):
        if share is not None:
            console.print(f"{words}: {share:.2%}")
    console.print(f"mean cosine: {found.cosine:.6f}")
    missing = not_measured_in_words([row])
    agrees = f"What was measured agrees. {missing}" if missing else "It agrees."
    console.print("; ".join(row.disagreements) or agrees)
    if data is None:
        console.print(
            "Noise shows whether the arithmetic is right, but not how accurate an int8 artifact "
            "is. Pass --data with images like those the network will see."
        )
    return 1 if row.disagreements else 0


@options.app.command(rich_help_panel=options.EXPORT)
def benchmark(
    artifacts: Annotated[
        list[str],
        typer.Argument(
            help=".keras, .h5, .tflite and .onnx files, and directories of SavedModels."
        ),
    ],
    batch: options.TimedBatches = "1",
    threads: options.Threads = "0",
    seconds: Annotated[
        float,
        typer.Option(
            min=0.01,
            help="Time each artifact for this number of seconds at each batch size and number of "
            "threads.",
        ),
    ] = 3.0,
    size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Time images of this height and width, in pixels, where an artifact takes any "
            "size.",
        ),
    ] = 224,
    trust: options.Trust = False,
    log_every: options.LogEvery = 60.0,
    as_json: options.AsJson = False,
) -> int:
    """Measure the latency and memory of artifacts, in turns, relative to the first one.

    The exit code is 1 if an artifact could not be run.
    """
    batches, cores = parse_integers(batch, 1), parse_integers(threads, 0)
    checks.check_artifacts(*artifacts)
    with quiet():
        from keras_resnet.export import benchmark as run
    with progress_bar("Timing", hidden=as_json) as step:
        report = run(
            artifacts,
            batch_sizes=batches,
            threads=cores,
            seconds=seconds,
            size=size,
            trust=trust,
            progress=step,
        )
    options.print_report(report, as_json)
    if not as_json:
        for failure in report.failures:
            console.print(failure)
    return 1 if report.failures else 0


def _data_config(
    data: str | None, validation_fraction: float, max_bad_fraction: float
) -> DataConfig | None:
    """Return the configuration of a data source; None if there is no data."""
    if data is None:
        return None
    with quiet():
        from keras_resnet.data import DataConfig
    return DataConfig(
        data, validation_fraction=validation_fraction, max_bad_fraction=max_bad_fraction
    )
