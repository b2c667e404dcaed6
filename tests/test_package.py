from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

import keras_resnet
from keras_resnet.support.extras import OPTIONAL, REQUIREMENTS, require

from .conftest import ROOT, Run


def test_public_names_exist_and_are_listed() -> None:
    for name in keras_resnet.__all__:
        assert getattr(keras_resnet, name).__doc__, name
        assert name in dir(keras_resnet)
    parts = (
        keras_resnet.compression,
        keras_resnet.data,
        keras_resnet.export,
        keras_resnet.models,
        keras_resnet.training,
    )
    for package in parts:
        for name in package.__all__:
            assert name in dir(package)
            assert getattr(package, name) is not None, name
    assert {"ResNet50", "complexity", "load_model"} <= set(keras_resnet.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'ResNet51'"):
        keras_resnet.ResNet51  # noqa: B018


def test_importing_the_package_imports_neither_keras_nor_tensorflow(
    run_new_python: Run,
) -> None:
    done = run_new_python(
        "import keras_resnet, sys; print('keras' in sys.modules, 'tensorflow' in sys.modules)"
    )
    assert done.stdout.strip() == "False False", done.stderr


def test_tables_and_the_commands_that_print_them_import_no_keras(
    tmp_path: Path, run_new_python: Run
) -> None:
    """Each command takes far less processor time than importing Keras does."""
    code = """
import contextlib, io, json, shlex, sys, time
import keras_resnet.data.config
from keras_resnet.networks.plan import plan
from keras_resnet.networks.table import VARIANTS
from keras_resnet.training import RECIPES
from keras_resnet.cli import main
plan(VARIANTS["resnet1202"])
assert keras_resnet.complexity(VARIANTS["resnet1202"]).depth == 1202
assert keras_resnet.list_models("resnet50*") and keras_resnet.list_weights("timm/*")
for package, name in [(keras_resnet, "ResNet51"), (keras_resnet.training, "trian")]:
    assert not hasattr(package, name)
measured = []
for line in sys.argv[1:]:
    sys.argv[1:] = shlex.split(line)
    start, output, code = time.process_time(), io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            code = end.code
    imported = sorted({"keras", "tensorflow"} & set(sys.modules))
    measured.append([line, code, len(output.getvalue()), time.process_time() - start, imported])
print(json.dumps(measured))
"""
    tables = [
        "list", "info resnet50", f"info resnet20 --plot {tmp_path / 'network.png'}", "weights",
        "recipes", "recipes he2015-imagenet", "doctor --quick", "--help", "--version",
        *(f"{name} --help" for name in ("train", "evaluate", "export", "analyze lesion", "data")),
    ]  # fmt: skip
    misspelt = ["info resnet51", "recipes goyal", "train --model resnet51 --data digits", "lst"]
    done = run_new_python(code, *tables, *misspelt)
    assert done.returncode == 0, done.stderr
    for line, code, printed, seconds, imported in json.loads(done.stdout):
        assert imported == [], line
        assert (code == 0 and printed > 10) if line in tables else code == 2, line
        assert seconds < 4, line
    assert (tmp_path / "network.png").is_file()


def test_building_a_network_touches_no_network(run_python: Run) -> None:
    code = """
import socket
def refuse(*arguments, **keywords):
    raise AssertionError("a connection was attempted")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
import keras_resnet
print(keras_resnet.ResNet50().count_params())
"""
    assert run_python(code).stdout.strip() == "25610152"


def test_abandoned_namesake_is_named_with_the_remedy(tmp_path: Path, run_new_python: Run) -> None:
    metadata = tmp_path / "keras_resnet-0.2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: keras-resnet\nVersion: 0.2.0\n"
    )
    done = run_new_python("import keras_resnet", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 1
    assert "`keras-resnet` 0.2.0 is installed" in done.stderr
    assert "pip uninstall -y keras-resnet keras-resnets" in done.stderr


def test_export_folder_refuses_to_be_imported_by_its_own_name(run_new_python: Run) -> None:
    done = run_new_python("import export", PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert "write `import keras_resnet.export` instead" in done.stderr


def test_missing_extra_is_one_sentence_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an extra, what else is missing is named with it, as pip calls it."""
    names: dict[str, list[str]] = {}
    for module, (extra, _) in OPTIONAL.items():
        monkeypatch.setitem(sys.modules, module, None)
        names.setdefault(extra, []).append(f"'{REQUIREMENTS[module]}'")
        with pytest.raises(ImportError, match=f"needs the package `{module}`") as raised:
            require(module)
        assert str(raised.value).endswith(f": run `pip install {' '.join(names[extra])}`.")


def test_requirements_are_those_of_the_extras() -> None:
    """A message names the packages: the name of this one may not be on the index."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for extra in ("export", "compression"):
        own = [REQUIREMENTS[name] for name, (of, _) in OPTIONAL.items() if of == extra]
        assert sorted(own) == sorted(extras[extra])
    for path in [*ROOT.glob("keras_resnet/**/*.py"), *ROOT.glob("export/**/*.py")]:
        assert not re.search(r"install[^\n]*keras-resnets\[", path.read_text()), path


def test_broken_package_is_not_reported_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tf2onnx.py").write_text("import something_else_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "tf2onnx", raising=False)
    with pytest.raises(ModuleNotFoundError, match="something_else_that_is_missing"):
        require("tf2onnx")
