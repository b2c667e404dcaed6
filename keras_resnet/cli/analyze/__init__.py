"""`keras-resnet analyze`: the papers' claims on a network of one's own."""

from __future__ import annotations

import typer

from keras_resnet.cli.options import USE, Group, app

analyze = typer.Typer(
    cls=Group,
    help="Show the papers' claims: lesions, responses, explanations, filters.",
    rich_markup_mode=None,
)
app.add_typer(analyze, name="analyze", rich_help_panel=USE)
