"""SavedModels that do more than compute: refused unless they are trusted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_resnet.export import benchmark, export, load_runner, verify
from keras_resnet.jobs.predictor import Predictor

from ...conftest import Command


def save(directory: Path, effect: Callable[[], Any]) -> Path:
    """A classifier that has an effect whenever it is called."""

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32, name="image")])
    def serve(image: Any) -> dict[str, Any]:
        done = effect()
        with tf.control_dependencies([] if done is None else [done]):
            return {"probabilities": tf.nn.softmax(tf.reduce_mean(image, (1, 2)))}

    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(directory), signatures={"serving_default": serve})
    return directory


def hidden(path: str) -> Any:
    """Inside a function that a branch calls."""

    @tf.function
    def write() -> Any:
        with tf.control_dependencies([tf.io.write_file(path, "x")]):
            return tf.constant(1)

    return tf.cond(tf.random.uniform(()) < 2, write, lambda: tf.constant(0))


EFFECTS: dict[str, Callable[[str], Any]] = {
    "ReadFile": lambda path: tf.io.read_file(path),
    "WriteFile": lambda path: tf.io.write_file(path, "x"),
    "WriteFile ": hidden,
    "MatchingFiles": lambda path: tf.io.matching_files(path),
    "EagerPyFunc": lambda _: tf.py_function(lambda: 0, [], tf.int64),
    "PyFunc": lambda _: tf.numpy_function(lambda: 0, [], tf.int64),
    "PrintV2": lambda path: tf.print("x", output_stream=f"file://{path}"),
    "SaveV2": lambda path: tf.raw_ops.SaveV2(
        prefix=path, tensor_names=["x"], shape_and_slices=[""], tensors=[1.0]
    ),
    "RestoreV2": lambda path: tf.raw_ops.RestoreV2(
        prefix=path, tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32]
    )[0],
    "DebugIdentityV2": lambda path: tf.raw_ops.DebugIdentityV2(
        input=1.0, debug_urls=[f"file://{path}"]
    ),
    "ImmutableConst": lambda path: tf.raw_ops.ImmutableConst(
        dtype=tf.float32, shape=(1,), memory_region_name=path
    ),
    "CacheDatasetV2": lambda path: (
        tf.data.Dataset.range(2).cache(path).reduce(np.int64(0), lambda a, b: a + b)
    ),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_what_does_more_than_compute_is_refused(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / "model", lambda: EFFECTS[name](str(tmp_path / "file")))
    with pytest.raises(
        ValueError, match=rf"only computes. Received: .*{name.strip()}.*`trust=True`"
    ):
        load_runner(path)


def test_trust_lets_it_run(
    tmp_path: Path, tiny_model: keras.Model, command_in_process: Command
) -> None:
    written = tmp_path / "written"
    path = save(tmp_path / "model", lambda: tf.io.write_file(str(written), "x"))
    images = np.zeros((1, 8, 8, 3), np.uint8)
    for load in (
        lambda: Predictor(path),
        lambda: verify(path, tiny_model),
        lambda: verify(path, path),
        lambda: benchmark([path]),
    ):
        with pytest.raises(ValueError, match="that only computes.*WriteFile"):
            load()
    tf.keras.utils.save_img(tmp_path / "a.png", images[0])
    for arguments in (
        ("benchmark", str(path)),
        ("verify", str(path), "--against", str(path)),
        ("predict", str(path), str(tmp_path / "a.png"), "--pixels", "raw"),
    ):
        refused = command_in_process(*arguments)
        assert refused.returncode == 2
        assert "--trust" in refused.stderr
        assert not written.exists()
    trusted = command_in_process(*arguments, "--trust")
    assert trusted.returncode == 0, trusted.stderr
    written.unlink()
    assert Predictor(path, trust=True, pixels="raw").predict(images).shape == (1, 3)
    assert written.exists()


def test_tables_are_filled_from_files_of_the_saved_model_only(
    tiny_model: keras.Model, images: np.ndarray, tmp_path: Path
) -> None:
    export(tiny_model, tmp_path, ("saved_model",), images=images, timing=None)
    good = tmp_path / "saved_model" / "1"
    load_runner(good)
    (tmp_path / "secret.txt").write_text("secret\n" * 10)

    def changed(change: Callable[[Any], None]) -> Path:
        model = saved_model_pb2.SavedModel.FromString((good / "saved_model.pb").read_bytes())
        change(model.meta_graphs[0])
        bad = Path(shutil.copytree(good, tmp_path / "bad", dirs_exist_ok=True))
        (bad / "saved_model.pb").write_bytes(model.SerializeToString())
        return bad

    def elsewhere(graph: Any) -> None:
        graph.asset_file_def[0].filename = "../../../secret.txt"

    def constant(graph: Any) -> None:
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                if node.op == "InitializeTableFromTextFileV2":
                    node.input[1] = "path:output:0"
                    value = tf.make_tensor_proto(str(tmp_path / "secret.txt"))
                    path = function.node_def.add(name="path", op="Const")
                    path.attr["value"].tensor.CopyFrom(value)
                    path.attr["dtype"].type = value.dtype

    def own_saver(graph: Any) -> None:
        """A signature calls the function that saves."""
        functions = graph.graph_def.library.function
        (saver,) = (x.signature.name for x in functions if "traced_save" in x.signature.name)
        call = functions[0].node_def.add(name="call", op="StatefulPartitionedCall")
        call.attr["f"].func.name = saver

    def twice(graph: Any) -> None:
        """Of two functions of a name, one is what it seems."""
        functions = graph.graph_def.library.function
        (saver,) = (x for x in functions if "traced_save" in x.signature.name)
        functions.add().CopyFrom(saver)

    for change, operator in (
        (twice, "InitializeTableFromTextFileV2"),
        (elsewhere, "InitializeTableFromTextFileV2"),
        (constant, "InitializeTableFromTextFileV2"),
        (own_saver, "SaveV2"),
    ):
        with pytest.raises(ValueError, match=f"only computes.*{operator}"):
            load_runner(changed(change))
    # Damage is named as such.
    (good / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(ValueError, match="saved_model.pb: text, instead of a binary file"):
        load_runner(good)
