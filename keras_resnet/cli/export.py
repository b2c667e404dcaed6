"""`keras-resnet export`, `verify` and `benchmark`: what leaves Keras, and whether it is good."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.cli.options import AsJson, app, print_json
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, progress_bar

if TYPE_CHECKING:
    import keras

    from keras_resnet.data import DataConfig
    from keras_resnet.export import ExportReport

Model = Annotated[str, typer.Argument(help="A .keras file, or a network of `keras-resnet list`.")]
Output = Annotated[Path, typer.Option(help="Directory; the same again: do what is missing.")]
Targets = Annotated[str, typer.Option(help="Names separated by commas, or all.")]
Calibration = Annotated[str | None, typer.Option(help="Images for int8, e.g. folder:PATH.")]
Data = Annotated[
    str | None, typer.Option(help="Labelled images to verify on; by default of --calibration.")
]
Labels = Annotated[Path | None, typer.Option(help="Text file of class names, one per line.")]
Weights = Annotated[str | None, typer.Option(help="Of a network: a tag or a file.")]
KeepFloat = Annotated[list[str] | None, typer.Option(help="A layer that int8 leaves in float.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="The only one of TFLite and ONNX.")]
Layout = Annotated[str, typer.Option(help="Of ONNX inputs: NHWC or NCHW.")]
Version = Annotated[int, typer.Option(min=1, help="Of the SavedModel, for servers.")]
Serving = Annotated[str, typer.Option(help="Batch sizes that servers prepare for.")]
StorageURI = Annotated[str | None, typer.Option(help="Where KServe finds the model: s3://…")]
Allow = Annotated[bool, typer.Option("--allow-disagreement", help="Keep what is out of limits.")]
Batch = Annotated[str, typer.Option(help="Batch sizes to time, separated by commas.")]
Threads = Annotated[str, typer.Option(help="Numbers of threads to time; 0: all cores.")]
Seconds = Annotated[float, typer.Option(min=0, help="Of each timing; 0: no timing.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the choice among the images.")]
Fraction = Annotated[float, typer.Option(help="Of data without a validation part, as in training.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace other artifacts.")]


@app.command()
def export(
    model: Model,
    output: Output,
    targets: Targets = "",
    calibration: Calibration = None,
    data: Data = None,
    labels: Labels = None,
    weights: Weights = None,
    keep_float: KeepFloat = None,
    batch_size: BatchSize = None,
    layout: Layout = "NHWC",
    version: Version = 1,
    serving_batch_sizes: Serving = "1,4,16",
    storage_uri: StorageURI = None,
    allow_disagreement: Allow = False,
    batch: Batch = "1",
    threads: Threads = "0",
    seconds: Seconds = 1.0,
    seed: Seed = 0,
    validation_fraction: Fraction = 0.1,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Export a model to files for servers and phones; each is run and compared with Keras."""
    with quiet():
        from keras_resnet.export import ExportError, ExportOptions, Timing, export as run
    options = ExportOptions(
        batch_size,
        tuple(keep_float or ()),
        layout,
        version,
        _numbers(serving_batch_sizes, 1),
        storage_uri,
    )
    timing = Timing(_numbers(batch, 1), _numbers(threads, 0), seconds) if seconds else None
    network = keras_model(model, weights, labels, seed)
    with progress_bar("Exporting") as step:
        try:
            report = run(
                network,
                output,
                _targets(targets),
                calibration=_source(calibration, validation_fraction),
                images=_source(data, validation_fraction),
                options=options,
                allow_disagreement=allow_disagreement,
                timing=timing,
                seed=seed,
                overwrite=overwrite,
                progress=(lambda name, done: None) if as_json else step,
            )
            failure = None
        except ExportError as error:
            report, failure = error.report, error
    if as_json:
        print_json(report.to_dict())
    else:
        _show(report, output, is_random=weights is None and not model.endswith(".keras"))
    if failure is not None:
        raise failure


def _show(report: ExportReport, output: Path, is_random: bool) -> None:
    console.print(report.to_table())
    console.print(f"Report: {output / 'export.html'} and {output / 'export.json'}")
    if is_random:
        console.print("The weights are random ones: to export trained ones, pass --weights.")


