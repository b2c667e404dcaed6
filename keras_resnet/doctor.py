"""What this installation consists of, what it can do and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from typing import Any

import keras_resnet
from keras_resnet.extras import OPTIONAL

_BASE = (
    "keras",
    "tensorflow",
    "tensorflow-datasets",
    "numpy",
    "pillow",
    "scikit-learn",
    "matplotlib",
)


def diagnose() -> dict[str, Any]:
    """Versions, devices and optional dependencies as plain data.

    Returns:
        `versions` by distribution (`None`: not installed), `backend`, `devices`, `problem` (why
        Keras cannot be imported, or `None`), and `optional`: per module its version, the extra that
        brings it and what does not work without it.
    """
    # A module and its distribution may be called differently, as in onnxruntime-gpu.
    distributions = importlib.metadata.packages_distributions()
    backend, devices, problem = _backend()
    return {
        "versions": {
            "keras-resnets": keras_resnet.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _BASE},
        },
        "backend": backend,
        "devices": devices,
        "problem": problem,
        "optional": {
            module: {
                "version": _version(distributions.get(module, [module])[0])
                if importlib.util.find_spec(module)
                else None,
                "extra": extra,
                "purpose": purpose,
            }
            for module, (extra, purpose) in OPTIONAL.items()
        },
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _backend() -> tuple[str, list[str], str | None]:
    """Name of the Keras backend, its devices, and why it does not work."""
    try:
        import keras

        backend = keras.backend.backend()
        if backend == "tensorflow":
            import tensorflow as tf

            prefix = "/physical_device:"
            found = tf.config.list_physical_devices()
            return backend, [device.name.removeprefix(prefix) for device in found], None
        return backend, list(keras.distribution.list_devices()), None
    except Exception as error:
        # Whatever is broken, this command has to say so rather than break with it.
        return os.environ.get("KERAS_BACKEND", "unknown"), [], str(error)
