"""`keras-resnet data benchmark`: the throughput of the input pipeline, and what limits training."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from keras_resnet.cli import checks, inputs, options
from keras_resnet.cli.data import data
from keras_resnet.support.checks import check_choice
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, progress_bar, table
from keras_resnet.training.devices.choices import Precision

if TYPE_CHECKING:
    from keras_resnet.data.check.benchmark import BenchmarkReport
    from keras_resnet.data.config import Augmentation

#: Augmentations that resize images, and so can antialias.
_RESIZING = ("he2015", "inception")


@data.command()
def benchmark(
    source: Annotated[
        str, typer.Argument(help="folder:PATH, tfrecord:GLOB, csv:FILE, tfds:NAME, synthetic, …")
    ],
    model: Annotated[
        str | None, typer.Option(help="A network of `keras-resnet list` to measure as well.")
    ] = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    augmentation: Annotated[
        str, typer.Option(help="none, cifar, he2015 or inception.")
    ] = "inception",
    size: Annotated[int, typer.Option(min=1, help="Image height and width.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per training step.")] = 64,
    seconds: Annotated[
        float,
        typer.Option(min=0.01, help="Length of each measurement; each is made three times."),
    ] = 5.0,
    antialias: Annotated[
        bool, typer.Option("--antialias", help="Antialias when images shrink.")
    ] = False,
    max_bad_fraction: options.MaxBadFraction = 0.01,
    dtype: Annotated[
        str | None, typer.Option(help="Dtype policy of the model, e.g. mixed_bfloat16.")
    ] = None,
    log_every: options.LogEvery = 60.0,
    as_json: options.AsJson = False,
) -> None:
    """Measure reading, decoding, the training pipeline and a model, and name the bottleneck."""
    if dtype is not None and model is None:
        raise ValueError(f"Expected `--dtype` with `--model`. Received: --dtype {dtype}")
    precisions = get_args(Precision)
    if dtype is not None:
        check_choice("dtype", dtype, (*precisions, *(f"mixed_{name}" for name in precisions[1:])))
    from keras_resnet.data.config import DataConfig
    from keras_resnet.data.sources.load import load_splits

    fields = inputs.network_options(version, shortcut, net)
    if model is not None:
        model = checks.check_network(model, fields=fields)
    elif fields:
        raise ValueError(f"Expected options of a network with `--model`. Received: {fields}")
    checks.check_data(source)
    config = DataConfig(
        source,
        size=size,
        augmentation=_augmentation(augmentation, antialias),
        max_bad_fraction=max_bad_fraction,
    )
    with quiet():
        from keras_resnet.data.check.benchmark import benchmark as measure
        from keras_resnet.networks.builders import create_model
    images = load_splits(config).train
    config = dataclasses.replace(config, batch_size=min(batch_size, len(images)))
    network = None
    if model is not None:
        shape, classes = (size, size, 3), len(images.class_names)
        network = create_model(model, input_shape=shape, classes=classes, dtype=dtype, **fields)
    with progress_bar("benchmark", hidden=as_json) as progress:
        result = measure(images, config, model=network, seconds=seconds, progress=progress)
    if as_json:
        settings = dataclasses.asdict(config)
        options.print_json({**settings, "model": model, "dtype": dtype, **result.to_dict()})
        return
    if config.batch_size < batch_size:
        console.print(f"Batches of {config.batch_size} images: {images.name} has no more.")
    _print(result)


def _augmentation(name: str, antialias: bool) -> Augmentation:
    from keras_resnet.data.config import AUGMENTATIONS

    check_choice("augmentation", name, tuple(AUGMENTATIONS))
    if antialias and name not in _RESIZING:
        raise ValueError(
            f"Expected `--antialias` with --augmentation {' or '.join(_RESIZING)}. Received: {name}"
        )
    return dataclasses.replace(AUGMENTATIONS[name], antialias=antialias)


def _print(result: BenchmarkReport) -> None:
    from keras_resnet.data.check.benchmark import format_rate

    rows = table(("component", "images/s", "per core"))
    for name, rate in result.images_per_second.items():
        per_core = result.per_core.get(name)
        rows.add_row(name, format_rate(rate), "" if per_core is None else format_rate(per_core))
    console.print(rows)
    console.print(f"Cores: {result.cores}")
    console.print(result.verdict)
