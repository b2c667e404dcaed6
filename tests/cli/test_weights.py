"""`keras-resnet weights`, `convert` and `predict`."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import keras_resnet
from keras_resnet import ResNetConfig, build, from_checkpoint, load_model
from keras_resnet.export import export

from ..conftest import Command, randomize

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = [f"class {index}" for index in range(10)]


def test_weights_are_listed_with_what_they_are_good_for(command_in_process: Command) -> None:
    done = command_in_process("weights", "timm/resnet50.a1*")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines() if "timm/" in line]
    assert rows == [
        ["timm/resnet50.a1_in1k", "*", "resnet50", "Apache-2.0", "224", "80.38", "94.60"],
        ["timm/resnet50.a1h_in1k", "resnet50", "Apache-2.0", "224", "80.65", "95.31"],
    ]
    entries = json.loads(command_in_process("weights", "resnet20.*", "--json").stdout)
    entry, ours = entries
    assert entry["tag"] == "akamaster/resnet20.cifar10"
    assert (ours["tag"], ours["default"]) == ("keras_resnet/resnet20.cifar10_jpeg", True)
    assert entry["protocol"] == {"size": 32, "resize": 32, "interpolation": "bilinear"}
    assert entry["download"]["sha256"].startswith("12fca82f")


def test_convert_writes_keras_files_and_state_dicts(
    command_in_process: Command, tmp_path: Path
) -> None:
    source = FIXTURES / "timm_bottleneck_v15.safetensors"
    output = tmp_path / "deep" / "model.keras"
    done = command_in_process("convert", str(source), "--output", str(output), "--size", "64")
    assert done.returncode == 0, done.stderr
    assert "102 arrays into 41 layers, names of torchvision" in done.stdout
    assert "note     strides on the 3x3 of a bottleneck (v1.5)" in done.stdout
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    expected = from_checkpoint(source, input_shape=(64, 64, 3))(images)
    np.testing.assert_allclose(load_model(output)(images), expected, atol=1e-6)

    # And back, in the names of another package.
    back = tmp_path / "back.safetensors"
    arguments = ("--output", str(back), "--layout", "transformers", "--size", "64", "--json")
    weights = tmp_path / "model.weights.h5"
    command_in_process("convert", str(source), "--output", str(weights), "--size", "64")
    done = command_in_process("convert", str(weights), *arguments)
    report = json.loads(done.stdout)
    assert report["layout"] == "keras"
    assert report["missing"] == report["unexpected"] == []
    key = "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight"
    np.testing.assert_array_equal(load_file(back)[key], load_file(source)["layer1.0.conv1.weight"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--output", "x.onnx"],
            "Expected `--output` to end with .keras, .weights.h5 or .safetensors.",
        ),
        (["--output", "x.keras", "--layout", "akamaster"], "Expected `--layout` with a .safet"),
        (["--output", __file__], "Expected `--output` to end with"),
        (["--output", "x.keras", "--dtype", "float16"], "Expected `--dtype` with a .safet"),
        (["--output", "x.safetensors", "--dtype", "int8"], "Expected `--dtype` to be one of"),
        (["--output", "x.keras", "--arch", "resnet50"], "the same network as `resnet50`"),
        (
            ["--output", "x.keras", "--arch", "resnet51"],
            "Expected a network of `keras-resnet list`",
        ),
        (["--output", "x.safetensors", "--layout", "timm_resnetv2"], "the layout 'timm_resnetv2'"),
    ],
)
def test_impossible_conversions_are_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, command_in_process: Command
) -> None:
    source = str(FIXTURES / "timm_basic_v15.safetensors")
    output = str(tmp_path / arguments[1])
    done = command_in_process(
        "convert", source, "--output", output, *arguments[2:], "--size", "128"
    )
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_convert_replaces_a_file_only_if_told(tmp_path: Path, command_in_process: Command) -> None:
    source, output = FIXTURES / "timm_basic_v15.safetensors", tmp_path / "model.keras"
    output.write_text("mine")
    command = ["convert", str(source), "--output", str(output), "--size", "128"]
    done = command_in_process(*command)
    assert (done.returncode, output.read_text()) == (2, "mine")
    assert "Pass `--overwrite`" in done.stderr
    assert command_in_process(*command, "--overwrite").returncode == 0
    assert load_model(output).input_shape == (None, 128, 128, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_config: ResNetConfig) -> Path:
    """A model with named classes, its artifacts, and pictures of which one is broken."""
    root = tmp_path_factory.mktemp("predict")
    model = build(tiny_config, input_shape=(32, 32, 3))
    randomize(model)
    keras_resnet.set_class_names(model, NAMES)
    model.save(root / "model.keras")
    export(model, root, ("saved_model", "tflite-float32"), timing=None)
    pictures = root / "pictures"
    (pictures / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "more/c.webp"):
        image = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        image.resize((50, 40)).save(pictures / name)
    (pictures / "broken.jpg").write_bytes((pictures / "b.jpg").read_bytes()[:100])
    return root


@pytest.mark.parametrize("artifact", ["saved_model", "model-float32.tflite"])
def test_predict_names_what_is_on_pictures(
    artifact: str, folder: Path, command_in_process: Command
) -> None:
    pictures = folder / "pictures"
    done = command_in_process(
        "predict", str(folder / artifact), str(pictures), "--top", "2", "--json"
    )
    # The broken one is skipped and named; the others are predicted.
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert list(found["unreadable"]) == [str(pictures / "broken.jpg")]
    assert "1 of 4 images were skipped." in done.stderr
    assert str(pictures / "broken.jpg") in done.stderr
    files = [Path(row["file"]).name for row in found["predictions"]]
    assert files == ["a.png", "b.jpg", "c.webp"]
    predictor = keras_resnet.Predictor(folder / "model.keras")
    for row in found["predictions"]:
        (expected,) = predictor.classify(row["file"], top=2)
        assert [entry["name"] for entry in row["classes"]] == [name for _, name, _ in expected]
        np.testing.assert_allclose(
            [entry["probability"] for entry in row["classes"]],
            [probability for *_, probability in expected],
            atol=1e-4,
        )


def test_predict_skips_what_is_not_there(folder: Path, command_in_process: Command) -> None:
    pictures = folder / "pictures"
    paths = [str(pictures / name) for name in ("a.png", "missing.jpg")]
    done = command_in_process("predict", str(folder / "model.keras"), *paths, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [Path(row["file"]).name for row in found["predictions"]] == ["a.png"]
    assert list(found["unreadable"]) == [str(pictures / "missing.jpg")]
    assert "1 of 2 images were skipped." in done.stderr


def test_convert_takes_saved_models_to_torch(folder: Path, command_in_process: Command) -> None:
    output = folder / "model.safetensors"
    arguments = ["convert", str(folder / "model.keras"), "--output", str(output), "--json"]
    done = command_in_process(*arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"output": str(output)}
    model = from_checkpoint(output)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    expected = load_model(folder / "model.keras")(images)
    np.testing.assert_allclose(model(images), expected, atol=1e-6)
    assert keras_resnet.Predictor(model).class_names == tuple(NAMES)


@pytest.mark.full
def test_predict_prints_words(folder: Path, keras_resnet_command: Command) -> None:
    pattern = str(folder / "pictures" / "*.png")
    done = keras_resnet_command("predict", str(folder / "model.keras"), pattern, "--top", "3")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].endswith("a.png")
    assert len(lines) == 4
    assert all("%  class " in line for line in lines[1:])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["model.keras", "no-such-*.png"], "no-such-*.png"),
        (["none.keras", "pictures"], "Expected an existing `.keras`"),
        (["pictures/a.png", "pictures"], "Expected an existing `.keras`"),
    ],
)
def test_predict_refuses_in_one_sentence(
    arguments: list[str], sentence: str, folder: Path, command_in_process: Command
) -> None:
    paths = [str(folder / argument) for argument in arguments]
    done = command_in_process("predict", *paths)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_models_of_others_predict_too(
    tmp_path: Path, folder: Path, command_in_process: Command
) -> None:
    model = keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    )
    model.save(tmp_path / "other.keras")
    picture = str(folder / "pictures" / "a.png")
    done = command_in_process("predict", str(tmp_path / "other.keras"), picture, "--json")
    assert done.returncode == 0
    (row,) = json.loads(done.stdout)["predictions"]
    assert {entry["name"] for entry in row["classes"]} == {"0", "1", "2"}
