"""`keras-resnet analyze`: explanations, and studies of the papers' claims."""

from __future__ import annotations

import typer

from keras_resnet.cli.options import USE, Group, app

analyze = typer.Typer(
    cls=Group,
    help="Explain predictions, and test the papers' claims about shortcuts, depth and gradients.",
    rich_markup_mode=None,
)
app.add_typer(analyze, name="analyze", rich_help_panel=USE)
