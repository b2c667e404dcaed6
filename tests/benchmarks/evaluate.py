"""Time `evaluate` beside the plain model, and ten crops beside one.

    python -m tests.benchmarks.evaluate [--network resnet50] [--images 256] [--rounds 3]

It prints ratios of medians of runs in turn. The images are JPEGs of 500x375 pixels, the average
size of ImageNet's.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tests.benchmarks.build_and_import import in_turn, timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    import keras
    import numpy as np
    from PIL import Image

    import keras_resnet
    from keras_resnet.evaluation import evaluate

    keras.utils.set_random_seed(0)
    model = keras_resnet.create_model(options.network, classes=2)
    predictor = keras_resnet.Predictor(model)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(options.images):
            path = Path(folder, "cat" if index % 2 else "dog", f"{index}.jpg")
            path.parent.mkdir(exist_ok=True)
            coarse = np.random.default_rng(index).integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((500, 375)).save(path, quality=90)
        side = predictor.protocol.size
        batch = np.zeros((options.images, side, side, 3), np.uint8)

        def run(protocol: str) -> float:
            return evaluate(model, f"folder:{folder}", protocol, split="all").seconds

        works = {
            "plain model": lambda: timed(lambda: predictor.predict(batch)),
            "evaluate": lambda: run("single"),
            "ten crops": lambda: run("ten_crop"),
        }
        in_turn(1, works)  # Compiles.
        times = in_turn(options.rounds, works)
    for what, seconds in times.items():
        print(f"{options.network}, {what}: {options.images / seconds:.1f} images/s")
    print(f"evaluate / plain model: {times['evaluate'] / times['plain model']:.2f}")
    print(f"ten crops / evaluate: {times['ten crops'] / times['evaluate']:.2f}")


if __name__ == "__main__":
    main()
