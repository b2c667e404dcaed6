"""Additions work with changes in only the files that CONTRIBUTING lists.

Each addition is made in a copy of the package.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from .conftest import ROOT, Run

pytestmark = pytest.mark.full


class Copy:
    """A copy of the package, and where it was changed: name of an addition -> its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: dict[str, set[str]] = {}
        for name in ("keras_resnet", "export"):
            shutil.copytree(
                ROOT / name,
                folder / name,
                symlinks=True,
                ignore=shutil.ignore_patterns("__pycache__", "packaged"),
            )

    def insert(self, what: str, file: str, before: str, text: str) -> None:
        """Inserts `text` before the line that starts with `before`, which is there once."""
        path = self.folder / file
        lines = path.read_text().splitlines(keepends=True)
        (number,) = [n for n, line in enumerate(lines) if line.startswith(before)]
        lines.insert(number, text)
        path.write_text("".join(lines))
        self.places.setdefault(what, set()).add(file)

    def replace(self, what: str, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, (file, old)
        path.write_text(text.replace(old, new))
        self.places.setdefault(what, set()).add(file)

    def create(self, what: str, file: str, text: str) -> None:
        path = self.folder / file
        assert not path.exists()
        path.write_text(text)
        self.places.setdefault(what, set()).add(file)


NETWORK = "a network of existing parts"
PART = "a new kind of part"
CHECKPOINT = "a published checkpoint"
TARGET = "a target of a known format"
FORMAT = "a new format"
AUGMENTATION = "an augmentation"
RECIPE = "a recipe"
OPTIMIZER = "an optimizer"
SOURCE = "a data source"


def add_network(copy: Copy) -> None:
    row = '    "ResNet26": _imagenet(50).replace(blocks=(2, 2, 2, 2)),\n'
    copy.insert(NETWORK, "keras_resnet/networks/table.py", "    # Zhang 2019;", row)


def add_part(copy: Copy) -> None:
    config, plan = "keras_resnet/networks/config.py", "keras_resnet/networks/plan.py"
    copy.insert(PART, config, "    se_ratio: float", "    effective_se: bool = False\n")
    gate = """\
        if self.config.effective_se:
            conv = Conv(f"{block}_ese_conv", 1, filters, filters, None, bias=True)
            return Gate("effective squeeze-and-excitation", f"{block}_ese", (conv,))
"""
    copy.insert(PART, plan, "        if not self.config.se_ratio:", gate)


def add_checkpoint(copy: Copy) -> None:
    file, tag = "keras_resnet/weights/registry.json", "timm/resnet26.bt_in1k"
    rows = json.loads((ROOT / file).read_text())
    (row,) = [row for row in rows if row["tag"] == tag]
    new = {**row, "tag": "timm/resnet26.new_in1k", "model": "resnet26", "config": {}}
    text = json.dumps({**new, "default": True})
    copy.insert(CHECKPOINT, file, f'{{"tag": "{tag}"', f"{text},\n")


def add_target(copy: Copy) -> None:
    row = """\
        Target(
            "onnx-exact", "model-exact.onnx", _function("onnx.convert:write_float32"),
            Limits(max_error=1e-5), _ONNX, operators=_function("onnx.inspect:operators"),
        ),
"""
    copy.insert(TARGET, "export/targets.py", '        _onnx("-float16"', row)


FROZEN = """
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

def write(exported, path):
    function = tf.function(exported.serving_function(), input_signature=[exported.input_spec])
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    path.write_bytes(frozen.graph.as_graph_def().SerializeToString())

def load(path):
    graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    importing = lambda: tf.graph_util.import_graph_def(graph, name="")
    wrapped = tf.compat.v1.wrap_function(importing, [])
    start = wrapped.graph.as_graph_element("image:0")
    return start, wrapped.prune(start, wrapped.graph.as_graph_element("Identity:0"))
"""

RUNNER = """
class FrozenRunner(Runner):
    outputs, ranks = ("probabilities",), (2,)

    def __init__(self, path):
        from keras_resnet.export.frozen import load
        start, self._call = load(path)
        self.input_shape = tuple(start.shape)

    def run(self, batch):
        return [self._call(tf.constant(batch)).numpy()]


"""

TIMED = """\
    if artifact.suffix == ".pb":
        from keras_resnet.export.frozen import load
        start, call = load(artifact)
        return tuple(start.shape), np.float32, lambda x: lambda: call(tf.constant(x)).numpy()
"""


def add_format(copy: Copy) -> None:
    copy.create(FORMAT, "export/frozen.py", FROZEN)
    row = '        Target("frozen", "model.pb", _function("frozen:write"), _EXACT),\n'
    copy.insert(FORMAT, "export/targets.py", '        _tflite("float32"', row)
    copy.insert(FORMAT, "export/runtime.py", "#: Loaders of files by their suffixes;", RUNNER)
    copy.insert(
        FORMAT, "export/runtime.py", '    ".onnx": ONNXRunner', '    ".pb": FrozenRunner,\n'
    )
    worker = "export/report/timing_worker.py"
    copy.insert(FORMAT, worker, "    return _load_keras(artifact) if", TIMED)


def add_augmentation(copy: Copy) -> None:
    field = "    solarize: float = _number(0.0, 1)\n"
    copy.insert(AUGMENTATION, "keras_resnet/data/config.py", "    erasing: float", field)
    call = "color.solarize(image, seed(7), augmentation.solarize)"
    line = f"    if augmentation.solarize:\n        image = {call}\n"
    transforms = "keras_resnet/data/augment/transforms.py"
    copy.insert(AUGMENTATION, transforms, "    if augmentation.erasing:", line)
    function = """\
def solarize(image, seed, probability):
    on = tf.random.stateless_uniform((), seed) < probability
    return tf.where(on & (image >= 128), 255 - image, image)


"""
    copy.insert(AUGMENTATION, "keras_resnet/data/augment/color.py", "def lighting(", function)


def add_recipe(copy: Copy) -> None:
    row = '    Recipe("he2015-short", duration=1, batch_size=16, citations={"": "a test"}),\n'
    copy.insert(RECIPE, "keras_resnet/training/recipes/papers.py", "    _HE2015_IMAGENET,", row)


def add_optimizer(copy: Copy) -> None:
    names, module = "training/recipes/parts.py", "training/optimizers/optimizers.py"
    old = "OptimizerName = Literal["
    copy.replace(OPTIMIZER, f"keras_resnet/{names}", old, f'{old}"nadam", ')
    text = "@_register\nclass Nadam(GroupedUpdates, keras.optimizers.Nadam):\n    pass\n\n\n"
    copy.insert(OPTIMIZER, f"keras_resnet/{module}", "def make_optimizer(", text)
    row = '        "nadam": (Nadam, adam),\n'
    copy.insert(OPTIMIZER, f"keras_resnet/{module}", '        "adamw": (AdamW', row)


GREY = """
import numpy as np
from keras_resnet.data.sources.memory import LabeledImages
from keras_resnet.data.sources.splits import Splits

def load_grey(size):
    images = np.full((40, size, size, 3), 128, np.uint8)
    return Splits(LabeledImages(images, np.arange(40) % 2, ("one", "other"), name="grey"))
"""


def add_source(copy: Copy) -> None:
    copy.create(SOURCE, "keras_resnet/data/sources/grey.py", GREY)
    table = "keras_resnet/data/sources/load.py"
    line = "from keras_resnet.data.sources.grey import load_grey\n"
    copy.insert(SOURCE, table, "from keras_resnet.data.sources.folder", line)
    row = '    "grey": SourceKind("grey", lambda _, config: load_grey(config.size)),\n'
    copy.insert(SOURCE, table, '    "digits": SourceKind(', row)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    copy = Copy(tmp_path_factory.mktemp("copy"))
    for add in (
        add_network,
        add_part,
        add_checkpoint,
        add_target,
        add_format,
        add_augmentation,
        add_recipe,
        add_optimizer,
        add_source,
    ):
        add(copy)
    return copy


PROGRAM = """
import pathlib, sys
import keras, numpy as np
import keras_resnet
from keras_resnet.data import Augmentation, DataConfig, load_data, training_batches
from keras_resnet.export import TARGETS, Timing, export, load_runner
from keras_resnet.training import RECIPES, find_recipe, override, train
folder = pathlib.Path(sys.argv[1])
assert pathlib.Path(keras_resnet.__file__).is_relative_to(folder)

# A network of existing parts.
from keras_resnet.networks.builders import ResNet26
assert "resnet26" in keras_resnet.list_models() and ResNet26.__name__ == "ResNet26"
model = keras_resnet.create_model("resnet26", width=0.125, input_shape=(64, 64, 3), classes=10)
config = keras_resnet.networks.table.get_config("resnet26", width=0.125)
assert config.depth == 26
assert keras_resnet.complexity(model) == keras_resnet.complexity(config, (64, 64, 3), 10)

# A published checkpoint of it.
from keras_resnet.weights.path_or_tag import find_weights_of
assert find_weights_of("resnet26", "imagenet").tag == "timm/resnet26.new_in1k"

# A new kind of part: counted, described, drawn and loaded as others are.
config = keras_resnet.ResNetConfig("basic", (1, 1), (16, 32), stem="cifar", effective_se=True)
model = keras_resnet.build(config, input_shape=(32, 32, 3), classes=2)
assert model.get_layer("conv2_block1_ese_conv").weights
assert keras_resnet.complexity(model) == keras_resnet.complexity(config, (32, 32, 3), 2)
rows = keras_resnet.analysis.complexity.summarize(config, (32, 32, 3), 2)
assert "effective squeeze" in rows[1].layers
model.save_weights(folder / "part.weights.h5")
assert keras_resnet.load_weights(
    keras_resnet.build(config, input_shape=(32, 32, 3), classes=2), folder / "part.weights.h5"
).loaded

# A data source, an augmentation, an optimizer and a recipe.
parts = load_data("grey")
assert parts[0].name.startswith("grey") and len(parts[0]) + len(parts[1]) == 40
white = Augmentation(solarize=1.0)
config = DataConfig("grey", size=32, augmentation=white)
images, _ = next(iter(training_batches(parts[0], config, epochs=1)))
assert set(np.unique(images)) == {127}
changes = {"optimizer.name": "nadam", "optimizer.decay": "decoupled", "batch_size": 8}
recipe = override(find_recipe("he2015-short"), changes)
result = train(model, load_data(DataConfig("grey", size=32)), recipe, folder / "run", epochs=1)
assert result.steps == 5 and keras.saving.load_model(folder / "run" / "last.keras").layers

# A target of a known format and a new format: verified, timed, loaded.
images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
report = export(
    model, folder / "exported", ("onnx-exact", "frozen"), images=images, timing=Timing(seconds=0.1)
)
assert not report.failures, report.failures
assert [row.target for row in report.artifacts] == ["keras", "onnx-exact", "frozen"]
assert all(row.latency_ms for row in report.artifacts), report.artifacts
np.testing.assert_allclose(
    load_runner(folder / "exported" / "model.pb").predict(images), model.predict(images), atol=1e-5
)
print("all of it works")
"""


def test_what_was_added_works(copy: Copy, run_new_python: Run) -> None:
    # The current folder would come before the copy.
    found = {"PYTHONPATH": str(copy.folder), "PYTHONSAFEPATH": "1"}
    done = run_new_python(PROGRAM, str(copy.folder), **found)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "all of it works" in done.stdout


def test_contributing_lists_these_places(copy: Copy) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (an? [a-z ]+) \| (\d) \| (.*) \|$", text, re.MULTILINE)
    listed = {name: (int(number), text) for name, number, text in rows}
    assert listed.keys() == copy.places.keys()
    for name, files in copy.places.items():
        number, text = listed[name]
        assert len(files) == number, (name, files)
        for file in files:
            folder, _, module = file.rpartition("/")
            known = f"`{file.removeprefix('keras_resnet/')}`" in text
            assert known or f"in `{folder.removeprefix('keras_resnet/')}/`" in text, (name, module)
        assert number <= 6
