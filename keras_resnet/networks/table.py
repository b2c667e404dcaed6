"""The table of networks: a row each, by the name of its builder. It imports no Keras."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
from typing import Any, get_args

import numpy as np

from keras_resnet.networks.config import ResNetConfig, Version

_FILTERS = (64, 128, 256, 512)


def cifar_config(depth: int, block: str = "basic", **fields: Any) -> ResNetConfig:
    """The config of the CIFAR network with `depth` weighted layers.

    Three stages of 16, 32 and 64 filters on 32x32 images; shortcut A unless `fields` say otherwise
    (He et al. 2015, section 4.2).

    Args:
        depth: 6n+2 for basic blocks, 9n+2 for bottlenecks.
        block: `"basic"` or `"bottleneck"`.
        fields: other fields of `ResNetConfig`.

    Raises:
        ValueError: no such network.
    """
    per_n = 9 if block == "bottleneck" else 6
    if not isinstance(depth, (int, np.integer)) or depth < per_n + 2 or (depth - 2) % per_n:
        raise ValueError(
            f"Expected `depth` to be {per_n}n+2 with `block={block!r}` "
            "(6n+2 for basic blocks, 9n+2 for bottlenecks). "
            f"Received: depth={depth}"
        )
    config = ResNetConfig(
        block,  # type: ignore[arg-type]  # The config checks it.
        (int(depth - 2) // per_n,) * 3,
        (16, 32, 64),
        stem="cifar",
        shortcut="A",
    )
    return config.replace(**fields)


def _cifar_v2(depth: int) -> ResNetConfig:
    """The bottleneck networks of He et al. 2016, with the strides of resnet-1k-layers."""
    return cifar_config(depth, "bottleneck", version="v2", shortcut="B", preact_stride="1x1")


#: Blocks per stage of the ImageNet networks: He et al. 2015, Table 1; 200: He et al. 2016.
_BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_BOTTLENECK = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def _imagenet(depth: int, **fields: Any) -> ResNetConfig:
    if depth in _BASIC:
        return ResNetConfig("basic", _BASIC[depth], _FILTERS, **fields)
    return ResNetConfig("bottleneck", _BOTTLENECK[depth], _FILTERS, **fields)


#: The networks by the names of their builders.
ROWS: dict[str, ResNetConfig] = {
    "ResNet18": _imagenet(18),
    "ResNet34": _imagenet(34),
    "ResNet50": _imagenet(50),
    "ResNet101": _imagenet(101),
    "ResNet152": _imagenet(152),
    "ResNet200": _imagenet(200),
    "PlainNet18": _imagenet(18, shortcut=None),
    "PlainNet34": _imagenet(34, shortcut=None),
    "ResNet18V2": _imagenet(18, version="v2"),
    "ResNet34V2": _imagenet(34, version="v2"),
    "ResNet50V2": _imagenet(50, version="v2"),
    "ResNet101V2": _imagenet(101, version="v2"),
    "ResNet152V2": _imagenet(152, version="v2"),
    "ResNet200V2": _imagenet(200, version="v2"),
    # Zagoruyko and Komodakis 2016: the 3x3 convolutions of the bottlenecks are twice as wide.
    "WideResNet50_2": _imagenet(50, width_per_group=128),
    "WideResNet101_2": _imagenet(101, width_per_group=128),
    # Xie et al. 2016: cardinality x width of a group.
    "ResNeXt50_32x4d": _imagenet(50, groups=32, width_per_group=4),
    "ResNeXt101_32x8d": _imagenet(101, groups=32, width_per_group=8),
    "ResNeXt101_64x4d": _imagenet(101, groups=64, width_per_group=4),
    # He et al. 2019: C stem, and D shortcut on top of it. Their names count the stem as one layer.
    "ResNet50C": _imagenet(50, stem="C"),
    "ResNet18D": _imagenet(18, stem="C", downsample="average"),
    "ResNet34D": _imagenet(34, stem="C", downsample="average"),
    "ResNet50D": _imagenet(50, stem="C", downsample="average"),
    "ResNet101D": _imagenet(101, stem="C", downsample="average"),
    "ResNet152D": _imagenet(152, stem="C", downsample="average"),
    "ResNet200D": _imagenet(200, stem="C", downsample="average"),
    # Hu et al. 2018.
    "SEResNet18": _imagenet(18, se_ratio=1 / 16),
    "SEResNet34": _imagenet(34, se_ratio=1 / 16),
    "SEResNet50": _imagenet(50, se_ratio=1 / 16),
    "SEResNet101": _imagenet(101, se_ratio=1 / 16),
    "SEResNet152": _imagenet(152, se_ratio=1 / 16),
    # Zhang 2019; Wu and He 2018.
    "ResNetBlur50": _imagenet(50, blur_pool=True),
    "ResNet50_GN": _imagenet(50, norm="group"),
    # He et al. 2015, section 4.2.
    "ResNet20": cifar_config(20),
    "ResNet32": cifar_config(32),
    "ResNet44": cifar_config(44),
    "ResNet56": cifar_config(56),
    "ResNet110": cifar_config(110),
    "ResNet1202": cifar_config(1202),
    "PlainNet20": cifar_config(20, shortcut=None),
    "PlainNet32": cifar_config(32, shortcut=None),
    "PlainNet44": cifar_config(44, shortcut=None),
    "PlainNet56": cifar_config(56, shortcut=None),
    "PlainNet110": cifar_config(110, shortcut=None),
    # He et al. 2016.
    "ResNet110V2": cifar_config(110, version="v2"),
    "ResNet164V2": _cifar_v2(164),
    "ResNet1001V2": _cifar_v2(1001),
    # Zagoruyko and Komodakis 2016; they count the three projections among the 28 layers.
    "WideResNet28_10": ResNetConfig(
        "basic", (4, 4, 4), (160, 320, 640), version="v2", stem="cifar", stem_filters=16
    ),
}

#: The same by the names that `list_models` gives them.
VARIANTS = {name.lower(): config for name, config in ROWS.items()}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks that match a shell-style pattern, such as `resnet*`."""
    return [name for name in VARIANTS if fnmatch.fnmatch(name, pattern.lower())]


def get_config(name: str, /, **overrides: Any) -> ResNetConfig:
    """The config of the network called `name`, with some fields replaced.

    Raises:
        ValueError: unknown name or field, an impossible network, or a shortcut for a plain network.
    """
    if not isinstance(name, str) or name not in VARIANTS:
        names = difflib.get_close_matches(str(name), VARIANTS, n=5) or list_models()
        raise ValueError(
            f"Expected a network of `list_models()`, such as {', '.join(names)}. Received: {name!r}"
        )
    config = VARIANTS[name]
    if config.shortcut is None and overrides.get("shortcut") is not None:
        residual = name.replace("plainnet", "resnet")
        raise ValueError(
            f"Expected `shortcut=None` for the plain network `{name}`. "
            f"Received: shortcut={overrides['shortcut']!r}. "
            f"Use `{residual}` for a network with shortcuts"
        )
    return config.replace(**overrides)


def versions(name: str) -> list[str]:
    """The versions that the network called `name` can have, its own first."""
    own = get_config(name).version
    found: list[str] = [own]
    for version in get_args(Version):
        if version != own:
            with contextlib.suppress(ValueError):
                found.append(get_config(name, version=version).version)
    return found
