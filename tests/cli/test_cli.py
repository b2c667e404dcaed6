"""The command as a user runs it, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import keras_resnet
from keras_resnet.jobs import doctor
from keras_resnet.support.extras import OPTIONAL

from ..conftest import Command, Run


def test_list_shows_every_network_with_its_cost(
    installed_command: Command, command_in_process: Command
) -> None:
    done = installed_command("list")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines()[3:] if line.strip()]
    # Without a terminal, no column is left out.
    captions = [line for line in lines if line.startswith(("top-1: ", "* "))]
    rows = {line.split()[0]: line for line in lines if line not in captions}
    assert list(rows) == keras_resnet.list_models()
    assert "`keras-resnet weights` lists all weights." in " ".join(captions)
    assert rows["resnet50c"].split()[-1] == "78.02"
    assert rows["plainnet18"].split()[-1] == "–"
    assert rows["resnet50"].split() == [
        "resnet50",
        "v1.5,",
        "v1,",
        "v2",
        "bottleneck",
        "B",
        "224x224",
        "50",
        "25,557,032",
        "4,089.2",
        "M",
        "80.38",
    ]
    data = json.loads(command_in_process("list", "resnet5*", "--json").stdout)
    assert {"resnet50", "resnet50v2", "resnet50d", "resnet56"} <= set(data)
    assert data["resnet50v2"]["versions"] == ["v2", "v1", "v1.5"]
    assert data["resnet50v2"]["config"]["block"] == "bottleneck"
    assert data["resnet50"]["macs"] == 4_089_184_256
    assert "torchvision/resnet50.IMAGENET1K_V2" in data["resnet50"]["weights"]
    # It is published as a variant of this network, which it is not.
    assert "timm/resnet26.bt_in1k" not in data["resnet50"]["weights"]


def test_info_prints_the_stages_as_table_1_does(command_in_process: Command) -> None:
    done = command_in_process("info", "resnet34", "--version", "v1", "--shortcut", "C")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "conv4_x [3x3, 256 · 3x3, 256] × 6 14x14x256 7,152,640 1,400.1 M" in lines
    assert "total 34 weighted layers 22,716,840 3,830.7 M" in lines
    assert "Shortcuts: 16 projection. BN statistics: 22,784 numbers, not trained." in lines
    plain = json.loads(
        command_in_process(
            "info", "resnet20", "--shortcut", "none", "--size", "64", "--classes", "5", "--json"
        ).stdout
    )
    assert plain["shortcuts"] == {"identity": 0, "projection": 0, "zero_padded": 0}
    assert plain["parts"][-2]["output_shape"] == [16, 16, 64]
    assert plain["parts"][-1]["output_shape"] == [5]


def test_info_takes_any_field_and_draws_the_network(
    command_in_process: Command, tmp_path: Path
) -> None:
    settings = {
        "version": "v2",
        "stem": "C",
        "width": "0.5",
        "blur_pool": "true",
        "output_stride": "16",
        "shortcut": "C",
        "stem_filters": "null",
    }
    picture = tmp_path / "deep" / "network.svg"
    done = command_in_process(
        "info",
        "resnet50",
        *(word for field, value in settings.items() for word in ("--net", f"{field}={value}")),
        "--plot",
        str(picture),
        "--json",
    )
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert data["config"]["output_stride"] == 16
    assert data["shortcuts"] == {"identity": 0, "projection": 16, "zero_padded": 0}
    assert data["parts"][-2]["output_shape"] == [14, 14, 1024]
    assert picture.read_text().startswith("<?xml")
    assert [path.name for path in picture.parent.iterdir()] == ["network.svg"]


def test_doctor_names_versions_devices_and_what_is_missing(
    command_in_process: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command_in_process("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["backend"] == "tensorflow"
    assert "CPU:0" in found["devices"]
    assert set(found["optional"]) == set(OPTIONAL)
    assert all(details["version"] for details in found["optional"].values())
    # The same where a package is missing: nothing of that name can be found.
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "tf2onnx" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    lines = command_in_process("doctor").stdout.splitlines()
    (missing,) = [line for line in lines if "tf2onnx" in line]
    assert missing.split(maxsplit=1)[1] == (
        "missing, so not available: writing ONNX; pip install 'tf2onnx>=1.17'"
    )
    assert [
        line for line in lines if "onnxruntime" in line and "for running and verifying ONNX" in line
    ]
    assert [line.split()[0] for line in lines if line.startswith(("backend", "devices"))]
    quick = command_in_process("doctor", "--quick")
    rest = [line for line in lines if not line.startswith(("backend", "devices"))]
    assert (quick.returncode, quick.stdout.splitlines()) == (0, rest)


def test_doctor_finds_the_version_of_an_optional_package_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As onnxruntime-gpu brings `onnxruntime`."""
    metadata = tmp_path / "other_name-7.5.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other-name\nVersion: 7.5\n")
    (metadata / "top_level.txt").write_text("my_onnx\n")
    (tmp_path / "my_onnx.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "OPTIONAL", {"my_onnx": ("export", "writing ONNX")})
    monkeypatch.setattr(doctor, "REQUIREMENTS", {"my_onnx": "no-such-name>=1"})
    monkeypatch.setattr(doctor, "pip_line", lambda module: "")
    assert doctor.diagnose(quick=True)["optional"]["my_onnx"]["version"] == "7.5"


def test_no_command_shows_the_commands(keras_resnet_command: Command) -> None:
    done = keras_resnet_command()
    assert done.returncode == 2
    for name in ("quickstart", "list", "info", "doctor"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["teleport"], "No such command 'teleport'."),
        (["info"], "Missing argument"),
        (
            ["list", "vgg*"],
            "Expected a pattern that matches a network, such as 'resnet*'. Received: 'vgg*'.",
        ),
        (["info", "resnet50", "--shortcut", "Z"], "Expected `--shortcut` to be one of"),
        (["info", "resnet50", "--size", "16"], "Expected images of at least 17x17 pixels"),
        (["info", "plainnet34", "--shortcut", "C"], "Use `resnet34` for a network with shortcuts."),
        (["info", "resnet50", "--net", "width"], "Expected `--net FIELD=VALUE`."),
        (["info", "resnet50", "--net", "dept=7"], "Received: dept."),
        (["info", "resnet50", "--net", "name=foo"], "Received: name."),
        (["info", "resnet50", "--set", "version=v1"], "No such option: --set. Did you mean --net?"),
        (["info", "resnet50", "--net", "norm=group", "--net", "norm_groups=7"], "norm_groups=7"),
        (["info", "resnet50", "--plot", "network.pdf"], "ends in .png or .svg."),
        (["quickstart", "--epochs", "0"], "Invalid value for '--epochs'"),
        (["quickstart", "--seed", "-1"], "Invalid value for '--seed'"),
        (["weights", "vgg*"], "Expected a pattern that matches a tag of weights"),
        (["predict", "none.keras", "none.png"], "none.png"),
        (["convert", "none.pth", "--output", "x.keras"], "existing weights file"),
    ],
)
def test_bad_arguments_are_one_sentence_and_code_2(
    arguments: list[str], sentence: str, command_in_process: Command
) -> None:
    done = command_in_process(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("keras-resnet: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_bad_arguments_of_a_new_process(installed_command: Command) -> None:
    done = installed_command("info", "resnet50", "--shortcut", "Z")
    assert done.returncode == 2
    assert done.stderr.startswith("keras-resnet: Expected `--shortcut` to be one of")
    assert done.stderr.count("\n") == 1


def test_output_that_cannot_be_written_is_one_sentence(
    keras_resnet_command: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    done = keras_resnet_command("quickstart", "--output", str(tmp_path / "file"))
    assert done.returncode == 2
    assert "Expected a directory that can be written to. Received: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "x"


def test_missing_extra_stops_the_quickstart_before_it_trains(
    command_in_process: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    done = command_in_process("quickstart", "--output", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "keras-resnet: Running and verifying TFLite needs the package `ai_edge_litert`, which is "
        "not installed: run `pip install 'ai-edge-litert>=2.1'`.\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_doctor_survives_a_broken_backend(installed_command: Command) -> None:
    done = installed_command("doctor", KERAS_BACKEND="no_such_backend")
    assert done.returncode == 1
    assert "tensorflow-datasets" in done.stdout
    assert "Keras cannot be imported: " in done.stderr.splitlines()[-1]


def test_warnings_are_one_line(keras_resnet_command: Command) -> None:
    done = keras_resnet_command("info", "resnet50", "--size", "64")
    assert done.returncode == 0
    assert done.stderr.startswith("keras-resnet: The last stage sees 64x64 images as 2x2 positions")
    assert done.stderr.count("\n") == 1


def test_terminal_without_unicode_still_gets_its_table(run_python: Run) -> None:
    done = run_python(
        "import sys; from keras_resnet.cli import main; sys.stdout.reconfigure(encoding='ascii'); "
        "main()",
        *("info", "resnet20"),
    )
    assert done.returncode == 0
    assert "269,722" in done.stdout


def test_traceback_is_shown_on_request(keras_resnet_command: Command) -> None:
    done = keras_resnet_command("info", "resnet51", KERAS_RESNET_TRACEBACK="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
