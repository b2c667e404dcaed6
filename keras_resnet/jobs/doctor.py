"""Diagnosis of an installation: versions, devices and missing packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
from typing import Any

from keras_resnet.support.extras import (
    OPTIONAL,
    REQUIREMENTS,
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


def diagnose(quick: bool = False) -> dict[str, Any]:
    """Return versions, devices and optional dependencies as JSON-serializable data.

    Args:
        quick: whether to leave out whatever needs an import of Keras and its backend.

    Returns:
        `versions`: distribution -> version, None if it is not installed; `backend`; `devices`;
        `problem`: the reason why Keras cannot be imported, or None; all three are None if `quick`;
        `optional`: module -> its version, the extra that installs it, its purpose and the command
        that installs it.
    """
    backend, devices, problem = (None, None, None) if quick else backend_and_devices()
    return {
        "versions": {"python": platform.python_version(), **installed_versions(_BASE)},
        "backend": backend,
        "devices": devices,
        "problem": problem,
        "optional": {
            module: {
                "version": _version_of(module) if importlib.util.find_spec(module) else None,
                "extra": extra,
                "purpose": purpose,
                "install": pip_line(module),
            }
            for module, (extra, purpose) in OPTIONAL.items()
        },
    }


def _version_of(module: str) -> str | None:
    """Version of the distribution that brings an optional module."""
    usual = re.split("[<>=]", REQUIREMENTS[module])[0]
    if version := installed_version(usual):
        return version
    # Another one brings it, as onnxruntime-gpu does. To read what all of them bring takes longer.
    others = importlib.metadata.packages_distributions().get(module, [])
    return installed_version(others[0]) if others else None
