"""Every kind of file that is saved, in processes that have imported nothing before they load it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnet import ResNetConfig, build, from_checkpoint, load_model, save_torch_state_dict
from keras_resnet.compression import cluster, prune, quantize_aware
from keras_resnet.data import LabeledImages, load_digits
from keras_resnet.training import Phase, find_recipe, finetune, override, train
from keras_resnet.training.losses import CrossEntropy
from keras_resnet.training.metrics import Accuracy
from keras_resnet.training.optimizers import SGD

from ..conftest import Run, randomize

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)


def compiled(model: keras.Model) -> keras.Model:
    model.compile(SGD(0.1, decay_on="biases"), CrossEntropy(0.1), weighted_metrics=[Accuracy(5)])
    return model


#: What is saved. Those that need most of what is to be imported come first.
KINDS: dict[str, Callable[[keras.Model], keras.Model]] = {
    "compiled together": lambda model: compiled(together(model)),
    "compiled": lambda model: compiled(cluster(model, 8)),
    "together": lambda model: together(model),
    "qat": lambda model: quantize_aware(model, IMAGES),
    "pruned": lambda model: prune(model, 0.5),
    "clustered": lambda model: cluster(model, 8),
    "plain": lambda model: model,
    "compiled plain": lambda _: compiled(
        build(ResNetConfig("basic", (1,), (8,), stem="cifar"), input_shape=(32, 32, 3))
    ),
}


def together(model: keras.Model) -> keras.Model:
    return quantize_aware(cluster(prune(model, 0.5), 8), IMAGES)


Save = Callable[[str], Path]


@pytest.fixture(scope="module")
def save(tiny_model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Saves a kind of model when it is first asked for its file."""
    folder = tmp_path_factory.mktemp("saved")

    def save(kind: str) -> Path:
        path = folder / f"{kind}.keras"
        if not path.exists():
            KINDS[kind](tiny_model).save(path)
        return path

    return save


LOAD = """
import json, sys
import numpy as np
import keras_resnet
images, found = np.load(sys.argv[1]), []
for path in sys.argv[2:]:
    model = keras_resnet.load_model(path)
    found.append(np.asarray(model(images, training=False)).tolist())
    if model.compiled:
        assert model.optimizer.get_config()["decay_on"] == ["biases"]
        assert model.loss.label_smoothing == 0.1
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    "kinds",
    [
        ["compiled plain", "compiled together"],
        *(pytest.param(x, marks=pytest.mark.full) for x in ([*KINDS][:1], [*KINDS][::-1])),
    ],
)
def test_every_kind_of_file_is_loaded(
    kinds: list[str], save: Save, run_new_python: Run, tmp_path: Path
) -> None:
    files = [str(save(kind)) for kind in kinds]
    np.save(tmp_path / "images.npy", IMAGES)
    done = run_new_python(LOAD, str(tmp_path / "images.npy"), *files)
    assert done.returncode == 0, done.stderr
    for file, answers in zip(files, json.loads(done.stdout), strict=True):
        expected = load_model(file)(IMAGES, training=False)
        np.testing.assert_allclose(answers, expected, atol=1e-4, err_msg=file)


@pytest.fixture(scope="module")
def more(save: Save, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """These, and what training and conversion save; those first that need most."""
    folder = tmp_path_factory.mktemp("more")
    parts = tuple(
        LabeledImages(part.images[:32], part.labels[:32], part.class_names)
        for part in load_digits()
    )
    recipe = override(find_recipe("quick-digits"), {"average.decay": 0.9, "schedule.warmup": 0})
    config = ResNetConfig("basic", (1, 1, 1), (8, 16, 24), stem="cifar", shortcut="A")
    train(build(config, input_shape=(32, 32, 3)), parts, recipe, folder / "averaged", epochs=1)
    quantized = load_model(save("qat"), compile=False)
    phases = (Phase("head", 0.5),)
    finetune(quantized, parts, folder / "finetuned", phases=phases, compare=False)
    torch = build(ResNetConfig("basic", (1,), (8,), stem="cifar", shortcut="B"))
    randomize(torch)
    save_torch_state_dict(torch, folder / "torch.safetensors")
    from_checkpoint(folder / "torch.safetensors", input_shape=(32, 32, 3)).save(
        folder / "torch.keras"
    )
    last = [folder / name / "last.keras" for name in ("finetuned", "averaged")]
    return [*map(save, KINDS), *last, folder / "torch.keras"]


WALK = """
import contextlib, io, json, sys
from keras_resnet.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["keras-resnet", *arguments]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as end:
        # These have further conditions: what is rounded already is not compressed again.
        conditions = arguments[0] in ("find-rate", "compress")
        loaded = "Expected a readable" not in errors.getvalue()
        assert loaded if conditions else end.code == 0, (arguments, errors.getvalue())
print("done")
"""
DATA = ["--data", "digits", "--output", "OUT"]
COMMANDS = {
    "predict": ["FILE", "PICTURE"],
    "embed": ["FILE", "PICTURE", "--output", "OUT.npz"],
    "verify": ["FILE", "--against", "FILE"],
    "convert": ["FILE", "--output", "OUT.keras"],
    "benchmark": ["FILE", "--seconds", "0.01"],
    "export": ["FILE", "--output", "OUT", "--targets", "tflite-float32", "--seconds", "0"],
    "find-rate": ["--model", "FILE", *DATA, "--steps", "10", "--batch-size", "16"],
    "finetune": ["--model", "FILE", *DATA, "--phases", "head:0.02", "--no-compare"],
    "compress": ["FILE", *DATA, "--epochs", "0.02", "--settle", "0.02", "--seconds", "0"],
}
_SLOW = ("benchmark", "export", "find-rate", "finetune", "compress")


@pytest.mark.parametrize(
    "command",
    [pytest.param(x, marks=pytest.mark.slow if x in _SLOW else pytest.mark.full) for x in COMMANDS],
)
def test_every_command_takes_every_kind_of_file(
    command: str, more: list[Path], run_new_python: Run, tmp_path: Path
) -> None:
    Image.fromarray(IMAGES[0].astype(np.uint8)).save(tmp_path / "a.png")
    calls = []
    for number, file in enumerate(more):
        words = {"FILE": str(file), "PICTURE": str(tmp_path / "a.png")}
        out = str(tmp_path / f"out{number}")
        calls.append([command, *(words.get(x, x.replace("OUT", out)) for x in COMMANDS[command])])
    done = run_new_python(WALK, json.dumps(calls), timeout=3600)
    assert done.stdout.endswith("done\n"), done.stderr
