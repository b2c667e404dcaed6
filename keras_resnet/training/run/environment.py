"""The environment of a training run: versions, machine, devices."""

from __future__ import annotations

import platform
from typing import Any

from keras_resnet.support.cores import usable_cores
from keras_resnet.support.extras import backend_and_devices, installed_versions

#: What a trained network depends on.
_PACKAGES = ("keras-resnets", "keras", "tensorflow", "numpy")


def describe_environment() -> dict[str, Any]:
    """Describes the machine and what is installed, without names of hosts, users or folders.

    Returns:
        Plain data: `python` and `platform` in words, `cpus` that this process may use, `versions`
        by distribution (with that of the backend; None: it is not installed), `backend` of Keras,
        and `devices`, such as `"GPU:0"`.
    """
    backend, devices, _ = backend_and_devices()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": usable_cores(),
        "versions": installed_versions(dict.fromkeys((*_PACKAGES, backend))),
        "backend": backend,
        "devices": devices,
    }
