"""The rules of the source tree itself: imports, layers, sizes."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT

#: The layers, lowest first. A module may import from lower layers and from its own.
LAYERS = [
    {
        "config",
        "cores",
        "extras",
        "files",
        "graph",
        "image_formats",
        "images",
        "pages",
        "quiet",
        "terminal",
    },
    {"labels", "plan", "preprocessing", "table"},
    {"arguments"},
    {"model_info"},
    {"blocks", "model_input", "saving"},
    {"weights"},
    {"builder"},
    {"variants"},
    {"analysis", "checkpoints", "compression", "features"},
    {"embedding_files"},
    {"data", "embedding", "training"},
    {"export"},
    {"compression_report", "predictor"},
    {"compress"},
    {"__main__", "quickstart", "doctor", "cli"},
]
#: Imports that the layers would allow, but that would tie things together that have to stay apart.
FORBIDDEN = {("data", "training"), ("export", "training")}


def sources() -> Iterator[tuple[str, Path]]:
    """Every module of the package below `keras_resnet`, by dotted name."""
    for folder, prefix in ((ROOT / "keras_resnet", ""), (ROOT / "export", "export.")):
        for path in sorted(folder.rglob("*.py")):
            if folder / "export" not in path.parents:
                yield prefix + ".".join(path.relative_to(folder).with_suffix("").parts), path


def imported(path: Path) -> Iterator[str]:
    """Parts of this package that a module imports, as first names below `keras_resnet`."""
    for node in ast.walk(ast.parse(path.read_text())):
        # Relative imports would escape this walk.
        assert not (isinstance(node, ast.ImportFrom) and node.level), path
        if isinstance(node, ast.ImportFrom) and node.module == "keras_resnet":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras_resnet."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("keras_resnet.")
            )


def rank(part: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if part in layer)


@pytest.mark.parametrize(("module", "path"), [pair for pair in sources() if pair[0] != "__init__"])
def test_imports_point_one_way(module: str, path: Path) -> None:
    here = module.split(".")[0]
    known = set().union(*LAYERS)
    for part in imported(path):
        if part not in known:
            # `from keras_resnet import complexity`: the public names, which only the top may use.
            assert rank(here) == len(LAYERS) - 1, f"{module} imports the public name {part}"
            continue
        assert rank(part) <= rank(here), f"{module} imports {part}, which is above it"
        assert (here, part) not in FORBIDDEN, f"{module} imports {part}"


def test_every_module_is_in_a_layer_and_in_the_wheel() -> None:
    parts = {module.split(".")[0] for module, _ in sources()} - {"__init__"}
    assert parts == set().union(*LAYERS)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {".".join(("keras_resnet", *module.split(".")[:-1])) for module, _ in sources()}
    assert set(project["tool"]["setuptools"]["packages"]) == folders


def test_models_import_no_tensorflow() -> None:
    """The model part has to work under every Keras backend."""
    for module, path in sources():
        if module.split(".")[0] in {
            "config",
            "plan",
            "blocks",
            "builder",
            "variants",
            "analysis",
            "features",
            "graph",
            "saving",
            "weights",
            "checkpoints",
            "images",
            "labels",
            "model_info",
            "__init__",
        }:
            assert "tensorflow" not in path.read_text(), module


def test_only_public_keras_is_used() -> None:
    for module, path in sources():
        assert "keras.src" not in path.read_text(), module


def test_modules_and_functions_stay_small() -> None:
    for module, path in sources():
        text = path.read_text()
        assert text.count("\n") <= 400, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                docstring = len((ast.get_docstring(node) or "").splitlines())
                assert lines - docstring <= 60, f"{module}.{node.name}"


def test_constraints_pin_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or ("==" in line and "/" not in line and "@" not in line), line
