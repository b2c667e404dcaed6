"""SavedModel: what TensorFlow and TF Serving load, with signatures for pixels and for files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_resnet.export.metadata import into_saved_model
from keras_resnet.export.model import ExportedModel
from keras_resnet.export.outputs import FEATURES, IMAGE, SIGNATURE, named_outputs
from keras_resnet.export.servers import tf_serving
from keras_resnet.export.servers.picture_graph import prepare_files
from keras_resnet.images.labels import dataset_classes
from keras_resnet.images.protocol import DEFAULT_SIZE, EvalProtocol
from keras_resnet.models.info import class_count
from keras_resnet.models.input import ModelInput
from keras_resnet.support.quiet import quiet

#: The signature for uint8 pixels: one signature has one dtype.
SIGNATURE_UINT8 = "serving_uint8"
#: The signature for JPEG and PNG files, and its input.
SIGNATURE_BYTES = "serving_bytes"
BYTES = "bytes"

#: Output of text: the names of the most probable classes.
CLASSES = "classes"
#: Output of `serving_bytes`: the probabilities of those.
SCORES = "scores"

#: How many classes are named.
TOP = 5

#: The names of the classes, one a line, which the graph reads when it is loaded.
CLASS_NAMES = "class_names.txt"

#: Nodes that only hold or pass on values.
_NO_WORK = {"Const", "Identity", "NoOp", "ReadVariableOp", "Placeholder"}

_Function = Callable[[Any], dict[str, Any]]


def write(exported: ExportedModel, path: Path) -> None:
    """Writes `path/<version>/saved_model.pb` and, beside `path`, TF Serving's configuration.

    Its signatures share one set of variables; the batch size is free in all of them. `k` is the
    number of classes, at most `TOP`.

    - `serving_default`: `image`, float32 `(batch, height, width, channels)`, RGB in [0, 255], to
      `probabilities` or `logits`, `(batch, classes)`, and `classes`, string `(batch, k)`: names,
      most probable first. A model of feature maps puts out those instead.
    - `serving_uint8`: the same of uint8 pixels, of which a request is a quarter as large.
    - `serving_bytes`: `bytes`, string `(batch,)`, JPEG and PNG files of any sizes, prepared by the
      model's evaluation protocol; in addition `scores`, float32 `(batch, k)`, the probabilities of
      `classes`. A batch with bytes that are no image fails with an error that names the indices.
      Left out where files cannot be prepared: the model's images are not square, or have other
      than one or three channels.
    - `features`: `image` to `features`, `(batch, channels)`: what the global average pooling before
      the classifier puts out. Left out where there is none, or more than one and none of them is
      called `avg_pool`.

    `assets/class_names.txt` has the names of the classes, which the graph reads.
    `assets.extra/keras_resnet.json` is what the model knows about itself, and
    `assets.extra/tf_serving_warmup_requests` has requests of every size that servers are to be
    ready for.

    Raises:
        ImportError: tensorflow-serving-api is not installed.
    """
    directory = path / str(exported.options.version)
    name = tf_serving.model_name(exported.model.name)
    resources = _Resources(exported)
    signatures = _signatures(exported, resources)
    with quiet():
        tf.saved_model.save(resources, str(directory), signatures=signatures)
    into_saved_model(directory, exported.info)
    tf_serving.write_warmup(directory, name, exported.options, _usual_shape(exported), signatures)
    tf_serving.write_configs(path.parent, name, exported.options, path.name)


def class_names(exported: ExportedModel) -> tuple[str, ...] | None:
    """The names in a classifier's artifact, as `Predictor` finds them; None of feature maps.

    What has no names is ImageNet's if it has 1,000 classes, else numbered.
    """
    if not exported.is_classifier:
        return None
    count = class_count(exported.model)
    if exported.info.class_names is not None:
        return exported.info.class_names
    return dataset_classes("imagenet")[0] if count == 1000 else tuple(map(str, range(count)))


def file_protocol(exported: ExportedModel) -> EvalProtocol | None:
    """Return the protocol for image files, as of `Predictor`; None if they cannot be prepared."""
    shape = exported.model.input_shape
    if shape[3] not in (1, 3):
        return None
    try:
        return ModelInput(shape, exported.info).protocol
    except ValueError:  # Its images are no squares.
        return None


def _usual_shape(exported: ExportedModel) -> tuple[int, int, int]:
    """`(height, width, channels)` of the images that the model is likely to get."""
    protocol = file_protocol(exported)
    side = protocol.size if protocol else DEFAULT_SIZE
    height, width, channels = exported.model.input_shape[1:]
    return height or side, width or side, channels


class _Resources(tf.Module):
    """The parts that are saved once for all signatures: variables and the table of names."""

    def __init__(self, exported: ExportedModel) -> None:
        super().__init__()
        self.weights = [variable.value for variable in exported.model.variables]
        self.names = _names_table(exported)
        self.classes = class_count(exported.model) if exported.is_classifier else 0


def _signatures(exported: ExportedModel, resources: _Resources) -> dict[str, Any]:
    """Functions by the names of their signatures."""
    model, outputs, protocol = exported.model, exported.outputs, file_protocol(exported)
    pooled = _with_features(exported)
    callee, names = (model, outputs) if pooled is None else (pooled, (*outputs, FEATURES))
    floats = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name=IMAGE)
    integers = tf.TensorSpec(floats.shape, tf.uint8, name=IMAGE)

    # One function in the graph, which the signatures call.
    @tf.function(input_signature=[floats])
    def network(image: Any) -> dict[str, Any]:
        return named_outputs(callee(image, training=False), names)

    def served(image: Any) -> dict[str, Any]:
        values = network(image)
        return {name: values[name] for name in outputs}

    def serve(image: Any) -> dict[str, Any]:
        return _named(served(image), resources)

    functions: dict[str, tuple[_Function, Any]] = {
        SIGNATURE: (serve, floats),
        SIGNATURE_UINT8: (lambda image: serve(tf.cast(image, tf.float32)), integers),
    }
    if protocol is not None:

        def serve_bytes(files: Any) -> dict[str, Any]:
            images = prepare_files(files, protocol, floats.shape[-1])
            return _named(served(images), resources, scores=True)

        functions[SIGNATURE_BYTES] = serve_bytes, tf.TensorSpec((None,), tf.string, name=BYTES)
    if pooled is not None:
        functions[FEATURES] = lambda image: {FEATURES: network(image)[FEATURES]}, floats
    return {
        name: tf.function(function, input_signature=[form])
        for name, (function, form) in functions.items()
    }


def _named(values: dict[str, Any], resources: _Resources, scores: bool = False) -> dict[str, Any]:
    """Adds the names of the most probable classes and, if asked for, their probabilities."""
    if resources.names is None:
        return values
    ((name, result),) = values.items()
    if result.shape[-1] < resources.classes:
        # A single unit, as in `class_probabilities`.
        first = tf.zeros_like(result) if name == "logits" else 1 - result
        result = tf.concat([first, result], axis=-1)
    probabilities = tf.nn.softmax(result) if name == "logits" else result
    best, indices = tf.math.top_k(probabilities, min(TOP, resources.classes))
    values = {**values, CLASSES: resources.names.lookup(tf.cast(indices, tf.int64))}
    return {**values, SCORES: best} if scores else values


def _names_table(exported: ExportedModel) -> Any:
    """A table from class to name that is initialised from an asset; None of feature maps."""
    names = class_names(exported)
    if names is None:
        return None
    path = exported.workspace / CLASS_NAMES
    # One line is one name.
    lines = [" ".join(name.splitlines()) for name in names]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    number, line = tf.lookup.TextFileIndex.LINE_NUMBER, tf.lookup.TextFileIndex.WHOLE_LINE
    initializer = tf.lookup.TextFileInitializer(str(path), tf.int64, number, tf.string, line)
    return tf.lookup.StaticHashTable(initializer, "")


def _with_features(exported: ExportedModel) -> keras.Model | None:
    """The classifier with the vector before it as a second output; None where there is none."""
    if not exported.is_classifier:
        return None
    layers = exported.model.layers
    pools = [x for x in layers if isinstance(x, keras.layers.GlobalAveragePooling2D)]
    if len(pools) > 1:
        pools = [layer for layer in pools if layer.name == "avg_pool"]
    if len(pools) != 1:
        return None
    try:
        vector = pools[0].output
        return keras.Model(exported.model.input, [exported.model.output, vector])
    # Subclassed models have no graph, and a layer that is called twice no one output.
    except (AttributeError, ValueError):
        return None


def operators(path: Path) -> dict[str, int]:
    """Count the operators in the functions that `serving_default` calls.

    `path` is the version's directory. Constants, and calls of functions, are not counted.
    """
    content = (path / "saved_model.pb").read_bytes()
    (graph,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    functions = {item.signature.name: item for item in graph.graph_def.library.function}
    result = next(iter(graph.signature_def[SIGNATURE].outputs.values())).name.partition(":")[0]
    nodes = [node for node in graph.graph_def.node if node.name == result]
    found: Counter[str] = Counter()
    while nodes:
        node = nodes.pop()
        called = functions.get(node.attr["f"].func.name) if "f" in node.attr else None
        if called is not None:
            nodes += called.node_def
        elif node.op not in _NO_WORK:
            found[node.op] += 1
    return dict(found)
