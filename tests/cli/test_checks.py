"""Names and paths are refused before TensorFlow is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT, Command, Run

TRAIN = ("--recipe", "quick-digits", "--output", "run")

COMPRESS = ("compress", "m.keras", "--data", "digits", "--output", "run")

EVALUATE = ("evaluate", "m.keras", "--data", "digits")

FINETUNE = ("--model", "m.keras", "--data", "digits", "--output", "run")

SAFETENSORS = ("--output", "x.safetensors")

RUN = ("--output", "run")

STUDY = ("m.keras", "--data", "digits", *RUN)

REFUSED = [
    (("train", "--model", "resnet51", "--data", "digits", *TRAIN), "Did you mean resnet56?"),
    (("train", "--model", "resnet20", "--data", "digit", *TRAIN), "Did you mean digits?"),
    (("train", "--model", "resnet20", "--data", "csv:none", *TRAIN), "with an existing path."),
    (
        ("train", "--model", "resnet20", "--data", "digits", "--recipe", "fintune", *TRAIN[2:]),
        "Did you mean finetune?",
    ),
    (
        ("train", "--model", "resnet20", "--data", "digits", *TRAIN, "--set", "lr=1"),
        "Did you mean optimizer.learning_rate?",
    ),
    (
        ("train", "--model", "resnet20", "--data", "digits", *TRAIN, "--shortcut", "Z"),
        "Expected `--shortcut` to be one of",
    ),
    (
        ("train", "--model", "resnet20", "--data", "digits", *TRAIN, "--strategy", "gpus"),
        "Did you mean gpu?",
    ),
    (
        ("train", "--model", "resnet20", "--data", "digits", *TRAIN, "--weights", "none.pth"),
        "Expected the path of an existing weights file",
    ),
    (
        ("train", "--model", "x.keras", "--data", "digits", *TRAIN),
        "run `keras-resnet finetune --model x.keras`; to start from its weights, pass `--model "
        "NAME --weights x.keras`.",
    ),
    (
        ("finetune", "--model", "x.keras", "--data", "digits", "--output", "run"),
        "Expected the path of an existing `.keras` or `.h5` file. Received: x.keras.",
    ),
    (
        ("finetune", "--model", "timm/resnet18.a1_in1k", "--data", "digits", "--output", "run"),
        "Pass resnet18 as the model, with `--weights timm/resnet18.a1_in1k`.",
    ),
    (
        ("find-rate", "--model", "resnet51", "--data", "digits", "--output", "run"),
        "Did you mean resnet56?",
    ),
    (
        ("compress", "x.keras", "--data", "digits", "--output", "run"),
        "Expected the path of an existing `.keras` or `.h5` file.",
    ),
    (
        ("export", "resnet20", "--output", "run", "--targets", "tflite"),
        "Did you mean tflite-float32, tflite-float16, tflite-dynamic, ",
    ),
    (
        ("export", "x.keras", "--output", "run"),
        "Expected the path of an existing `.keras` or `.h5` file.",
    ),
    (("export", "resnet20", "--output", "run", "--calibration", "folder:no"), "existing path."),
    (("verify", "x.onnx", "--against", "y.keras"), "Received: x.onnx."),
    (("benchmark", "x.onnx"), "Received: x.onnx."),
    (("evaluate", "resnet51", "--data", "digits"), "Did you mean resnet56?"),
    (("evaluate", "x.tflite", "--data", "digits"), "Received: x.tflite."),
    (("predict", "x.tflite", "none.png"), "Received: none.png, which names none."),
    (("embed", "x.keras", ".", "--output", "x.npz"), "an existing `.keras` or `.h5` file."),
    (("convert", "none.pth", "--output", "x.keras"), "an existing weights file"),
    (("convert", "resnet18.a1", "--output", "x.keras"), "Did you mean resnet18.a1_in1k?"),
    (
        ("analyze", "degradation", "--output", "run", "--data", "digit"),
        "Did you mean digits?",
    ),
    (
        ("analyze", "shortcuts", "--output", "run", "--recipe", "quick-digit"),
        "Did you mean quick-digits?",
    ),
    (
        ("analyze", "lesion", "resnet51", "--data", "digits", "--output", "run"),
        "Did you mean resnet56?",
    ),
    (("data", "scan", "foldr:x"), "Did you mean folder:PATH?"),
    (("data", "benchmark", "digits", "--model", "resnet51"), "Did you mean resnet56?"),
    (("data", "benchmark", "digits", "--augmentation", "inceptio"), "Did you mean inception?"),
    (("predict", "m.keras", "i.png", "--pixels", "imgnet"), "`--pixels` to be one of"),
    (("evaluate", "m.keras", "--data", "digits", "--pixels", "imgnet"), "Did you mean imagenet?"),
    (("embed", "m.keras", ".", "--output", "x.npz", "--pixels", "imgnet"), "mean imagenet?"),
    (("verify", "m.keras", "--against", "m.keras", "--pixels", "cafe"), "Did you mean caffe?"),
    (("verify", "m.keras", "--against", "m.keras", "--against-pixels", "u"), "`--against-pixels`"),
    ((*COMPRESS, "--engine", "tfmt"), "Did you mean tfmot?"),
    ((*COMPRESS, "--method", "qta"), "Expected `--method` among prune, cluster, qat"),
    ((*COMPRESS, "--method", "prune", "--pattern", "blok"), "Did you mean block?"),
    (("convert", "page.pth", "--output", "x.keras"), "page.pth: a web page"),
    (("convert", "page.keras", "--output", "x.safetensors"), "page.keras: a web page"),
    (("info", "resnet20", "--net", "num_classes=3"), "Received: num_classes. Pass `--classes`."),
    (("info", "resnet20", "--net", "x=3"), "`keras-resnet info NAME --json` shows all fields"),
    (
        ("train", "--model", "resnet20", "--data", "digits", *TRAIN, "--net", "num_classes=3"),
        "The data or the weights decide how many classes there are.",
    ),
    (
        ("train", "--model", "resnet20", "--data", "digits", *TRAIN, "--weights", "page.pth"),
        "page.pth: a web page",
    ),
    (("evaluate", "page.onnx", "--data", "digits"), "page.onnx: a web page"),
    (("predict", "page.onnx", "i.png"), "page.onnx: a web page"),
    (("predict", "i.png", "i.png"), "Received: i.png, which has another format."),
    (("embed", "page.onnx", ".", "--output", "x.npz"), "page.onnx: a web page"),
    (("verify", "page.onnx", "--against", "m.keras"), "page.onnx: a web page"),
    (("export", "page.keras", "--output", "run"), "page.keras: a web page"),
    (("info", "resnet51x"), "Expected a network of `keras-resnet list`."),
    ((*EVALUATE, "--split", "valdation"), "Did you mean validation?"),
    ((*EVALUATE, "--interpolation", "bicubik"), "Did you mean bicubic?"),
    ((*EVALUATE, "--labels", "no/real.json"), "`--labels` with an existing file."),
    ((*EVALUATE, "--output", "i.png/x"), "Expected a directory that can be written to."),
    ((*EVALUATE, "--predictions", "i.png/x.csv"), "that can be written to."),
    ((*EVALUATE, "--version", "v1"), "Received: --net version=v1."),
    (("evaluate", "resnet20", "--data", "digits", "--shortcut", "D"), "`--shortcut` to be one of"),
    (("evaluate", "mm.keras", "--data", "digits"), "Did you mean m.keras?"),
    (("convert", "w.pth", *SAFETENSORS, "--layout", "transformer"), "Did you mean transformers?"),
    (("convert", "w.pth", *SAFETENSORS, "--dtype", "fp16"), "Did you mean float16?"),
    (("convert", "w.pth", *SAFETENSORS, "--version", "v3"), "Expected `--version` to be one of"),
    (("convert", "ww.pth", *SAFETENSORS), "Did you mean w.pth?"),
    (("embed", "m.keras", ".", "--output", "x.npz", "--level", "c4"), "Did you mean C4?"),
    (("finetune", *FINETUNE, "--bn", "froze"), "Did you mean frozen?"),
    (("finetune", *FINETUNE, "--phases", "haed:3"), "Did you mean head?"),
    (("finetune", *FINETUNE[:-1], "i.png/run"), "that can be written to."),
    (("find-rate", *FINETUNE, "--freeze", "backbones"), "Did you mean backbone?"),
    (("find-rate", *FINETUNE[:-1], "i.png/run"), "that can be written to."),
    ((*COMPRESS[:-1], "i.png/run"), "that can be written to."),
    (("export", "m.keras", "--output", "i.png/run"), "that can be written to."),
    (("export", "m.keras", "--output", "run", "--labels", "no.txt"), "Received: no.txt."),
    (("quickstart", "--output", "i.png/run"), "that can be written to."),
    (
        ("train", "--model", "resnet20", "--data", "digits", *TRAIN[:-1], "i.png/run"),
        "that can be written to.",
    ),
    (
        ("train", "--model", "resnet20", "--data", "digits", *TRAIN, "--workers", "a"),
        "Expected `--workers` and `--worker-index` together.",
    ),
    (("analyze", "lesion", *STUDY, "--split", "tests"), "Did you mean test?"),
    (("analyze", "lesion", *STUDY, "--delete", "conv2"), "names of blocks, such as conv2_block1."),
    (("analyze", "responses", *STUDY, "--split", "tests"), "Did you mean test?"),
    (
        ("analyze", "responses", "resnet20", *STUDY[1:]),
        "Expected `--weights` with the name of a network",
    ),
    (("analyze", "filters", "resnet20", *RUN), "Expected `--weights` with the name of a network"),
    (("evaluate", "--tags", "none/*", "--data", "digits"), "Expected --tags to match"),
    (("evaluate", "--compare", "none.json", "none.json"), "`--compare` with an existing file."),
    (
        ("analyze", "explain", "m.keras", "i.png", *RUN, "--method", "oclusion"),
        "Did you mean occlusion?",
    ),
    (("analyze", "explain", "m.keras", "i.png", *RUN, "--level", "c5"), "Did you mean C5?"),
    (("analyze", "degradation", *RUN, "--set", "lr=1"), "mean optimizer.learning_rate?"),
    (("analyze", "shortcuts", *RUN, "--version", "v3"), "Expected `--version` to be one of"),
    (("analyze", "gradients", *RUN, "--net", "stem=C"), "without the fields that the study sets."),
    (("analyze", "gradients", *RUN, "--shortcut", "none"), "plain networks are always compared."),
    (
        ("data", "benchmark", "digits", "--model", "resnet20", "--dtype", "mixed_float61"),
        "Did you mean mixed_float16?",
    ),
    (("data", "prepare", "folder", "foldr:x", *RUN), "Did you mean folder:PATH?"),
    (("data", "prepare", "folder", "photo", *RUN), "Expected a source of images."),
    (("data", "prepare", "folder", "folder:photo", *RUN), "Did you mean photos?"),
    (("data", "prepare", "folder", "photos", "--output", "i.png/x"), "that can be written to."),
]

PROGRAM = """
import json, sys, time
from keras_resnet.cli import main
for arguments in json.loads(sys.stdin.read()):
    sys.argv = ["keras-resnet", *arguments]
    try:
        main()
    except SystemExit as end:
        print(end.code, sorted({"tensorflow", "keras", "sklearn"} & {*sys.modules}))
        print("----", file=sys.stderr)
