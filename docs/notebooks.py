"""Run the notebooks of `examples/notebooks`."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in an empty folder and return it with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    place = folder / path.parent.relative_to(ROOT)
    place.mkdir(parents=True, exist_ok=True)
    # What the notebooks read beside the package.
    (folder / "docs").symlink_to(ROOT / "docs")
    # A kernel is a new interpreter: it imports the package from here, wherever that is.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(place)}}
    )
    client.execute(env=environment)
    return cleaned(notebook)


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what differs between machines: times, the version of Python, and standard error."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = plain(cell.outputs)
    return notebook


def plain(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return outputs as text and pictures; texts that follow each other are one."""
    found: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        picture = output.get("data", {}).get("image/png")
        if picture is not None:
            found.append(nbformat.v4.new_output("display_data", {"image/png": picture}))
            continue
        text = output.text if output.output_type == "stream" else output.data["text/plain"]
        if found and found[-1].output_type == "stream":
            found[-1].text += text
        else:
            found.append(nbformat.v4.new_output("stream", name="stdout", text=text))
    return found
