"""Faults of other packages that these tests go around: each test fails once one is mended."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import pytest

from keras_resnet.models.hdf5 import Hdf5File

from .conftest import Run

CPU = Path("/proc/cpuinfo")

GRADIENT = """
import numpy as np
import tensorflow as tf
x = tf.constant(np.ones((25, 16, 16, 8), np.float32))
kernel = tf.Variable(np.ones((1, 1, 8, 16), np.float32))
@tf.function
def gradient():
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.nn.conv2d(x, kernel, 2, "SAME"))
    return tape.gradient(loss, kernel)
for _ in range(100):
    gradient()
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not CPU.exists() or "avx512f" not in CPU.read_text(), reason="needs a processor with AVX-512"
)
def test_onednn_writes_outside_of_its_memory(run_new_python: Run) -> None:
    """Once this fails, TF_ENABLE_ONEDNN_OPTS can go from conftest.py."""
    checks = {
        "LD_PRELOAD": "libc_malloc_debug.so",
        "GLIBC_TUNABLES": "glibc.malloc.check=3",
    }
    assert run_new_python(GRADIENT, TF_ENABLE_ONEDNN_OPTS="1", **checks).returncode < 0
    assert run_new_python(GRADIENT, TF_ENABLE_ONEDNN_OPTS="0", **checks).returncode == 0


def test_h5py_writes_what_load_model_checks() -> None:
    """HDF5's first format; `models/hdf5.py` has to learn a later one before h5py writes it."""
    file = io.BytesIO()
    with h5py.File(file, "w") as written:
        written["values"] = [1.0]
    assert file.getvalue()[:9] == b"\x89HDF\r\n\x1a\n\x00"
    Hdf5File(file.getvalue()).check()