print(time.process_time())
"""


def test_bad_names_are_refused_without_tensorflow(tmp_path: Path) -> None:
    """All of them in one new process: nothing heavy is imported by any."""
    pages = ("page.pth", "page.keras", "page.onnx")
    for name in pages:
        (tmp_path / name).write_text("<html>Not found")
    others = ("m.keras", "i.png", "w.pth")
    for name in others:
        (tmp_path / name).write_bytes(b"PK\3\4\0")
    (tmp_path / "photos").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([arguments for arguments, _ in REFUSED]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    said = done.stderr.split("----\n")
    for (arguments, message), answer in zip(REFUSED, said[:-1], strict=True):
        assert message in answer, arguments
        assert answer.startswith("keras-resnet: Expected ")
        assert answer.count("\n") == 1, answer
    *codes, seconds = done.stdout.splitlines()
    heavy = [
        (arguments, line)
        for (arguments, _), line in zip(REFUSED, codes, strict=True)
        if line != "2 []"
    ]
    assert heavy == []
    # Of processor time for each; importing TensorFlow alone takes several seconds.
    assert float(seconds) / len(REFUSED) < 0.2
    assert {path.name for path in tmp_path.iterdir()} == {*pages, *others, "photos"}


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("train", "--lr", "1"), "--set optimizer.learning_rate=VALUE"),
        (("train", "--weight-decay", "1"), "--set optimizer.weight_decay=VALUE"),
        (("train", "--zero-init-residual", "1"), "--net zero_init_residual=VALUE"),
        (("train", "--epoch", "1"), "--epochs"),
        (("info", "resnet20", "--num-classes", "1"), "--classes"),
        (("convert", "x", "--set", "width=2"), "--net"),
        (("predict", "x", "--pixel", "raw"), "--pixels"),
    ],
)
def test_unknown_options_are_answered_with_the_one_that_was_meant(
    arguments: tuple[str, ...], meant: str, command_in_process: Command
) -> None:
    done = command_in_process(*arguments)
    assert done.returncode == 2
    option = next(word for word in arguments if word.startswith("--"))
    assert done.stderr == f"keras-resnet: No such option: {option}. Did you mean {meant}?\n"


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (("predict", "x.jpg", "--model", "resnet50"), "keras-resnet predict MODEL IMAGES"),
        (("analyze", "lesion", "--model", "x"), "keras-resnet analyze lesion MODEL"),
    ],
)
def test_arguments_are_no_options(
    arguments: tuple[str, ...], usage: str, command_in_process: Command
) -> None:
    done = command_in_process(*arguments)
    assert done.returncode == 2
    said = f"No such option: --model. MODEL is an argument without an option name: `{usage}`."
    assert done.stderr == f"keras-resnet: {said}\n"


def test_a_missing_artifact_is_answered_with_the_file_beside_it(
    command_in_process: Command, tmp_path: Path
) -> None:
    (tmp_path / "model-int8.tflite").touch()
    done = command_in_process("benchmark", str(tmp_path / "model_int8.tflite"))
    assert done.stderr.endswith("model_int8.tflite. Did you mean model-int8.tflite?\n")
    for name in ("m20.keras", "lam.keras", "nothing.py"):
        (tmp_path / name).touch()
    done = command_in_process("evaluate", str(tmp_path / "nothere.keras"), "--data", "digits")
    assert done.stderr.endswith("Received: " + str(tmp_path / "nothere.keras") + ".\n")


def test_options_of_networks_change_the_network(
    command_in_process: Command, tmp_path: Path
) -> None:
    """The same three options, in commands that build a network by name."""
    import keras_resnet

    options = ("--version", "v2", "--shortcut", "B", "--net", "width=0.5")
    files = {"convert": tmp_path / "x.keras", "embed": tmp_path / "x.npz"}
    network = keras_resnet.create_model("resnet20", version="v2", shortcut="B", width=0.5)
    network.save_weights(tmp_path / "x.weights.h5")
    done = command_in_process("info", "RESNET20", *options, "--json")
    found = json.loads(done.stdout)
    assert found["name"] == "resnet20"
    assert found["total"]["params"] == sum(
        weight.shape.num_elements() for weight in network.trainable_weights
    )
    done = command_in_process(
        *("convert", str(tmp_path / "x.weights.h5"), "--arch", "ResNet-20", *options),
        *("--output", str(files["convert"])),
    )
    assert done.returncode == 0, done.stderr
    assert keras_resnet.load_model(files["convert"]).count_params() == network.count_params()
    image = tmp_path / "image.png"
    from PIL import Image

    Image.new("RGB", (32, 32), (9, 99, 200)).save(image)
    done = command_in_process(
        *("embed", "ResNet20", str(image), "--weights", str(tmp_path / "x.weights.h5")),
        *(*options, "--output", str(files["embed"]), "--json"),
    )
    assert json.loads(done.stdout)["channels"] == 32
    # Without the options, the weights do not fit.
    done = command_in_process(
        *("embed", "resnet20", str(image), "--weights", str(tmp_path / "x.weights.h5")),
        *("--output", str(tmp_path / "other.npz")),
    )
    assert done.returncode == 2


def test_networks_of_training_follow_the_options() -> None:
    from keras_resnet.cli import inputs

    fields = inputs.network_options("v1", "none", ["zero_init_residual=true", "stem_filters=null"])
    assert fields == {
        "version": "v1",
        "shortcut": None,
        "zero_init_residual": True,
        "stem_filters": None,
    }
    fields = inputs.network_options("v1", "C", None)
    recipe = inputs.recipe_of("quick-digits", None, None, fields)
    network, parts = inputs.new_network("resnet20", "digits", None, 0.1, recipe, show=False)
    assert network.name == "resnet20"
    assert any(layer.name.endswith("_0_conv") for layer in network.layers[-30:])
    assert len(parts[0]) == 1437
    # As fields of the recipe, they are compared when a run goes on.
    assert recipe.as_dict()["network"] == {"version": "v1", "shortcut": "C"}
    assert inputs.recipe_of("finetune", ["network.shortcut=none"], None).network == {
        "shortcut": None
    }


def test_the_help_has_sections_of_whole_sentences(command_in_process: Command) -> None:
    done = command_in_process("-h")
    assert done.returncode == 0
    assert done.stdout == command_in_process("--help").stdout
    text = " ".join(done.stdout.split())
    for heading in ("First steps:", "Training:", "Using trained networks:", "Export:"):
        assert heading in text
    assert "Commands:" not in text
    assert "Print versions, devices, and the features that need a missing package." in text
    assert "..." not in done.stdout.partition("First steps:")[2]
    assert command_in_process("data", "-h").returncode == 0


def test_version(command_in_process: Command, run_python: Run) -> None:
    from keras_resnet import __version__

    done = command_in_process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"keras-resnet {__version__}\n", "")
