"""`keras-resnet evaluate`: metrics of classifiers on labeled images."""

from __future__ import annotations

import json
from collections.abc import Set
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from keras_resnet.cli import checks, inputs, options
from keras_resnet.cli.wording import in_options
from keras_resnet.evaluation.images import Split
from keras_resnet.images.protocol import Interpolation
from keras_resnet.support.checks import check_choice
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import complain, console, progress_bar

Models = Annotated[
    list[str] | None,
    typer.Argument(
        help="A .keras, .h5, .tflite or .onnx file, a SavedModel, a tag of `keras-resnet weights`, "
        "or a network with --weights; several are an ensemble."
    ),
]
Data = Annotated[
    str | None, typer.Option(help="Images with labels, e.g. digits, folder:PATH, csv:FILE.")
]
Protocol = Annotated[str, typer.Option(help="single, flip, ten-crop or multi-scale.")]
SplitName = Annotated[str, typer.Option(help="validation, test, train or all.")]
Resize = Annotated[int | None, typer.Option(min=1, help="Short side before cropping.")]
Crop = Annotated[int | None, typer.Option(min=1, help="Side of crops.")]
InterpolationName = Annotated[str | None, typer.Option(help="bilinear or bicubic.")]
Shares = Annotated[
    str | None, typer.Option(help="Weights of the models of an ensemble, separated by commas.")
]
Tags = Annotated[
    str | None, typer.Option(help="Instead of models: a pattern of tags, evaluated one by one.")
]
MatchNames = Annotated[
    bool, typer.Option("--match-names", help="Match the classes of data and model by name.")
]
Labels = Annotated[
    Path | None,
    typer.Option(help="File of correct classes: ImageNet-ReaL's real.json, the devkit, …"),
]
Output = Annotated[
    Path | None, typer.Option(help="Folder for evaluation.json and evaluation.html.")
]
Predictions = Annotated[
    Path | None, typer.Option(help="New file with a row per image: .csv or .parquet.")
]
Compare = Annotated[
    tuple[Path, Path] | None,
    typer.Option(help="Instead of models: two evaluation.json of the same images to compare."),
]


