"""`keras-resnet data`: the commands `scan`, `prepare` and `benchmark`."""

from __future__ import annotations

import typer

from keras_resnet.cli.options import DATA, Group, app

data = typer.Typer(cls=Group, help="Scan, prepare and time image data sets.", rich_markup_mode=None)
app.add_typer(data, name="data", rich_help_panel=DATA)
