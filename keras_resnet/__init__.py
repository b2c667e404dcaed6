"""ResNets for Keras 3: the networks of the papers, and exports that are verified when written."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import lazy_loader

__version__ = "0.1.0"


def _refuse_abandoned_namesake() -> None:
    """Raise ImportError if `keras-resnet` 0.2.0 (2019) is installed, which has the same folder."""
    try:
        version = importlib.metadata.version("keras-resnet")
    except importlib.metadata.PackageNotFoundError:
        return
    raise ImportError(
        f"The abandoned distribution `keras-resnet` {version} is installed and shares the import "
        "name `keras_resnet` with this package. Run `pip uninstall -y keras-resnet keras-resnets`, "
        "and install this package again from its clone or wheel."
    )


_refuse_abandoned_namesake()

# The stub beside this file lists the public names and their modules. A module is imported when one
# of its names is first used: the command configures TensorFlow before Keras imports it, and under
# another backend TensorFlow is not imported at all.
_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        message = f"module 'keras_resnet' has no attribute {name!r}"
        # Python tools probe modules for names with underscores; those get no suggestion.
        if not name.startswith("_"):
            from keras_resnet.support.suggest import did_you_mean

            message += did_you_mean(name, __all__)
        raise AttributeError(message)
    from keras_resnet.support.quiet import without_start_up_notes

    with without_start_up_notes():
        return _attribute(name)
