"""Script that loads one artifact into its runtime and times calls.

It imports nothing else of this package, except for Keras files, so that its memory is that of the
runtime and the artifact. Its arguments are the path of the artifact, the number of threads (0: all
cores) and the side of the images for artifacts that take any size. It then reads one JSON object
per line, such as `{"batch": 4, "seconds": 0.1, "warm_up": 0}`, and writes an answer for each. The
first line that it writes says that the artifact was loaded. Errors are `{"error": "..."}`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Shape and type of an artifact's input, and a function from pixels to a call of the artifact.
#: Sides of any length are None, -1 or a name.
Loaded = tuple[Sequence[Any], Any, Callable[[np.ndarray], Callable[[], Any]]]


def main() -> None:
    """Load the artifact, then answer requests until standard input ends."""
    artifact, threads, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    # Runtimes print to standard output, which is for the answers: send theirs to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    def fail(error: Exception) -> None:
        answer({"error": " ".join(f"{type(error).__name__}: {error}".split())})

    try:
        shape, dtype, prepare = _load(artifact, threads)
    except Exception as error:
        fail(error)
        return
    answer({"loaded": True})
    for line in sys.stdin:
        try:
            request = json.loads(line)
            call = prepare(_pixels(shape, request["batch"], dtype, size))
            answer(_timed(call, request["seconds"], request["warm_up"]))
        except Exception as error:
            fail(error)


def _timed(call: Callable[[], Any], seconds: float, warm_up: int) -> dict[str, Any]:
    """Return the seconds of each call; the calls take at least `seconds` together."""
    for _ in range(warm_up):
        call()
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return {"seconds": times, "peak_memory": _peak_memory()}


def _peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # On Linux, `ru_maxrss` includes the memory of the parent process at the start.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _pixels(shape: Sequence[Any], batch: int, dtype: Any, size: int) -> np.ndarray:
    """Return random pixels for an input `(batch, …)`; sides of any length become `size`."""
    fixed, *sides = (side if isinstance(side, int) and side > 0 else None for side in shape)
    if fixed not in (None, batch):
        raise ValueError(f"it only takes batches of {fixed}")
    sizes = (batch, *(side or size for side in sides))
    values = np.random.default_rng(0).integers(0, 256, sizes)
    return (values - 128 if dtype == np.int8 else values).astype(dtype)


def _load(artifact: Path, threads: int) -> Loaded:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if artifact.suffix == ".tflite":
        return _load_tflite(artifact, threads or usable or 1)
    if artifact.suffix == ".onnx":
        return _load_onnx(artifact, threads or usable or 1)
    import tensorflow as tf

    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    is_keras = artifact.suffix in (".keras", ".h5", ".hdf5")
    return _load_keras(artifact) if is_keras else _load_saved_model(artifact)


def _load_tflite(artifact: Path, threads: int) -> Loaded:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(artifact), num_threads=threads)
    entry = only(interpreter.get_input_details(), "input")
    outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def prepare(pixels: np.ndarray) -> Callable[[], Any]:
        if tuple(interpreter.get_input_details()[0]["shape"]) != pixels.shape:
            interpreter.resize_tensor_input(entry["index"], pixels.shape)
        interpreter.allocate_tensors()

        def run() -> Any:
            interpreter.set_tensor(entry["index"], pixels)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in outputs]

        return run

    return entry["shape_signature"].tolist(), entry["dtype"], prepare


def _load_onnx(artifact: Path, threads: int) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Spinning threads stop between calls: they would slow down the artifacts that are timed then.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        str(artifact), options, providers=["CPUExecutionProvider"]
    )
    entry = only(session.get_inputs(), "input")
    name = entry.type.removeprefix("tensor(").removesuffix(")")
    dtype = np.dtype({"float": "float32", "double": "float64"}.get(name, name))
    return entry.shape, dtype, lambda pixels: lambda: session.run(None, {entry.name: pixels})


def _load_saved_model(artifact: Path) -> Loaded:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(artifact))
    signature, name, spec = only_signature(loaded)

    # `_owner` keeps the variables alive.
    def prepare(pixels: np.ndarray, _owner: Any = loaded) -> Callable[[], Any]:
        return lambda: [x.numpy() for x in signature(**{name: tf.constant(pixels)}).values()]

    return tuple(spec.shape), spec.dtype.as_numpy_dtype, prepare


def only(found: Sequence[Any], what: str) -> Any:
    """Return the only item of a list, such as the only input of an artifact.

    Args:
        found: names, or objects with a name as an attribute or under a key.
        what: description of the items, for error messages.

    Raises:
        ValueError: there are several items, or none.
    """
    if len(found) != 1:
        names = (x["name"] if isinstance(x, dict) else getattr(x, "name", x) for x in found)
        listed = ", ".join(map(str, names)) or "none"
        raise ValueError(f"it has {len(found)} {what}s ({listed}) instead of one")
    return found[0]


def only_signature(loaded: Any) -> tuple[Any, str, Any]:
    """Return the signature of a SavedModel, and the name and spec of its only input.

    The signature is `serving_default`, or the only one.

    Raises:
        ValueError: there is no such signature, or it has several inputs.
    """
    signatures = dict(loaded.signatures)
    key = next(iter(signatures)) if len(signatures) == 1 else "serving_default"
    if key not in signatures:
        raise ValueError(
            "it needs a signature 'serving_default', or one signature only, and has "
            f"{', '.join(signatures) or 'none'}"
        )
    inputs = signatures[key].structured_input_signature[1]
    name = only(list(inputs), "input")
    return signatures[key], name, inputs[name]


def _load_keras(artifact: Path) -> Loaded:
    import tensorflow as tf

    from keras_resnet.models.outputs import bare
    from keras_resnet.models.saving import load_model

    model = bare(load_model(artifact, compile=False))
    shape = (None, *model.input_shape[1:])
    function = tf.function(
        lambda image: model(image, training=False), [tf.TensorSpec(shape, tf.float32)]
    )

    def prepare(pixels: np.ndarray) -> Callable[[], Any]:
        return lambda: [x.numpy() for x in tf.nest.flatten(function(tf.constant(pixels)))]

    return shape, np.float32, prepare


if __name__ == "__main__":
    main()
