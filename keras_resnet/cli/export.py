"""`keras-resnet export`, `verify` and `benchmark`: what leaves Keras, and whether it is good."""

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

Calibration = Annotated[str | None, typer.Option(help="Images for int8, e.g. folder:PATH.")]
Data = Annotated[
    str | None, typer.Option(help="Labelled images to verify on; by default of --calibration.")
]
Labels = Annotated[Path | None, typer.Option(help="File of class names: lines, CSV or JSON.")]
KeepFloat = Annotated[
    list[str] | None,
    typer.Option(
        "--keep-float", "--skip", help="A layer that int8 leaves in float; may be repeated."
    ),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="The only one of TFLite and ONNX.")]
Serving = Annotated[str, typer.Option(help="Batch sizes that servers prepare for.")]
StorageURI = Annotated[str | None, typer.Option(help="Where KServe finds the model: s3://…")]
Allow = Annotated[bool, typer.Option("--allow-disagreement", help="Keep what is out of limits.")]


@options.app.command(rich_help_panel=options.EXPORT)
def export(
    model: options.ModelArgument,
    output: Annotated[Path, typer.Option(help="Directory; the same again: do what is missing.")],
    targets: Annotated[str, typer.Option(help="Names separated by commas, or all.")] = "",
    calibration: Calibration = None,
    data: Data = None,
    labels: Labels = None,
    weights: options.Weights = None,
    keep_float: KeepFloat = None,
    batch_size: BatchSize = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    layout: Annotated[str, typer.Option(help="Of ONNX inputs: NHWC or NCHW.")] = "NHWC",
    saved_model_version: Annotated[
        int, typer.Option(min=1, help="Number of the SavedModel's version, for servers.")
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
    """Export a model to files for servers and phones; each is run and compared with Keras."""
    from keras_resnet.export.options import ExportOptions

    skipped, sizes = tuple(keep_float or ()), parse_integers(serving_batch_sizes, 1)
    wanted = ExportOptions(batch_size, skipped, layout, saved_model_version, sizes, storage_uri)
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
        calibration=_source(calibration, validation_fraction, max_bad_fraction),
        images=_source(data, validation_fraction, max_bad_fraction),
        options=wanted,
        allow_disagreement=allow_disagreement,
        timing=Timing(batches, cores, seconds) if seconds else None,
        seed=seed,
        overwrite=overwrite,
    )


def _refuse_number(version: str | None) -> None:
    """Refuses what was the version of a SavedModel, whose option has another name."""
    if version is not None and version.isdecimal():
        raise ValueError(
            "Expected `--version` of the network: v1, v1.5 or v2. "
            f"Received: {version}. A SavedModel's version is `--saved-model-version {version}`"
        )


def _network(
    model: str, weights: str | None, fields: dict[str, Any], seed: int, labels: Path | None
) -> keras.Model:
    """The network, with the class names of a file if there is one."""
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
        str, typer.Argument(help="A .keras, .h5, .tflite or .onnx file, or a SavedModel.")
    ],
    against: Annotated[str, typer.Option(help="The .keras file, or another artifact, of it.")],
    data: Annotated[str | None, typer.Option(help="Labelled images, e.g. folder:PATH.")] = None,
    max_error: Annotated[float | None, typer.Option(min=0, help="Of any probability.")] = None,
    min_agreement: Annotated[float | None, typer.Option(min=0, max=1, help="Top-1.")] = None,
    max_drop: Annotated[float | None, typer.Option(min=0, max=1, help="Of the accuracy.")] = None,
    seed: options.Seed = 0,
    validation_fraction: options.ValidationFraction = 0.1,
    max_bad_fraction: options.MaxBadFraction = 0.01,
    pixels: options.Pixels = None,
    against_pixels: Annotated[
        str | None, typer.Option(help="Likewise of the model of --against.")
    ] = None,
    trust: options.Trust = False,
    log_every: options.LogEvery = 60.0,
    as_json: options.AsJson = False,
) -> int:
    """Compare an artifact with the model that it is of (exit code 1: it disagrees)."""
    own = {"max_error": max_error, "min_agreement": min_agreement, "max_accuracy_drop": max_drop}
    given = {name: value for name, value in own.items() if value is not None}
    checks.check_readable(artifact, against)
    checks.check_pixels(pixels)
    checks.check_pixels(against_pixels, "against_pixels")
    checks.check_data(data)
    with quiet():
        from keras_resnet.export import verify as run
        from keras_resnet.export.report.rows import not_measured_in_words

    images = _source(data, validation_fraction, max_bad_fraction)
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
            "Noise shows whether the arithmetic is the same; int8 cannot be judged by it, as its "
            "errors depend on the images. Pass --data with images like those the network will see."
        )
    return 1 if row.disagreements else 0


@options.app.command(rich_help_panel=options.EXPORT)
def benchmark(
    artifacts: Annotated[list[str], typer.Argument(help="Files and SavedModel directories.")],
    batch: options.TimedBatches = "1",
    threads: options.Threads = "0",
    seconds: Annotated[float, typer.Option(min=0.01, help="Of each timing.")] = 3.0,
    size: Annotated[int, typer.Option(min=1, help="Of images, where any is taken.")] = 224,
    trust: options.Trust = False,
    log_every: options.LogEvery = 60.0,
    as_json: options.AsJson = False,
) -> int:
    """Time artifacts in turns, also those of others; ratios are to the first."""
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
        # A table is for figures.
        for failure in report.failures:
            console.print(failure)
    return 1 if report.failures else 0


def _source(
    data: str | None, validation_fraction: float, max_bad_fraction: float
) -> DataConfig | None:
    """Loaded with that part held out; None if there is no data."""
    if data is None:
        return None
    with quiet():
        from keras_resnet.data import DataConfig
    return DataConfig(
        data, validation_fraction=validation_fraction, max_bad_fraction=max_bad_fraction
    )
