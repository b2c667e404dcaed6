"""`keras-resnet export`, `verify` and `benchmark`: what leaves Keras, and whether it is good."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_resnet.cli import inputs, options
from keras_resnet.cli.options import parse_integers, print_json
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, progress_bar

if TYPE_CHECKING:
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


@options.app.command()
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
    layout: Annotated[str, typer.Option(help="Of ONNX inputs: NHWC or NCHW.")] = "NHWC",
    version: Annotated[int, typer.Option(min=1, help="Of the SavedModel, for servers.")] = 1,
    serving_batch_sizes: Serving = "1,4,16",
    storage_uri: StorageURI = None,
    allow_disagreement: Allow = False,
    batch: options.TimedBatches = "1",
    threads: options.Threads = "0",
    seconds: options.TimingSeconds = 1.0,
    seed: options.Seed = 0,
    validation_fraction: options.ValidationFraction = 0.1,
    max_bad_fraction: options.MaxBadFraction = 0.01,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Export a model to files for servers and phones; each is run and compared with Keras."""
    with quiet():
        from keras_resnet.export import ExportOptions, Timing
        from keras_resnet.images.label_files import read_class_names
        from keras_resnet.models.info import set_class_names
    wanted = ExportOptions(
        batch_size,
        tuple(keep_float or ()),
        layout,
        version,
        parse_integers(serving_batch_sizes, 1),
        storage_uri,
    )
    batches, cores = parse_integers(batch, 1), parse_integers(threads, 0)
    names = inputs.check_targets(targets) if targets else []
    network = inputs.load_network(model, weights, seed=seed)
    if labels is not None:
        set_class_names(network, *read_class_names(labels))
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


@options.app.command()
def verify(
    artifact: Annotated[
        str, typer.Argument(help="A .tflite, .onnx or .keras file, or a SavedModel.")
    ],
    against: Annotated[str, typer.Option(help="The .keras file, or another artifact, of it.")],
    data: Annotated[str | None, typer.Option(help="Labelled images, e.g. folder:PATH.")] = None,
    max_error: Annotated[float | None, typer.Option(help="Of any probability.")] = None,
    min_agreement: Annotated[float | None, typer.Option(help="Top-1, from 0 to 1.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Of the accuracy, from 0 to 1.")] = None,
    seed: options.Seed = 0,
    validation_fraction: options.ValidationFraction = 0.1,
    max_bad_fraction: options.MaxBadFraction = 0.01,
    pixels: options.Pixels = None,
    against_pixels: Annotated[
        str | None, typer.Option(help="Likewise of the model of --against.")
    ] = None,
    trust: options.Trust = False,
    as_json: options.AsJson = False,
) -> int:
    """Compare an artifact with the model that it is of (exit code 1: it disagrees)."""
    own = {"max_error": max_error, "min_agreement": min_agreement, "max_accuracy_drop": max_drop}
    given = {name: value for name, value in own.items() if value is not None}
    with quiet():
        from keras_resnet.export import verify as run
        from keras_resnet.export.report.rows import not_measured_in_words

        images = _source(data, validation_fraction, max_bad_fraction)
        row = run(
            artifact, against, images, limits=given, seed=seed, trust=trust,
            pixels=pixels, against_pixels=against_pixels,
        )  # fmt: skip
    found = row.comparison
    if as_json:
        note = {"images": data or "noise", "not_measured": found.not_measured}
        print_json({**dataclasses.asdict(row), **note})
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


@options.app.command()
def benchmark(
    artifacts: Annotated[list[str], typer.Argument(help="Files and SavedModel directories.")],
    batch: options.TimedBatches = "1",
    threads: options.Threads = "0",
    seconds: Annotated[float, typer.Option(min=0.01, help="Of each timing.")] = 3.0,
    size: Annotated[int, typer.Option(min=1, help="Of images, where any is taken.")] = 224,
    trust: options.Trust = False,
    as_json: options.AsJson = False,
) -> int:
    """Time artifacts in turns, also those of others; ratios are to the first."""
    with quiet():
        from keras_resnet.export import benchmark as run
    with progress_bar("Timing", hidden=as_json) as step:
        report = run(
            artifacts,
            batch_sizes=parse_integers(batch, 1),
            threads=parse_integers(threads, 0),
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
