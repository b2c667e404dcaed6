"""`keras-resnet weights` and `convert`: list published checkpoints, and convert weights."""

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
        str,
        typer.Argument(help="A shell-style pattern of tags, such as 'resnet50*' or 'timm/*'."),
    ] = "*",
    as_json: options.AsJson = False,
) -> None:
    """List the published checkpoints that `weights=` takes, with their accuracy and license."""
    entries = [find_weights(tag) for tag in list_weights(pattern)]
    if not entries:
        raise ValueError(
            "Expected a pattern that matches a tag of weights, such as 'resnet50*'. "
            f"Received: {pattern!r}"
        )
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
        return
    columns = ("tag", "network", "license", "crop", "top-1 %", "top-5 %")
    rows = table(columns, left=3, optional=("crop", "top-5 %", "network", "license"))
    for entry in entries:
        top5 = "" if entry.top5 is None else f"{entry.top5:.2f}"
        words = (entry.tag + (" *" if entry.default else ""), entry.model, entry.license)
        rows.add_row(*words, str(entry.protocol.size), f"{entry.top1:.2f}", top5)
    console.print(rows)
    console.print('*: the weights of weights="imagenet" or "cifar10". Accuracies are as published.')


@options.app.command(rich_help_panel=options.EXPORT)
def convert(
    weights: Annotated[
        str, typer.Argument(help="A file with weights, or a tag in `keras-resnet weights`.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Write to this new file: .keras, .weights.h5, or .safetensors for torch."
        ),
    ],
    arch: Annotated[
        str | None,
        typer.Option(
            help="Build the network of this name in `keras-resnet list`. By default, the network "
            "that the file describes."
        ),
    ] = None,
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    size: options.Size = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Name the weights in a .safetensors file as this package does: torchvision, "
            "timm_resnetv2, transformers or akamaster. By default, timm_resnetv2 for v2 networks, "
            "else torchvision."
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Write a .safetensors file in float32, or in float16.")
    ] = "float32",
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Convert weights of torchvision, timm, transformers or keras.applications."""
    if not output.name.endswith((".keras", ".weights.h5", ".safetensors")):
        raise ValueError(
            "Expected `--output` to end with .keras, .weights.h5 or .safetensors. "
            f"Received: {output}"
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
    whole_model = weights.endswith(".keras")
    if whole_model and (keywords or arch is not None):
        raise ValueError(
            "Expected a `.keras` file, which is a whole model, without `--arch`, `--size` and "
            f"options of the network. Received: {weights} with some of these"
        )
    if whole_model:
        check_model_file(Path(weights))
    elif is_path(weights):
        check_file(Path(weights))
    else:
        find_weights(weights)
    with quiet():
        from keras_resnet.models.saving import load_model
        from keras_resnet.networks.from_checkpoint import from_checkpoint
    if whole_model:
        model = load_model(weights)
    else:
        model = from_checkpoint(weights, network=arch, **keywords)
    _save(model, output, layout, dtype)
    if as_json:
        print_json({"output": str(output)} if whole_model else model.load_report.to_dict())
    elif whole_model:
        console.print(f"Written: {output}")
    else:
        print_lines(str(model.load_report))
        console.print(f"Written: {output}, {model.name} with {model.count_params():,} weights.")


def _save(model: keras.Model, output: Path, layout: str | None, dtype: str) -> None:
    from keras_resnet.weights.save import save_torch_state_dict

    if output.suffix == ".safetensors":
        save_torch_state_dict(model, output, layout, dtype)  # type: ignore[arg-type]
        return
    with whole_file(output) as partial:
        save = model.save if output.suffix == ".keras" else model.save_weights
        save(partial)
