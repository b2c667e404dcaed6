"""Time the prediction of one image with `Predictor` and with `model.predict`.

    python -m tests.benchmarks.predict [--rounds 50]

It prints medians of runs in turn. Only ratios can be compared between machines.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tests.benchmarks.build_and_import import in_turn, timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    import numpy as np

    import keras_resnet

    for name in ("resnet20", "resnet50"):
        model = keras_resnet.create_model(name)
        predictor = keras_resnet.Predictor(model)
        image = np.zeros((1, *model.input_shape[1:]), np.uint8)
        works = {
            "Predictor": lambda: timed(lambda: predictor.predict(image)),  # noqa: B023
            "model.predict": lambda: timed(lambda: model.predict(image, verbose=0)),  # noqa: B023
        }
        in_turn(3, works)  # Compiles both.
        times = in_turn(rounds, works)
        for what, seconds in times.items():
            print(f"{name}, one image, {what}: {seconds * 1000:.1f} ms")
        print(f"ratio: {times['Predictor'] / times['model.predict']:.2f}")


if __name__ == "__main__":
    main()
