"""Installed packages: import of optional ones, versions, and the Keras backend."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import shlex
from collections.abc import Iterable
from typing import Any

#: Module -> (extra that installs it, feature that needs it).
OPTIONAL = {
    "tf2onnx": ("export", "writing ONNX"),
    "onnx": ("export", "writing ONNX"),
    "onnxruntime": ("export", "running and verifying ONNX"),
    "ai_edge_litert": ("export", "running and verifying TFLite"),
    "tensorflow_serving": ("export", "writing requests and settings for TF Serving"),
    "tensorflow_model_optimization": ("compression", "compression with the engine tfmot"),
    "tf_keras": ("compression", "compression with the engine tfmot, or a network's tf_keras twin"),
}

#: Module -> requirement for pip, as in `pyproject.toml`.
REQUIREMENTS = {
    "tf2onnx": "tf2onnx>=1.17",
    "onnx": "onnx>=1.20",
    "onnxruntime": "onnxruntime>=1.22",
    "ai_edge_litert": "ai-edge-litert>=2.1",
    "tensorflow_serving": "tensorflow-serving-api>=2.21",
    "tensorflow_model_optimization": "tensorflow-model-optimization>=0.8.1",
    "tf_keras": "tf-keras>=2.21",
}


def pip_line(module: str) -> str:
    """Return the command that installs an optional module and others that its extra lacks.

    It names the packages, not the extra, so that it works however this package was installed.
    """
    extra = OPTIONAL[module][0]
    missing = [
        requirement
        for other, requirement in REQUIREMENTS.items()
        if other == module
        or (OPTIONAL[other][0] == extra and importlib.util.find_spec(other) is None)
    ]
    return f"pip install {' '.join(map(shlex.quote, missing))}"


def require(module: str) -> Any:
    """Import and return an optional module or submodule.

    Raises:
        ImportError: the module is not installed; the message has the command that installs it.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        purpose = OPTIONAL[package][1]
        raise ImportError(
            f"{purpose[0].upper()}{purpose[1:]} needs the package `{package}`, which is not "
            f"installed: run `{pip_line(package)}`.",
            name=package,
        ) from error


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution, such as `"0.1.0"`; `None` if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions(distributions: Iterable[str]) -> dict[str, str | None]:
    """Return the versions of distributions by name; `None` for those that are not installed."""
    return {name: installed_version(name) for name in distributions}


def backend_and_devices() -> tuple[str, list[str], str | None]:
    """Return the name of the Keras backend, its devices, and its error or `None`."""
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
        # A report must show any error of the backend instead of failing.
        return os.environ.get("KERAS_BACKEND", "unknown"), [], str(error)
