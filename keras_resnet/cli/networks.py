"""`keras-resnet list` and `info`: show the networks and their costs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_resnet.cli import inputs, options
from keras_resnet.cli.options import print_json
from keras_resnet.support.terminal import console, table

if TYPE_CHECKING:
    from keras_resnet.analysis.complexity import Complexity
    from keras_resnet.weights.registry import WeightsEntry


@options.app.command("list", rich_help_panel=options.DATA)
def list_command(
    pattern: Annotated[
        str, typer.Argument(help="A shell-style pattern of names, such as 'resnet*'.")
    ] = "*",
    as_json: options.AsJson = False,
) -> None:
    """List the networks with their depth, parameters, multiply-accumulates and top-1 accuracy."""
    from keras_resnet.analysis.complexity import complexity
    from keras_resnet.networks.table import VARIANTS, list_models, versions
    from keras_resnet.weights.registry import find_weights, list_weights

    names = list_models(pattern)
    if not names:
        raise ValueError(
            f"Expected a pattern that matches a network, such as 'resnet*'. Received: {pattern!r}"
        )
    costs = {name: complexity(VARIANTS[name]) for name in names}
    published = [entry for entry in map(find_weights, list_weights()) if not entry.config]
    # The weights that `weights="imagenet"` stands for, or else the first in the registry.
    shown = {entry.model: entry for entry in reversed(published)}
    shown |= {entry.model: entry for entry in published if entry.default}
    if as_json:
        rest = {
            name: {
                "versions": versions(name),
                "config": asdict(VARIANTS[name]),
                "weights": [entry.tag for entry in published if entry.model == name],
                "top1": shown[name].top1 if name in shown else None,
                "top1_weights": shown[name].tag if name in shown else None,
            }
            for name in names
        }
        print_json({name: {**asdict(cost), **rest[name]} for name, cost in costs.items()})
        return
    words = ("network", "versions", "block", "shortcut")
    figures = ("input", "depth", "parameters", "MACs", "top-1 %")
    optional = ("input", "block", "shortcut", "versions", "depth")
    rows = table((*words, *figures), left=4, optional=optional)
    for name, cost in costs.items():
        config = VARIANTS[name]
        words = (name, ", ".join(versions(name)), config.block, config.shortcut or "none")
        size = f"{config.default_size}x{config.default_size}"
        entry = shown.get(name)
        accuracy = f"{'* ' * _is_own(entry)}{entry.top1:.2f}" if entry else "–"
        rows.add_row(*words, size, str(cost.depth), *_costs(cost), accuracy)
    console.print(rows)
    console.print(
        "top-1: published accuracy of a network's weights on ImageNet, or on CIFAR-10 for networks "
        "of 32x32 images; –: there are no published weights. `keras-resnet weights` lists all "
        "weights."
    )
    for name in names:
        if name in shown and _is_own(shown[name]):
            console.print(f"* {name}: {shown[name].accuracy_source}.")


def _is_own(entry: WeightsEntry) -> bool:
    """Return whether the weights come with this package, which measured their accuracy itself."""
    return entry.download.packaged is not None


@options.app.command(rich_help_panel=options.DATA)
def info(
    name: Annotated[str, typer.Argument(help="The name of a network in `keras-resnet list`.")],
    version: options.Version = None,
    shortcut: options.Shortcut = None,
    net: options.Net = None,
    size: options.Size = None,
    classes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Show the network with this number of classes. By default, 1000, or 10 for a "
            "network of 32x32 images.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the network to this .png or .svg file. By default, do not draw."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Print a network's stages with their shapes and costs, as in Table 1 of the paper."""
    from keras_resnet.analysis.complexity import shortcut_counts, summarize, total
    from keras_resnet.networks.arguments import check_size
    from keras_resnet.networks.plan import plan
    from keras_resnet.networks.table import find_name, get_config

    name = find_name(name)
    config = get_config(name, **inputs.network_options(version, shortcut, net))
    network, side = plan(config), size or config.default_size
    check_size(network, (side, side))
    if plot is not None:
        from keras_resnet.analysis.diagram import draw

        draw(config, plot, name, (side, side, 3), classes)
    parts = summarize(config, (side, side, 3), classes)
    cost, shortcuts = total(parts), shortcut_counts(network)
    if as_json:
        found: dict[str, Any] = {"name": name, "config": asdict(config)}
        found["parts"] = [asdict(part) for part in parts]
        print_json({**found, "total": asdict(cost), "shortcuts": shortcuts})
        return
    console.print(f"{name}: version {config.version}, shortcut {config.shortcut or 'none'}")
    rows = table(("part", "layers", "output", "parameters", "MACs"), left=2, wrap=("layers",))
    for part in parts:
        shape = "x".join(str(length) for length in part.output_shape)
        rows.add_row(part.name, part.layers, shape, *_costs(part.complexity))
    rows.add_section()
    rows.add_row("total", f"{cost.depth} weighted layers", "", *_costs(cost))
    console.print(rows)
    counts = [f"{count} {kind.replace('_', '-')}" for kind, count in shortcuts.items() if count]
    console.print(
        f"Shortcuts: {', '.join(counts) or 'none'}. "
        f"BN statistics: {cost.bn_statistics:,} numbers, not trained."
    )
    if plot is not None:
        console.print(f"Drawn: {plot}")


def _costs(cost: Complexity) -> tuple[str, str]:
    return f"{cost.params:,}", f"{cost.macs / 1e6:,.1f} M"
