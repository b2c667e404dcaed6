"""SavedModels with signatures for pixels and for image files."""

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

#: Signature for uint8 pixels: a signature has one dtype only.
SIGNATURE_UINT8 = "serving_uint8"
#: Signature for JPEG and PNG files, and its input.
SIGNATURE_BYTES = "serving_bytes"
BYTES = "bytes"

#: Output with the names of the most probable classes.
CLASSES = "classes"
#: Output of `serving_bytes` with the probabilities of these classes.
SCORES = "scores"

#: Largest number of classes in these outputs.
TOP = 5

#: Asset with the class names, one per line, which the graph reads when it is loaded.
CLASS_NAMES = "class_names.txt"

#: Operators that hold values or pass them on, and compute nothing.
_NO_WORK = {"Const", "Identity", "NoOp", "ReadVariableOp", "Placeholder"}

_Function = Callable[[Any], dict[str, Any]]


def write(exported: ExportedModel, path: Path) -> None:
    """Write `path/<version>/saved_model.pb` and, beside `path`, TF Serving's configuration.

    The signatures share one set of variables and take any batch size. `k` is the smaller of the
    number of classes and `TOP`.

    - `serving_default` maps `image`, float32 `(batch, height, width, channels)`, RGB in [0, 255],
      to `probabilities` or `logits`, `(batch, classes)`, and `classes`, string `(batch, k)`: the
      names of the most probable classes, in descending order. Models of feature maps return these
      maps.
    - `serving_uint8` does the same for uint8 pixels: requests are a quarter as large.
    - `serving_bytes` takes `bytes`, string `(batch,)`: JPEG and PNG files of any size, which are
      prepared by the model's evaluation protocol. It also returns `scores`, float32 `(batch, k)`,
      the probabilities of `classes`. If the batch has files that are not images, the error names
      their indices. There is no such signature if the model's images are not square, or have
      another number of channels than one or three.
    - `features` maps `image` to `features`, `(batch, channels)`: the output of the global average
      pooling before the classifier. There is no such signature if the model has no such layer, or
      has several and none of them is called `avg_pool`.

    The graph reads the class names from `assets/class_names.txt`. `assets.extra/keras_resnet.json`
    has the metadata of the model, and `assets.extra/tf_serving_warmup_requests` has requests with
    each of the batch sizes that servers prepare for.

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
    """Return the class names of a classifier, as in `Predictor`; None for other models.

    A classifier without names gets those of ImageNet if it has 1,000 classes, else numbers.
    """
    if not exported.is_classifier:
        return None
    count = class_count(exported.model)
    if exported.info.class_names is not None:
        return exported.info.class_names
    return dataset_classes("imagenet")[0] if count == 1000 else tuple(map(str, range(count)))


def file_protocol(exported: ExportedModel) -> EvalProtocol | None:
    """Return the protocol for image files, as in `Predictor`; None if they cannot be prepared."""
    shape = exported.model.input_shape
    if shape[3] not in (1, 3):
        return None
    try:
        return ModelInput(shape, exported.info).protocol
    except ValueError:  # The model's images are not square.
        return None


def _usual_shape(exported: ExportedModel) -> tuple[int, int, int]:
    """Return the `(height, width, channels)` of the images that the model is likely to get."""
    protocol = file_protocol(exported)
    side = protocol.size if protocol else DEFAULT_SIZE
    height, width, channels = exported.model.input_shape[1:]
    return height or side, width or side, channels


class _Resources(tf.Module):
    """Parts that all signatures share: the variables and the table of class names."""

    def __init__(self, exported: ExportedModel) -> None:
        super().__init__()
        self.weights = [variable.value for variable in exported.model.variables]
        self.names = _names_table(exported)
        self.classes = class_count(exported.model) if exported.is_classifier else 0


def _signatures(exported: ExportedModel, resources: _Resources) -> dict[str, Any]:
    """Return the function of each signature, by name."""
    model, outputs, protocol = exported.model, exported.outputs, file_protocol(exported)
    pooled = _with_features(exported)
    callee, names = (model, outputs) if pooled is None else (pooled, (*outputs, FEATURES))
    floats = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name=IMAGE)
    integers = tf.TensorSpec(floats.shape, tf.uint8, name=IMAGE)

    # All signatures call this function, so that the graph has the network once.
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
    """Add the names of the most probable classes and, with `scores`, their probabilities."""
    if resources.names is None:
        return values
    ((name, result),) = values.items()
    if result.shape[-1] < resources.classes:
        # Two classes with a single output, as in `class_probabilities`.
        first = tf.zeros_like(result) if name == "logits" else 1 - result
        result = tf.concat([first, result], axis=-1)
    probabilities = tf.nn.softmax(result) if name == "logits" else result
    best, indices = tf.math.top_k(probabilities, min(TOP, resources.classes))
    values = {**values, CLASSES: resources.names.lookup(tf.cast(indices, tf.int64))}
    return {**values, SCORES: best} if scores else values


def _names_table(exported: ExportedModel) -> Any:
    """Return the table from class to name, which reads an asset; None if there are no classes."""
    names = class_names(exported)
    if names is None:
        return None
    path = exported.workspace / CLASS_NAMES
    # A name has to be one line.
    lines = [" ".join(name.splitlines()) for name in names]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    number, line = tf.lookup.TextFileIndex.LINE_NUMBER, tf.lookup.TextFileIndex.WHOLE_LINE
    initializer = tf.lookup.TextFileInitializer(str(path), tf.int64, number, tf.string, line)
    return tf.lookup.StaticHashTable(initializer, "")


def _with_features(exported: ExportedModel) -> keras.Model | None:
    """Return the classifier with its features as a second output; None if they are not known."""
    if not exported.is_classifier:
        return None
    layers = exported.model.layers
    pools = [x for x in layers if isinstance(x, keras.layers.GlobalAveragePooling2D)]
    if len(pools) > 1:
        pools = [layer for layer in pools if layer.name == "avg_pool"]
    if len(pools) != 1:
        return None
    try:
        return keras.Model(exported.model.input, [exported.model.output, pools[0].output])
    # Subclassed models have no graph, and a layer that is called twice has two outputs.
    except (AttributeError, ValueError):
        return None


def operators(path: Path) -> dict[str, int]:
    """Count the operators, by name, in the functions that `serving_default` calls.

    `path` is the directory of a version. Constants and calls of functions are not counted.
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
