"""What this installation consists of, what it can do and what is missing."""

from __future__ import annotations

import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import keras

import keras_resnet
from keras_resnet.extras import OPTIONAL

_BASE = ("keras", "tensorflow", "tensorflow-datasets", "numpy", "pillow", "scikit-learn", "matplotlib")


def diagnose() -> dict[str, Any]:
    """Versions, devices and optional dependencies as plain data.

    Returns:
        `versions` by distribution (`None`: not installed), `backend`, `devices`, and `optional`: per module its
        version, the extra that brings it and what does not work without it.
    """
    return {
        "versions": {
            "keras-resnets": keras_resnet.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _BASE},
        },
        "backend": keras.backend.backend(),
        "devices": _devices(),
        "optional": {
            module: {
                "version": _version(module.replace("_", "-")) if importlib.util.find_spec(module) else None,
                "extra": extra,
                "purpose": purpose,
            }
            for module, (extra, purpose) in OPTIONAL.items()
        },
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return [device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices()]
    return list(keras.distribution.list_devices())