@app.command()
def verify(
    artifact: Annotated[str, typer.Argument(help="A .tflite or .onnx file, or a SavedModel.")],
    against: Annotated[str, typer.Option(help="The .keras file, or another artifact, of it.")],
    data: Annotated[str | None, typer.Option(help="Labelled images, e.g. folder:PATH.")] = None,
    max_error: Annotated[float | None, typer.Option(help="Of any probability.")] = None,
    min_agreement: Annotated[float | None, typer.Option(help="Top-1, from 0 to 1.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Of the accuracy, from 0 to 1.")] = None,
    seed: Seed = 0,
    validation_fraction: Fraction = 0.1,
    as_json: AsJson = False,
) -> int:
    """Compare an artifact with the model that it is of (exit code 1: it disagrees)."""
    with quiet():
        from keras_resnet.export import limits_of, verify as run
    own = {"max_error": max_error, "min_agreement": min_agreement, "max_accuracy_drop": max_drop}
    given = {name: value for name, value in own.items() if value is not None}
    with quiet():
        # What is not given stays as the artifact's target has it.
        limits = dataclasses.replace(limits_of(artifact), **given)
        images = _source(data, validation_fraction)
        row = run(artifact, against, images, limits=limits, seed=seed)
    if as_json:
        print_json(dataclasses.asdict(row))
        return 1 if row.disagreements else 0
    found = row.comparison
    console.print(f"{found.images} images: largest error {found.max_error:.2g}")
    for words, share in (
        ("top-1 agreement", found.agreement),
        ("top-5 agreement", found.top5_agreement),
        ("accuracy", found.accuracy),
        ("accuracy of the model", found.keras_accuracy),
    ):
        if share is not None:
            console.print(f"{words}: {share:.2%}")
    console.print(f"mean cosine: {found.cosine:.6f}")
    console.print("; ".join(row.disagreements) or "It agrees.")
    return 1 if row.disagreements else 0


@app.command()
def benchmark(
    artifacts: Annotated[list[str], typer.Argument(help="Files and SavedModel directories.")],
    batch: Batch = "1",
    threads: Threads = "0",
    seconds: Annotated[float, typer.Option(min=0.01, help="Of each timing.")] = 3.0,
    size: Annotated[int, typer.Option(min=1, help="Of images, where any is taken.")] = 224,
    as_json: AsJson = False,
) -> int:
    """Time artifacts in turns, also those of others; ratios are to the first."""
    with quiet():
        from keras_resnet.export import benchmark as run
    with progress_bar("Timing") as step:
        report = run(
            artifacts,
            batch_sizes=_numbers(batch, 1),
            threads=_numbers(threads, 0),
            seconds=seconds,
            size=size,
            progress=(lambda name, done: None) if as_json else step,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        console.print(report.to_table())
    return 1 if any(row.error for row in report.measurements) else 0


def _targets(text: str) -> list[str] | None:
    with quiet():
        from keras_resnet.export import TARGETS
    names = [name.strip() for name in text.split(",") if name.strip()]
    return (list(TARGETS) if names == ["all"] else names) or None


def _source(data: str | None, validation_fraction: float) -> DataConfig | None:
    """Loaded with that part held out; None if there is no data."""
    if data is None:
        return None
    with quiet():
        from keras_resnet.data import DataConfig
    return DataConfig(data, validation_fraction=validation_fraction)


def _numbers(text: str, least: int) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least:
        raise ValueError(
            f"Expected integers of at least {least}, separated by commas. Received: {text!r}"
        )
    return numbers


def keras_model(
    model: str, weights: str | None, labels: Path | None = None, seed: int = 0
) -> keras.Model:
    """A `.keras` file, or a network by name; without weights it has the random ones of `seed`."""
    with quiet():
        import keras

        from keras_resnet.models.info import set_class_names
        from keras_resnet.models.saving import load_model
        from keras_resnet.networks.builders import create_model
    if model.endswith(".keras"):
        if weights is not None:
            raise ValueError(
                "Expected no `--weights` with a `.keras` file, which has its own. "
                f"Received: --weights {weights}"
            )
        network = load_model(model, compile=False)
    else:
        if weights is None:
            # The same ones every time, so that an export that was interrupted goes on.
            keras.utils.set_random_seed(seed)
        keywords: dict[str, Any] = {"weights": weights}
        network = create_model(model, **keywords)
    if labels is not None:
        set_class_names(network, labels.read_text("utf-8").splitlines())
    return network
