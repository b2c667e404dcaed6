"""`keras-resnet analyze`: the papers' claims, on networks of one's own."""

from __future__ import annotations

import typer

from keras_resnet.cli.options import USE, Group, app

analyze = typer.Typer(
    cls=Group,
    help="Show the papers' claims: degradation, shortcuts, lesions, responses, and more.",
    rich_markup_mode=None,
)
app.add_typer(analyze, name="analyze", rich_help_panel=USE)
