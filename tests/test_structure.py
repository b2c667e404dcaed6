"""The rules of the source tree itself: imports, layers, sizes."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT

#: The layers, lowest first, as packages and modules below `keras_resnet`; the longest name counts.
#: A module may import from lower layers and from its own.
LAYERS = [
    {"support"},
    {"images"},
    {"networks"},
    {"models"},
    {"weights"},
    # With `weights=`, they load some; or they make models that know how images are prepared.
    {"networks.builder", "networks.builders", "networks.features", "networks.from_checkpoint"},
    {"analysis", "compression"},
    {"data", "training"},
    {"export"},
    # They run whole models on whole data sets.
    {"jobs", "evaluation", "analysis.studies"},
    {"cli", "__main__"},
]
#: Imports that the layers would allow, but that would tie things together that have to stay apart.
FORBIDDEN = {
    ("analysis", "compression"),
    ("compression", "analysis"),
    ("data", "training"),
    ("export", "training"),
}
#: What builds networks and loads weights: it has to work under every Keras backend.
WITHOUT_TENSORFLOW = {"analysis", "images", "models", "networks", "weights"}
#: The packages, and what else is in the folder. More than 18 are hard to take in.
ENTRIES = set().union(*LAYERS) - {
    "networks.builder",
    "networks.builders",
    "networks.features",
    "networks.from_checkpoint",
    "analysis.studies",
}


def sources() -> Iterator[tuple[str, Path]]:
    """Every module of the package below `keras_resnet`, by dotted name."""
    for folder, prefix in ((ROOT / "keras_resnet", ""), (ROOT / "export", "export.")):
        for path in sorted(folder.rglob("*.py")):
            if folder / "export" not in path.parents:
                name = prefix + ".".join(path.relative_to(folder).with_suffix("").parts)
                yield name.removesuffix(".__init__"), path


MODULES = dict(sources())


def imported(path: Path) -> Iterator[str]:
    """The modules of this package that a module imports, by their names below `keras_resnet`."""
    for node in ast.walk(ast.parse(path.read_text())):
        # Relative imports would escape this walk.
        assert not (isinstance(node, ast.ImportFrom) and node.level), path
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "keras_resnet":
            package = str(node.module).partition(".")[2]
            for alias in node.names:
                name = f"{package}.{alias.name}".lstrip(".")
                yield name if name in MODULES else package or name
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.partition(".")[2]
                for alias in node.names
                if alias.name.startswith("keras_resnet.")
            )


def rank(module: str) -> int:
    while True:
        for index, layer in enumerate(LAYERS):
            if module in layer:
                return index
        module, dot, _ = module.rpartition(".")
        assert dot, "it is in no layer"


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"__init__"}))
def test_imports_point_one_way(module: str) -> None:
    here = module.split(".")[0]
    for other in imported(MODULES[module]):
        if other == "__version__":
            continue
        assert other.split(".")[0] in ENTRIES, f"{module} imports the public name {other}"
        assert rank(other) <= rank(module), f"{module} imports {other}, which is above it"
        assert (here, other.split(".")[0]) not in FORBIDDEN, f"{module} imports {other}"


def test_the_package_is_read_in_a_minute() -> None:
    folder = ROOT / "keras_resnet"
    entries = {path.name for path in folder.iterdir()} - {"__pycache__"}
    modules = {"__init__.py", "__init__.pyi", "__main__.py", "py.typed"}
    assert entries == ENTRIES - {"__main__"} | modules
    assert len(entries) <= 18


def test_every_package_says_what_it_is_for_and_is_in_the_wheel() -> None:
    packages = {name: path for name, path in MODULES.items() if path.name == "__init__.py"}
    for name, path in packages.items():
        assert ast.get_docstring(ast.parse(path.read_text())), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = {f"keras_resnet.{name}" for name in packages} - {"keras_resnet.__init__"}
    assert set(project["tool"]["setuptools"]["packages"]) == listed | {"keras_resnet"}


def test_models_import_no_tensorflow() -> None:
    for module, path in MODULES.items():
        inside = module.split(".")[0] in WITHOUT_TENSORFLOW or module == "__init__"
        inside = inside and not module.startswith("analysis.studies")
        # `EvalTransform.graph` is made of TensorFlow's operations; it imports them.
        if inside and module != "images.protocol":
            assert "tensorflow" not in path.read_text(), module


def test_only_public_keras_is_used() -> None:
    for module, path in MODULES.items():
        assert "keras.src" not in path.read_text(), module


def test_modules_and_functions_stay_small() -> None:
    for module, path in MODULES.items():
        text = path.read_text()
        assert text.count("\n") <= 400, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                # The options of a command are declarations, and make no function hard to read.
                body = node.body[bool(ast.get_docstring(node)) :] or node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1
                assert lines <= 50, f"{module}.{node.name}"


def test_constraints_pin_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or ("==" in line and "/" not in line and "@" not in line), line
