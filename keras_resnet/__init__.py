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
    from keras_resnet.checkpoints import from_checkpoint
    from keras_resnet.config import ResNetConfig
    from keras_resnet.features import feature_extractor
    from keras_resnet.labels import decode_predictions
    from keras_resnet.model_info import set_class_names
    from keras_resnet.predictor import Predictor
    from keras_resnet.preprocessing import preprocess_input
    from keras_resnet.saving import load_model
    from keras_resnet.variants import (
        PlainNet18,
        PlainNet20,
        PlainNet32,
        PlainNet34,
        PlainNet44,
        PlainNet56,
        PlainNet110,
        ResNet18,
        ResNet18D,
        ResNet18V2,
        ResNet20,
        ResNet32,
        ResNet34,
        ResNet34D,
        ResNet34V2,
        ResNet44,
        ResNet50,
        ResNet50_GN,
        ResNet50C,
        ResNet50D,
        ResNet50V2,
        ResNet56,
        ResNet101,
        ResNet101D,
        ResNet101V2,
        ResNet110,
        ResNet110V2,
        ResNet152,
        ResNet152D,
        ResNet152V2,
        ResNet164V2,
        ResNet200,
        ResNet200D,
        ResNet200V2,
        ResNet1001V2,
        ResNet1202,
        ResNetBlur50,
        ResNeXt50_32x4d,
        ResNeXt101_32x8d,
        ResNeXt101_64x4d,
        SEResNet18,
        SEResNet34,
        SEResNet50,
        SEResNet101,
        SEResNet152,
        WideResNet28_10,
        WideResNet50_2,
        WideResNet101_2,
        cifar_resnet,
        create_model,
        list_models,
    )
    from keras_resnet.weights.load import load_weights
    from keras_resnet.weights.registry import list_weights
    from keras_resnet.weights.report import LoadReport
    from keras_resnet.weights.save import save_torch_state_dict

__all__ = [
    "Complexity",
    "LoadReport",
    "PlainNet18",
    "PlainNet20",
    "PlainNet32",
    "PlainNet34",
    "PlainNet44",
    "PlainNet56",
    "PlainNet110",
    "Predictor",
    "ResNeXt50_32x4d",
    "ResNeXt101_32x8d",
    "ResNeXt101_64x4d",
    "ResNet18",
    "ResNet18D",
    "ResNet18V2",
    "ResNet20",
    "ResNet32",
    "ResNet34",
    "ResNet34D",
    "ResNet34V2",
    "ResNet44",
    "ResNet50",
    "ResNet50C",
    "ResNet50D",
    "ResNet50V2",
    "ResNet50_GN",
    "ResNet56",
    "ResNet101",
    "ResNet101D",
    "ResNet101V2",
    "ResNet110",
    "ResNet110V2",
    "ResNet152",
    "ResNet152D",
    "ResNet152V2",
    "ResNet164V2",
    "ResNet200",
    "ResNet200D",
    "ResNet200V2",
    "ResNet1001V2",
    "ResNet1202",
    "ResNetBlur50",
    "ResNetConfig",
    "SEResNet18",
    "SEResNet34",
    "SEResNet50",
    "SEResNet101",
    "SEResNet152",
    "WideResNet28_10",
    "WideResNet50_2",
    "WideResNet101_2",
    "build",
    "cifar_resnet",
    "complexity",
    "create_model",
    "decode_predictions",
    "feature_extractor",
    "from_checkpoint",
    "list_models",
    "list_weights",
    "load_model",
    "load_weights",
    "preprocess_input",
    "save_torch_state_dict",
    "set_class_names",
]

#: Where the public names live. They are imported when first used: the command sets TensorFlow up
#: before Keras imports it, and under another backend nothing of TensorFlow is imported at all.
_MODULES = (
    "config",
    "saving",
    "builder",
    "variants",
    "features",
    "analysis.complexity",
    "checkpoints",
    "weights.load",
    "weights.registry",
    "weights.report",
    "weights.save",
    "labels",
    "preprocessing",
    "model_info",
    "predictor",
)
_SUBPACKAGES = ("analysis", "data", "export", "preprocessing", "training", "weights")


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
