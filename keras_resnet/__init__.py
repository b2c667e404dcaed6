"""ResNets for Keras 3: the papers' networks exactly, and exports that prove themselves."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"


def _refuse_abandoned_namesake() -> None:
    """`keras-resnet` 0.2.0 (2019) installs into this folder; its files would shadow ours."""
    try:
        version = importlib.metadata.version("keras-resnet")
    except importlib.metadata.PackageNotFoundError:
        return
    raise ImportError(
        f"The abandoned distribution `keras-resnet` {version} is installed and shares the import "
        "name `keras_resnet` with `keras-resnets`: run `pip uninstall -y keras-resnet`, then "
        "`pip install --force-reinstall --no-deps keras-resnets`."
    )


_refuse_abandoned_namesake()

if TYPE_CHECKING:
    from keras_resnet.analysis.complexity import Complexity, complexity
    from keras_resnet.builder import build
    from keras_resnet.config import ResNetConfig
    from keras_resnet.variants import (
        PlainNet18,
        PlainNet20,
        PlainNet32,
        PlainNet34,
        PlainNet44,
        PlainNet56,
        PlainNet110,
        ResNet18,
        ResNet20,
        ResNet32,
        ResNet34,
        ResNet44,
        ResNet50,
        ResNet56,
        ResNet101,
        ResNet110,
        ResNet152,
        ResNeXt50_32x4d,
        ResNeXt101_32x8d,
        ResNeXt101_64x4d,
        WideResNet50_2,
        WideResNet101_2,
        create_model,
        list_models,
    )

__all__ = [
    "Complexity",
    "PlainNet18",
    "PlainNet20",
    "PlainNet32",
    "PlainNet34",
    "PlainNet44",
    "PlainNet56",
    "PlainNet110",
    "ResNeXt50_32x4d",
    "ResNeXt101_32x8d",
    "ResNeXt101_64x4d",
    "ResNet18",
    "ResNet20",
    "ResNet32",
    "ResNet34",
    "ResNet44",
    "ResNet50",
    "ResNet56",
    "ResNet101",
    "ResNet110",
    "ResNet152",
    "ResNetConfig",
    "WideResNet50_2",
    "WideResNet101_2",
    "build",
    "complexity",
    "create_model",
    "list_models",
]

#: Where the public names live. They are imported when first used: the command sets TensorFlow up
#: before Keras imports it, and under another backend nothing of TensorFlow is imported at all.
_MODULES = ("config", "builder", "variants", "analysis.complexity")
_SUBPACKAGES = ("analysis", "data", "export", "training")


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"keras_resnet.{name}")
    if name in __all__:
        for module in _MODULES:
            found = vars(importlib.import_module(f"keras_resnet.{module}")).get(name)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module 'keras_resnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
