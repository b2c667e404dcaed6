"""Time a lesion study, which deletes each block in turn, beside as many whole evaluations.

    python -m tests.benchmarks.lesion [--network resnet110] [--images 128] [--rounds 3]

It prints ratios of medians of runs in turn. Whole evaluations are timed six at once: with
`predict`, which is compiled, and in eager mode, as the study runs.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tests.benchmarks.build_and_import import in_turn, timed

#: Number of whole evaluations that are timed at once.
_TIMED = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", default="resnet110")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    import numpy as np

    import keras_resnet
    from keras_resnet.analysis import lesion_study

    model = keras_resnet.create_model(options.network)
    random = np.random.default_rng(0)
    size = (options.images, *model.input_shape[1:])
    images = random.integers(0, 256, size, dtype=np.uint8)
    labels = random.integers(0, model.output_shape[-1], options.images)

    def compiled() -> None:
        for _ in range(_TIMED):
            model.predict(images, batch_size=128, verbose=0)

    def eager() -> None:
        for _ in range(_TIMED):
            for start in range(0, len(images), 128):
                model(images[start : start + 128], training=False)

    blocks = len(lesion_study(model, (images[:8], labels[:8])).names)
    works = {
        "predict": lambda: timed(compiled) * blocks / _TIMED,
        "eager": lambda: timed(eager) * blocks / _TIMED,
        "lesions": lambda: timed(lambda: lesion_study(model, (images, labels))),
    }
    in_turn(1, works)  # Compiles.
    times = in_turn(options.rounds, works)
    print(f"{options.network}: all {blocks} deletions: {times['lesions']:.1f} s")
    for name in ("predict", "eager"):
        ratio = times["lesions"] / times[name]
        print(f"{blocks} whole evaluations ({name}): {times[name]:.1f} s; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
