"""A process ends although a pipeline of its own still reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..conftest import Run


def test_a_process_ends_while_a_pipeline_reads(run_python: Run, tmp_path: Path) -> None:
    for index in range(64):
        file = tmp_path / "pictures" / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(file)
    code = f"""
import time
from keras_resnet.data import DataConfig, load_data, reading, training_batches
read_image = reading.read_image
def slow(*arguments):
    time.sleep(0.01)
    return read_image(*arguments)
reading.read_image = slow
config = DataConfig("folder:{tmp_path / "pictures"}", size=8, batch_size=16)
# Nobody lets go of it before the process ends.
batches = iter(training_batches(load_data(config)[0], config, 100))
next(batches)
print("done")
"""
    done = run_python(code, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
