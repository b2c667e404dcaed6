"""Export ResNet-50 at 224x224 pixels to every target, and measure time, memory and latencies.

    python -m tests.benchmarks.export IMAGES --output DIR [--other torchvision.onnx]

`IMAGES` is a folder with pictures, at any depth. The network has random weights, which do not
affect these figures. To compare with torchvision's network, export it in an environment with torch:

    model = torchvision.models.resnet50().eval()
    torch.onnx.export(model, torch.zeros(1, 3, 224, 224), "torchvision.onnx", dynamo=False,
        opset_version=17, input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}})
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras_resnet
from keras_resnet.export import TARGETS, benchmark, export
from keras_resnet.images.decode import find_images


def exporting(images: str, output: Path) -> None:
    """Print the seconds and the peak memory of every step."""
    steps: list[tuple[str, float, float]] = []
    # Random weights may disagree in int8, and the search for the layers takes long.
    for name, target in TARGETS.items():
        TARGETS[name] = dataclasses.replace(target, layer_errors=None)
    model = keras_resnet.ResNet50()
    export(
        model,
        output,
        tuple(TARGETS),
        calibration=find_images([images]),
        allow_disagreement=True,
        timing=None,
        overwrite=True,
        progress=lambda step, done: steps.append((step, time.perf_counter(), peak_memory())),
    )
    steps.append(("end", time.perf_counter(), peak_memory()))
    for (name, start, _), (_, end, peak) in itertools.pairwise(steps):
        print(f"{name:20s} {end - start:6.1f} s {peak:6.2f} GB")
    peak = max(peak for _, _, peak in steps)
    print(f"{'together':20s} {steps[-1][1] - steps[0][1]:6.1f} s {peak:6.2f} GB", flush=True)


def peak_memory() -> float:
    """Return the peak memory of this process since the last call, in gigabytes (on Linux)."""
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(peak.split()[1]) / 1e6


def timing(artifacts: list[Path], seconds: float) -> None:
    """Print latencies for batches of 1 and 16, and their ratios to the first artifact."""
    for row in benchmark(artifacts, batch_sizes=(1, 16), seconds=seconds).to_dict()["measurements"]:
        print(
            f"{Path(row['artifact']).name:24s} batch {row['batch_size']:2d} "
            f"{row['p50_ms']:8.1f} ms {row['ratio']:7.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--seconds", type=float, default=8)
    options = parser.parse_args()
    exporting(options.images, options.output)
    folder = options.output
    names = ("float32", "float16", "dynamic", "int8")
    timing([folder / f"model-{name}.tflite" for name in names], options.seconds)
    others = [options.other] if options.other else []
    timing([*others, folder / "model.onnx"], options.seconds)
    timing([folder / f"model{name}.onnx" for name in ("", "-float16", "-int8")], options.seconds)
    for name in ("model-int8.tflite", "model-float32.tflite"):
        print(f"{name:24s} {(folder / name).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
