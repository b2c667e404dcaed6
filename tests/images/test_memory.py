"""How much memory large pictures take."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnet.images.decode import MAX_PIXELS

from ..conftest import Command, Run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def memory(field: str) -> int:
    """Bytes that this process holds (`VmRSS`) or has held at most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


DECODE = """
import sys
import numpy as np
from keras_resnet.images.protocol import eval_transform
from tests.images.test_memory import memory, reset_peak
transform = eval_transform()
transform(np.zeros((300, 300, 3), np.uint8))
reset_peak()
before = memory("VmRSS")
assert transform(sys.argv[1]).shape == (224, 224, 3)
print(memory("VmHWM") - before)
"""


@pytest.mark.parametrize(
    ("suffix", "bytes_per_pixel"),
    [
        ("jpg", 4),
        pytest.param("png", 8, marks=pytest.mark.full),
        pytest.param("gif", 8, marks=pytest.mark.full),
        pytest.param("bmp", 8, marks=pytest.mark.full),
        pytest.param("webp", 16, marks=pytest.mark.full),
    ],
)
def test_the_largest_picture_takes_as_much_memory_as_is_stated(
    suffix: str, bytes_per_pixel: int, run_python: Run, tmp_path: Path
) -> None:
    side = int(MAX_PIXELS**0.5)
    path = tmp_path / f"large.{suffix}"
    Image.new("RGB", (side, side), (10, 200, 30)).save(path)
    done = run_python(DECODE, str(path))
    assert done.returncode == 0, done.stderr
    # A BMP has three bytes per pixel in its file, too.
    stated = bytes_per_pixel * side**2 + 2 * path.stat().st_size * (suffix != "bmp")
    assert int(done.stdout) < stated + 32 * 2**20


@pytest.mark.full
def test_a_batch_of_pictures_is_in_memory_in_the_models_size_only(
    tiny_model: keras.Model, tmp_path: Path, command_in_process: Command
) -> None:
    tiny_model.save(tmp_path / "model.keras")
    (tmp_path / "pictures").mkdir()
    for number in range(16):
        colour = tuple(np.random.default_rng(number).integers(0, 256, 3))
        Image.new("RGB", (3000, 3000), colour).save(tmp_path / "pictures" / f"{number}.jpg")
    arguments = ("predict", str(tmp_path / "model.keras"), str(tmp_path / "pictures"))
    assert command_in_process(*arguments).returncode == 0
    reset_peak()
    before = memory("VmRSS")
    assert command_in_process(*arguments).returncode == 0
    # One picture is 36 MB; all of them would be 432.
    assert memory("VmHWM") - before < 200 * 2**20
