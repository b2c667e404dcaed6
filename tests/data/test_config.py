from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from keras_resnet.data import AUGMENTATIONS, Augmentation, DataConfig
from keras_resnet.images.protocol import EvalProtocol


def test_configs_survive_json() -> None:
    config = DataConfig(
        "digits", size=96, augmentation="he2015", protocol=EvalProtocol(96, 120, "bicubic")
    )
    again = DataConfig(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config
    assert again.augmentation == AUGMENTATIONS["he2015"]
    assert isinstance(again.protocol, EvalProtocol)


def test_protocol_follows_the_size_where_none_is_given() -> None:
    assert DataConfig("digits", size=32).eval_protocol == EvalProtocol(32, 32)
    assert DataConfig("digits").eval_protocol == EvalProtocol(224, 256)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"crop": "square"}, "`crop` to be one of"),
        ({"auto": "more"}, "`auto` to be one of"),
        ({"flip": 1.5}, "`flip` to be a number in"),
        ({"flip": True}, "Received: True"),
        ({"mixup": float("inf")}, "`mixup` to be a number at least 0. Received: inf"),
        ({"lighting": float("nan")}, "Received: nan"),
        ({"area": (0.5, 0.1)}, r"a pair \(smallest, largest\)"),
        ({"area": (0.1, "x")}, "`area` to be a number"),
        ({"area": 0.3}, r"a pair \(smallest, largest\)"),
        ({"short_side": (256.5, 300)}, "an integer"),
        ({"short_side": (200, 300)}, "at least 224"),
        ({"repeats": 0}, "`repeats` to be an integer of at least 1"),
        ({"hue": 0.6}, "`hue`"),
        ({"fill": 3}, r"`fill` to be a color \(red, green, blue\). Received: 3"),
        ({"fill": (0, 0)}, "`fill` to be a color"),
        ({"fill": (0, 0, 256)}, r"`fill` to be a number in \[0, 255\]"),
        ({"fill": (0, 0, 0.5)}, "`fill` to be an integer"),
        ({"auto_deviation": -1}, "`auto_deviation`"),
        ({"auto_probability": 2}, "`auto_probability`"),
    ],
)
def test_impossible_augmentations_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Augmentation(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"source": 5}, "`source` to be a string. Received: 5"),
        ({"augmentation": "heavy"}, "one of .*'inception'.* Received: 'heavy'"),
        ({"augmentation": None}, "Received: None"),
        ({"protocol": 3}, "an `EvalProtocol`. Received: 3"),
        ({"protocol": EvalProtocol(32, 40)}, "`protocol.size` to be equal"),
        ({"validation_fraction": "a"}, "`validation_fraction` to be a number"),
        ({"validation_fraction": 1}, "between 0 and 1"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"seed": -1}, "`seed`"),
        ({"max_bad_fraction": 2}, "`max_bad_fraction`"),
    ],
)
def test_impossible_configs_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataConfig(**{"source": "digits", **fields})
