"""The environment of a training run: versions, machine, devices."""

from __future__ import annotations

import platform
from typing import Any

from keras_resnet.support.cores import usable_cores
from keras_resnet.support.extras import backend_and_devices, installed_versions

#: Packages that affect a trained network.
_PACKAGES = ("keras-resnets", "keras", "tensorflow", "numpy")


def describe_environment() -> dict[str, Any]:
    """Describe the machine and its software, without names of hosts, users or folders.

    Returns:
        JSON-serializable data: `python` (version), `platform`, `cpus` (number of cores that this
        process may use), `versions` (distribution -> version, None if it is not installed),
        `backend` of Keras, `batch_normalization` (`"fused"` by `accelerate`, or `"keras"`; earlier
        versions of this package, without this entry, trained with Keras'), and `devices`, such as
        `"GPU:0"`.
    """
    backend, devices, _ = backend_and_devices()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": usable_cores(),
        "versions": installed_versions(dict.fromkeys((*_PACKAGES, backend))),
        "backend": backend,
        "batch_normalization": "fused" if backend == "tensorflow" else "keras",
        "devices": devices,
    }
