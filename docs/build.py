"""Build the documentation into `build/site`: write the pages of the reference, then run Zensical.

`make docs` runs it (`python -m docs.build`). Every warning is an error.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

from docs.messages import messages_page
from keras_resnet.analysis.complexity import complexity
from keras_resnet.networks.table import ROWS

DOCS = Path(__file__).parent
ROOT = DOCS.parent
#: Packages whose stub lists the public names.
PACKAGES = ("", "models", "data", "images", "training", "training.recipes", "training.optimizers")
PACKAGES += ("evaluation", "analysis", "compression", "export")


def public_names(package: str) -> list[str]:
    """Return the names that the stub of a package exports."""
    folder = "export" if package == "export" else f"keras_resnet/{package.replace('.', '/')}"
    tree = ast.parse((ROOT / folder / "__init__.pyi").read_text("utf-8"))
    # `from . import data as data` exports packages, which have pages of their own.
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return [alias.name for node in imports for alias in node.names]


def package_page(package: str) -> str:
    """Return the page of one package."""
    title = f"keras_resnet.{package}".rstrip(".")
    summary = (importlib.import_module(title).__doc__ or "").strip().splitlines()[0]
    lines = [f"# {title}", "", summary, ""]
    for name in public_names(package):
        if name not in ROWS:
            lines += [f"::: {title}.{name}", ""]
    if not package:
        lines[4:4] = ["The named networks are [listed separately](networks.md).", ""]
    return "\n".join(lines)


def networks_page() -> str:
    """Return the table of the named networks."""
    lines = [
        "# Named networks",
        "",
        "Every builder takes the arguments of [`keras_resnet.build`](keras_resnet.md) and, as",
        "further keywords, fields of `ResNetConfig`. Counts are of the default input size and",
        "number of classes; multiply-accumulates are of one image.",
        "",
        "| builder | name | depth | parameters | multiply-accumulates | input | classes |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, config in ROWS.items():
        cost, side = complexity(config), config.default_size
        lines.append(
            f"| `{name}` | `{name.lower()}` | {cost.depth} | {cost.params:,} | {cost.macs:,} "
            f"| {side} × {side} | {config.default_classes:,} |"
        )
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Return what Typer says about the commands."""
    command = [sys.executable, "-m", "typer", "keras_resnet.cli", "utils", "docs"]
    done = subprocess.run(
        [*command, "--name", "keras-resnet"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.replace("# `keras-resnet`", "# Commands", 1)


def main() -> int:
    """Write the pages of the reference and build the site. Return the exit code."""
    folder = DOCS / "reference"
    folder.mkdir(exist_ok=True)
    pages = {"networks": networks_page(), "commands": commands_page(), "messages": messages_page()}
    for package in PACKAGES:
        pages[package.rpartition(".")[2] or "keras_resnet"] = package_page(package)
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, "utf-8")
    # Zensical counts broken links; what is wrong with a docstring it only prints.
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    sys.stdout.write(done.stdout + done.stderr)
    site = ROOT / "build" / "site"
    # Tools and their caches lie beside the pages.
    for path in (*site.glob("*.py"), *site.glob("__pycache__/*")):
        path.unlink()
    # Where an example was to be shown.
    left = [page for page in site.rglob("*.html") if "--8" in page.read_text("utf-8")]
    sys.stdout.writelines(f"An example is missing on {page}\n" for page in left)
    return done.returncode or int(bool(left) or "griffe:" in done.stdout + done.stderr)


if __name__ == "__main__":
    sys.exit(main())