@options.app.command(rich_help_panel=options.USE)
def evaluate(
    context: typer.Context,
    models: Models = None,
    data: Data = None,
    protocol: Protocol = "single",
    split: SplitName = "validation",
    validation_fraction: options.ValidationFraction = 0.1,
    resize: Resize = None,
    crop: Crop = None,
    interpolation: InterpolationName = None,
    weights: options.Weights = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    ensemble_weights: Shares = None,
    tags: Tags = None,
    match_names: MatchNames = False,
    labels: Labels = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 32,
    output: Output = None,
    predictions: Predictions = None,
    compare: Compare = None,
    pixels: options.Pixels = None,
    trust: options.Trust = False,
    log_every: options.LogEvery = 60.0,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> int:
    """Measure accuracy, calibration and confusions (exit code 1: images could not be read)."""
    fields = inputs.network_options(version, shortcut, net)
    _check_together(models, data, tags, compare)
    if compare is not None:
        used = {"compare", "output", "overwrite", "as_json", "log_every"}
        _refuse("compare", context, context.params.keys() - used)
        return _compare(compare, output, overwrite, as_json)
    data = str(data)
    from keras_resnet.evaluation.views import check_protocol

    checked = check_protocol(protocol)
    check_choice("split", split, get_args(Split))
    check_choice("interpolation", interpolation, (None, *get_args(Interpolation)))
    checks.check_data(data)
    checks.check_pixels(pixels)
    checks.check_file("labels", labels)
    for model in models or ():
        checks.check_evaluated(model, weights, fields)
    keywords: dict[str, Any] = {
        "protocol": checked,
        "split": split,
        "validation_fraction": validation_fraction,
        "resize": resize,
        "crop": crop,
        "interpolation": interpolation,
        "match_names": match_names,
        "labels": labels,
        "batch_size": batch_size,
        "trust": trust,
        "pixels": pixels,
    }
    if tags is not None:
        single = {"weights", "ensemble_weights", "predictions", "version", "shortcut", "net"}
        _refuse("tags", context, single)
        return _evaluate_series(tags, data, output, overwrite, as_json, keywords)
    from keras_resnet.evaluation.save import check_folder, check_predictions

    if output is not None:
        check_folder(output, overwrite)
    if predictions is not None:
        check_predictions(predictions, overwrite)
    keywords |= {"weights": weights, "network": fields}
    if ensemble_weights is not None:
        keywords["ensemble_weights"] = _numbers(ensemble_weights)
    return _evaluate_one(models or [], data, output, predictions, as_json, keywords)


def _check_together(models: Any, data: str | None, tags: str | None, compare: Any) -> None:
    if compare is not None:
        if models or data or tags:
            raise ValueError(
                "Expected --compare without models, --data and --tags. Received: --compare and "
                f"{'models' if models else '--data' if data else '--tags'}"
            )
    elif data is None or bool(models) == bool(tags):
        raise ValueError(
            "Expected --data, and either models or --tags (or --compare with two files). Received: "
            f"data={data}, models={', '.join(models or ()) or None}, tags={tags}"
        )


def _refuse(option: str, context: typer.Context, ignored: Set[str]) -> None:
    """Raise ValueError if an option that `option` would ignore is given."""
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name in ignored and source is not None and source.name == "COMMANDLINE":
            value = context.params[parameter.name]
            raise ValueError(f"Expected --{option} without {parameter.opts[0]}. Received: {value}")


def _evaluate_one(
    models: list[str],
    data: str,
    output: Path | None,
    predictions: Path | None,
    as_json: bool,
    keywords: dict[str, Any],
) -> int:
    from keras_resnet.evaluation.save import save_evaluation, save_predictions

    report = _report(models if len(models) > 1 else models[0], data, as_json, keywords)
    if output is not None:
        save_evaluation(report, output, overwrite=True)
    if predictions is not None:
        save_predictions(report, predictions, overwrite=True)
    if as_json:
        options.print_json(report.to_dict())
    else:
        console.print(report.to_table())
        for note in report.notes:
            inputs.say(note)
        if output is not None:
            console.print(f"Report: {output / 'evaluation.html'} and {output / 'evaluation.json'}")
    return 1 if report.unreadable else 0


def _evaluate_series(
    pattern: str,
    data: str,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    keywords: dict[str, Any],
) -> int:
    """Evaluate published weights one by one, and print a table of all at the end."""
    from keras_resnet.weights.registry import list_weights

    tags = list_weights(pattern)
    if not tags:
        raise ValueError(
            f"Expected --tags to match tags of `keras-resnet weights`. Received: {pattern!r}"
        )
    with quiet():
        from keras_resnet.evaluation.member import WeightsError
        from keras_resnet.evaluation.save import save_evaluation
        from keras_resnet.evaluation.series import (
            check_series,
            save_series,
            series_row,
            series_table,
        )
    if output is not None:
        _check_series_output(tags, output, overwrite)
    names = ("split", "validation_fraction", "labels", "match_names")
    failed = check_series(tags, data, **{name: keywords[name] for name in names})
    rows: list[dict[str, Any]] = []
    bad = False
    try:
        for tag in tags:
            try:
                if tag in failed:
                    raise WeightsError(failed[tag])
                report = _report(tag, data, as_json, keywords)
            except WeightsError as error:
                # Continue with the other weights.
                reason = in_options(str(error))
                complain(f"{tag}: {reason}")
                rows.append({"weights": tag, "error": reason})
                bad = True
                continue
            bad |= bool(report.unreadable)
            if output is not None:
                save_evaluation(report, output / tag, overwrite=True)
            rows.append(series_row(tag, report))
    finally:
        # Saved even if an interruption or an error ends the series early.
        files = save_series(rows, output) if output is not None and rows else []
    if as_json:
        options.print_json(rows)
    else:
        console.print(series_table(rows))
        if files:
            console.print(f"Tables: {', '.join(map(str, files))}")
    return 1 if bad else 0


def _check_series_output(tags: list[str], output: Path, overwrite: bool) -> None:
    from keras_resnet.evaluation.save import check_folder
    from keras_resnet.evaluation.series import series_files
    from keras_resnet.support.files import check_new, check_writable

    for tag in tags:
        check_folder(output / tag, overwrite)
    for file in series_files(output):
        check_new(file, overwrite)
    check_writable(output)


def _report(models: Any, data: str, as_json: bool, keywords: dict[str, Any]) -> Any:
    with quiet():
        from keras_resnet.evaluation.loop import evaluate
    with progress_bar("evaluate", hidden=as_json, lines=10) as step:
        return evaluate(models, data, progress=step, **keywords)


def _compare(files: tuple[Path, Path], output: Path | None, overwrite: bool, as_json: bool) -> int:
    for file in files:
        checks.check_file("compare", file)
    from keras_resnet.evaluation.comparison import compare_evaluations
    from keras_resnet.support.files import check_new, whole_file
    from keras_resnet.support.json_text import load_json

    values = []
    for file in files:
        try:
            values.append(load_json(file))
        except ValueError as error:
            raise ValueError(
                f"Expected an `evaluation.json`. Received: {file} ({error})"
            ) from error
    found = compare_evaluations(*values)
    if output is not None:
        check_new(output / "comparison.json", overwrite)
        output.mkdir(parents=True, exist_ok=True)
        with whole_file(output / "comparison.json") as partial:
            partial.write_text(json.dumps(found.to_dict(), indent=2) + "\n", "utf-8")
    options.print_report(found, as_json)
    return 0


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"Expected numbers, separated by commas. Received: {text!r}") from None
