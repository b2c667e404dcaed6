"""`keras-resnet weights` and `convert`: published checkpoints and files of weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from keras_resnet.cli import checks, inputs, options
from keras_resnet.cli.options import print_json
from keras_resnet.models.archive import check_model_file
from keras_resnet.support.checks import check_choice
from keras_resnet.support.files import check_new, check_writable, whole_file
from keras_resnet.support.quiet import quiet
from keras_resnet.support.terminal import console, print_lines, table
from keras_resnet.weights.mapping import TORCH_LAYOUTS, TorchDtype
from keras_resnet.weights.path_or_tag import check_file, is_path
from keras_resnet.weights.registry import find_weights, list_weights

if TYPE_CHECKING:
    import keras


@options.app.command(rich_help_panel=options.DATA)
def weights(
    pattern: Annotated[
        str, typer.Argument(help="Shell-style pattern, e.g. 'resnet50*' or 'timm/*'.")
    ] = "*",
    as_json: options.AsJson = False,
) -> None:
    """List the published checkpoints that `weights=` takes, with their accuracy and licence."""
    entries = [find_weights(tag) for tag in list_weights(pattern)]
    if not entries:
        raise ValueError(
            "Expected a pattern that matches a tag of weights, e.g. 'resnet50*'. "
            f"Received: {pattern!r}"
        )
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
        return
    columns = ("tag", "network", "licence", "crop", "top-1 %", "top-5 %")
    rows = table(columns, left=3, optional=("crop", "top-5 %", "network", "licence"))
    for entry in entries:
        top5 = "" if entry.top5 is None else f"{entry.top5:.2f}"
        words = (entry.tag + (" *" if entry.default else ""), entry.model, entry.license)
        rows.add_row(*words, str(entry.protocol.size), f"{entry.top1:.2f}", top5)
    console.print(rows)
    console.print('* what weights="imagenet" or "cifar10" stands for. Accuracies are as published.')


@options.app.command(rich_help_panel=options.EXPORT)
def convert(
    source: Annotated[str, typer.Argument(help="File of weights, or a tag of `weights`.")],
    output: Annotated[
        Path, typer.Option(help="New file: .keras, .weights.h5, or .safetensors for torch.")
    ],
    arch: Annotated[
        str | None,
        typer.Option(help="A network of `keras-resnet list`; by default what the file describes."),
    ] = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    size: options.Size = None,
    layout: Annotated[
        str | None, typer.Option(help="Names in a .safetensors file, e.g. transformers.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of a .safetensors file: float32, or float16 at half the size.")
    ] = "float32",
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Convert weights of torch, timm, transformers or keras.applications; say what was done."""
    if not output.name.endswith((".keras", ".weights.h5", ".safetensors")):
        raise ValueError(
            f"Expected `--output` with .keras, .weights.h5 or .safetensors. Received: {output}"
        )
    for option, given in (("--layout", layout is not None), ("--dtype", dtype != "float32")):
        if given and output.suffix != ".safetensors":
            raise ValueError(f"Expected `{option}` with a .safetensors file. Received: {output}")
    check_choice("layout", layout, (None, *TORCH_LAYOUTS))
    check_choice("dtype", dtype, get_args(TorchDtype))
    check_new(output, overwrite)
    check_writable(output.parent)
    keywords = inputs.network_options(version, shortcut, net)
    arch = None if arch is None else checks.check_network(arch, fields=keywords)
    if size is not None:
        keywords["input_shape"] = (size, size, None)
    whole_model = source.endswith(".keras")
    if whole_model and (keywords or arch is not None):
        raise ValueError(
            "Expected no `--arch`, `--size` or options of the network with a `.keras` file, which "
            f"is a whole model. Received: {source}"
        )
    if whole_model:
        check_model_file(Path(source))
    elif is_path(source):
        check_file(Path(source))
    else:
        find_weights(source)
    with quiet():
        from keras_resnet.models.saving import load_model
        from keras_resnet.networks.from_checkpoint import from_checkpoint
    model = load_model(source) if whole_model else from_checkpoint(source, network=arch, **keywords)
    _save(model, output, layout, dtype)
    if as_json:
        print_json({"output": str(output)} if whole_model else model.load_report.to_dict())
    elif whole_model:
        console.print(f"Written: {output}")
    else:
        print_lines(str(model.load_report))
        console.print(f"Written: {output}, a {model.name} with {model.count_params():,} numbers.")


def _save(model: keras.Model, output: Path, layout: str | None, dtype: str) -> None:
    from keras_resnet.weights.save import save_torch_state_dict

    if output.suffix == ".safetensors":
        save_torch_state_dict(model, output, layout, dtype)  # type: ignore[arg-type]
        return
    with whole_file(output) as partial:
        save = model.save if output.suffix == ".keras" else model.save_weights
        save(partial)
