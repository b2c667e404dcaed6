"""A process that holds one artifact in its runtime and times calls; a script, run by its path.

It imports nothing of this package unless the artifact is a `.keras` file, so that its memory is
that of the runtime and the artifact. Arguments: the artifact, a number of threads (0: all cores),
the side of images where the artifact leaves it open. Then one JSON object per line: on standard
input `{"batch": 4, "seconds": 0.1, "warm_up": 0}`, on standard output the answer. The first line of
output says that the artifact was loaded; errors are `{"error": "..."}`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

#: Makes a call of the artifact for so many images.
Call = Callable[[int], Callable[[], Any]]


def main() -> None:
    """Loads, then answers until standard input ends."""
    artifact, threads, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    # Runtimes print as they like; answers have a file of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    def fail(error: Exception) -> None:
        answer({"error": " ".join(f"{type(error).__name__}: {error}".split())})

    try:
        call = _load(artifact, threads, size)
    except Exception as error:
        fail(error)
        return
    answer({"loaded": True})
    for line in sys.stdin:
        try:
            answer(_timed(call, **json.loads(line)))
        except Exception as error:
            fail(error)


def _timed(prepare: Call, batch: int, seconds: float, warm_up: int) -> dict[str, Any]:
    """Seconds of every call, for at least `seconds` altogether and at least one call."""
    call = prepare(batch)
    for _ in range(warm_up):
        call()
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return {"seconds": times, "peak_memory": _peak_memory()}


def _peak_memory() -> int:
    """The most bytes of memory that this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not `ru_maxrss`, which starts at what the parent process had when it started this one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _load(artifact: Path, threads: int, size: int) -> Call:
    if artifact.suffix == ".tflite":
        return _load_tflite(artifact, threads or _cores(), size)
    if artifact.suffix == ".onnx":
        return _load_onnx(artifact, threads or _cores(), size)
    import tensorflow as tf

    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    return (_load_keras if artifact.suffix == ".keras" else _load_saved_model)(artifact, size)


def _pixels(shape: tuple[int | None, ...], batch: int, dtype: Any, size: int) -> np.ndarray:
    """Random pixels for an input `(batch, …)`, whose open sides are `size`."""
    # What is open is None, -1 or a name.
    fixed, *sides = (side if isinstance(side, int) and side > 0 else None for side in shape)
    if fixed not in (None, batch):
        raise ValueError(f"it takes batches of {fixed} only")
    sizes = (batch, *(side or size for side in sides))
    values = np.random.default_rng(0).integers(0, 256, sizes)
    return (values - 128 if dtype == np.int8 else values).astype(dtype)


def _load_tflite(artifact: Path, threads: int, size: int) -> Call:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(artifact), num_threads=threads)
    (entry,) = interpreter.get_input_details()
    shape = tuple(int(side) for side in entry["shape_signature"])
    outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def call(batch: int) -> Callable[[], Any]:
        pixels = _pixels(shape, batch, entry["dtype"], size)
        if tuple(interpreter.get_input_details()[0]["shape"]) != pixels.shape:
            interpreter.resize_tensor_input(entry["index"], pixels.shape)
        interpreter.allocate_tensors()  # Does nothing if there is nothing to do.

        def run() -> Any:
            interpreter.set_tensor(entry["index"], pixels)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in outputs]

        return run

    return call


def _load_onnx(artifact: Path, threads: int, size: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle threads would keep a core busy while other artifacts are timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        str(artifact), options, providers=["CPUExecutionProvider"]
    )
    (entry,) = session.get_inputs()
    name = entry.type.removeprefix("tensor(").removesuffix(")")
    dtype = np.dtype({"float": "float32", "double": "float64"}.get(name, name))

    def call(batch: int) -> Callable[[], Any]:
        pixels = _pixels(tuple(entry.shape), batch, dtype, size)
        return lambda: session.run(None, {entry.name: pixels})

    return call


def _load_saved_model(artifact: Path, size: int) -> Call:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(artifact))
    signature = loaded.signatures["serving_default"]
    ((name, spec),) = signature.structured_input_signature[1].items()

    def call(batch: int) -> Callable[[], Any]:
        pixels = _pixels(tuple(spec.shape), batch, spec.dtype.as_numpy_dtype, size)

        def run(_owner: Any = loaded) -> Any:  # The loaded object owns the variables.
            return [value.numpy() for value in signature(**{name: tf.constant(pixels)}).values()]

        return run

    return call


def _load_keras(artifact: Path, size: int) -> Call:
    import tensorflow as tf

    from keras_resnet.models.saving import load_model

    model = load_model(artifact, compile=False)
    shape = (None, *model.input_shape[1:])
    function = tf.function(
        lambda image: model(image, training=False), [tf.TensorSpec(shape, tf.float32)]
    )

    def call(batch: int) -> Callable[[], Any]:
        pixels = _pixels(shape, batch, np.float32, size)
        return lambda: [value.numpy() for value in tf.nest.flatten(function(tf.constant(pixels)))]

    return call


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
