"""Diagnosis of an installation: versions, devices and missing packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from typing import Any

from keras_resnet.support.extras import (
    OPTIONAL,
    backend_and_devices,
    installed_version,
    installed_versions,
    pip_line,
)

_BASE = (
    "keras-resnets",
    "keras",
    "tensorflow",
    "tensorflow-datasets",
    "numpy",
    "pillow",
    "scikit-learn",
    "matplotlib",
)


def diagnose() -> dict[str, Any]:
    """Return versions, devices and optional dependencies as JSON-serializable data.

    Returns:
        `versions`: distribution -> version, None if it is not installed; `backend`; `devices`;
        `problem`: the reason why Keras cannot be imported, or None; `optional`: module -> its
        version, the extra that installs it, its purpose and the command that installs it.
    """
    # A module and its distribution may have different names, such as onnxruntime-gpu.
    distributions = importlib.metadata.packages_distributions()
    backend, devices, problem = backend_and_devices()
    return {
        "versions": {"python": platform.python_version(), **installed_versions(_BASE)},
        "backend": backend,
        "devices": devices,
        "problem": problem,
        "optional": {
            module: {
                "version": installed_version(distributions.get(module, [module])[0])
                if importlib.util.find_spec(module)
                else None,
                "extra": extra,
                "purpose": purpose,
                "install": pip_line(module),
            }
            for module, (extra, purpose) in OPTIONAL.items()
        },
    }
