"""The table of networks, one row per network. Reading it does not import Keras."""

from __future__ import annotations

import contextlib
import fnmatch
from typing import Any, get_args

from keras_resnet.networks.config import Block, ResNetConfig, Version
from keras_resnet.support.checks import is_integer
from keras_resnet.support.suggest import did_you_mean, key_of


def cifar_config(depth: int, block: str = "basic", **fields: Any) -> ResNetConfig:
    """Return the config of the CIFAR network with `depth` weighted layers.

    It has three stages of 16, 32 and 64 filters, and by default shortcut A (He et al. 2015, section
    4.2).

    Args:
        depth: 6n+2 for basic blocks, 9n+2 for bottlenecks.
        block: `"basic"` or `"bottleneck"`.
        fields: other fields of `ResNetConfig`.

    Raises:
        ValueError: no network has this depth, or a field is impossible.
    """
    per_n = 9 if block == "bottleneck" else 6
    if not is_integer(depth, per_n + 2) or (depth - 2) % per_n:
        raise ValueError(
            f"Expected `depth` to be {per_n}n+2 with `block={block!r}` "
            "(6n+2 for basic blocks, 9n+2 for bottlenecks). "
            f"Received: depth={depth}"
        )
    config = ResNetConfig(
        block,  # type: ignore[arg-type]  # The config checks it.
        ((int(depth) - 2) // per_n,) * 3,
        (16, 32, 64),
        stem="cifar",
        shortcut="A",
    )
    return config.replace(**fields)


def _cifar_v2(depth: int) -> ResNetConfig:
    """Return the config of a bottleneck network of He et al. 2016, as in resnet-1k-layers."""
    return cifar_config(depth, "bottleneck", version="v2", shortcut="B", preact_stride="1x1")


#: Blocks per stage of the ImageNet networks: He et al. 2015, Table 1; 200: He et al. 2016.
_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def _imagenet(depth: int, **fields: Any) -> ResNetConfig:
    block: Block = "basic" if depth < 50 else "bottleneck"
    return ResNetConfig(block, _BLOCKS[depth], (64, 128, 256, 512), **fields)


#: The networks by the names of their builders.
ROWS: dict[str, ResNetConfig] = {
    **{f"ResNet{depth}": _imagenet(depth) for depth in _BLOCKS},
    **{f"PlainNet{depth}": _imagenet(depth, shortcut=None) for depth in (18, 34)},
    **{f"ResNet{depth}V2": _imagenet(depth, version="v2") for depth in _BLOCKS},
    # Zagoruyko and Komodakis 2016: the 3x3 convolutions of the bottlenecks are twice as wide.
    **{f"WideResNet{depth}_2": _imagenet(depth, width_per_group=128) for depth in (50, 101)},
    # Xie et al. 2016: cardinality x width per group.
    "ResNeXt50_32x4d": _imagenet(50, groups=32, width_per_group=4),
    "ResNeXt101_32x8d": _imagenet(101, groups=32, width_per_group=8),
    "ResNeXt101_64x4d": _imagenet(101, groups=64, width_per_group=4),
    # He et al. 2019: the C stem; D has the C stem and D shortcuts. The names count the stem once.
    "ResNet50C": _imagenet(50, stem="C"),
    **{f"ResNet{depth}D": _imagenet(depth, stem="C", downsample="average") for depth in _BLOCKS},
    # Hu et al. 2018.
    **{f"SEResNet{depth}": _imagenet(depth, se_ratio=1 / 16) for depth in (18, 34, 50, 101, 152)},
    # Zhang 2019; Wu and He 2018.
    "ResNetBlur50": _imagenet(50, blur_pool=True),
    "ResNet50_GN": _imagenet(50, norm="group"),
    # He et al. 2015, section 4.2.
    **{f"ResNet{depth}": cifar_config(depth) for depth in (20, 32, 44, 56, 110, 1202)},
    **{f"PlainNet{depth}": cifar_config(depth, shortcut=None) for depth in (20, 32, 44, 56, 110)},
    # He et al. 2016.
    "ResNet110V2": cifar_config(110, version="v2"),
    "ResNet164V2": _cifar_v2(164),
    "ResNet1001V2": _cifar_v2(1001),
    # Zagoruyko and Komodakis 2016; they count the three projections among the 28 layers.
    "WideResNet28_10": ResNetConfig(
        "basic", (4, 4, 4), (160, 320, 640), version="v2", stem="cifar", stem_filters=16
    ),
}

#: The networks by their names in `list_models()`.
VARIANTS = {name.lower(): config for name, config in ROWS.items()}


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the networks that match a pattern.

    Args:
        pattern: a shell-style pattern, such as `"resnet*"`; case does not matter.

    Returns:
        Names for `create_model` and the command line, in the order of the table.

    Examples:
        >>> keras_resnet.list_models("plainnet3*")
        ['plainnet34', 'plainnet32']
    """
    return [name for name in VARIANTS if fnmatch.fnmatch(name, pattern.lower())]


_BY_KEY = {key_of(name): name for name in VARIANTS}


def find_name(name: Any) -> str:
    """Return the name in `list_models()` of a network that may be written like `ResNet-50`.

    Raises:
        ValueError: there is no such network; the message suggests a similar one.
    """
    found = _BY_KEY.get(key_of(name)) if isinstance(name, str) else None
    if found is None:
        hint = did_you_mean(name, VARIANTS, "`keras-resnet list` shows them all")
        raise ValueError(f"Expected a network of `list_models()`. Received: {name!r}{hint}")
    return found


def get_config(name: str, /, **overrides: Any) -> ResNetConfig:
    """Return the config of a network, with some fields replaced.

    Args:
        name: as in `list_models()`; case, hyphens and underscores do not matter.
        overrides: fields of `ResNetConfig`.

    Raises:
        ValueError: the name or a field is unknown, the network is impossible, or a plain network is
            to get a shortcut.
    """
    name = find_name(name)
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
    """Return the versions in which the network called `name` can be built, its own first."""
    own = get_config(name).version
    found: list[str] = [own]
    for version in get_args(Version):
        if version != own:
            with contextlib.suppress(ValueError):
                found.append(get_config(name, version=version).version)
    return found
