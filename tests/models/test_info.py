from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import keras
import pytest

from keras_resnet import ResNetConfig, build, load_model, load_weights
from keras_resnet.images.protocol import EvalProtocol
from keras_resnet.models.info import ModelInfo, get_info, set_class_names, set_info

TINY = ResNetConfig("basic", (1,), (8,), stem="cifar")


def model(classes: int = 3) -> keras.Model:
    return build(TINY, input_shape=(8, 8, 3), classes=classes)


def test_class_names_travel_with_saved_models(tmp_path: Path) -> None:
    named = model()
    config = get_info(named).config
    assert get_info(named) == ModelInfo(config=dataclasses.asdict(TINY))
    set_class_names(named, ["cat", "dög", "日本"], ["a", "b", "c"])
    info = get_info(named)
    assert (info.class_names, info.class_ids) == (("cat", "dög", "日本"), ("a", "b", "c"))
    named.save(tmp_path / "model.keras")
    loaded = get_info(load_model(tmp_path / "model.keras"))
    assert dataclasses.replace(loaded, config=info.config) == info
    assert ResNetConfig(**dict(loaded.config or {})) == TINY
    # And on, when it is saved again; Keras itself passes over them.
    load_model(tmp_path / "model.keras").save(tmp_path / "again.keras")
    assert get_info(load_model(tmp_path / "again.keras")) == loaded
    assert get_info(keras.saving.load_model(tmp_path / "model.keras")) == ModelInfo()
    copy = model()
    load_weights(copy, tmp_path / "model.keras")
    assert get_info(copy).class_names == info.class_names
    assert get_info(copy).weights == "model.keras"
    assert get_info(copy).config == config


def test_copies_that_keras_makes_are_told_by_hand() -> None:
    """A copy of core layers has no place for names; where Keras gives it one, say so."""
    named = model()
    set_class_names(named, list("abc"))
    for copy in (
        keras.models.clone_model(named),
        keras.Model(named.inputs, named.outputs),
        pickle.loads(pickle.dumps(named)),
    ):
        assert get_info(copy) == ModelInfo()
        set_info(copy, get_info(named))
        assert get_info(copy) == get_info(named)


def test_another_classifier_does_not_take_the_names(tmp_path: Path) -> None:
    named = model()
    set_class_names(named, list("abc"))
    named.save(tmp_path / "model.keras")
    other = model(classes=2)
    set_class_names(other, ["yes", "no"])
    load_weights(other, tmp_path / "model.keras")
    assert get_info(other).class_names == ("yes", "no")


def test_json_and_back() -> None:
    info = ModelInfo(("a", "b"), None, "timm/x", EvalProtocol(160, 200, "bicubic"))
    assert ModelInfo.from_json(info.to_json()) == info
    assert ModelInfo.from_json("{}") == ModelInfo()
    assert ModelInfo.from_json('{"class_names": ["a"], "of a later version": 1}') == ModelInfo(
        ("a",)
    )
    for text in ("[]", "{", '{"class_names": 3}', '{"protocol": {"side": 3}}'):
        with pytest.raises(ValueError, match="information about a model|Expecting"):
            ModelInfo.from_json(text)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "Expected 3 strings as `names`, one per class. Received: 1 of them"),
        ("abc", "Expected 3 strings as `names`.* Received: 'abc'"),
        ([1, 2, 3], r"Expected 3 strings as `names`.* Received: \[1, 2, 3\]"),
    ],
)
def test_wrong_names_are_refused(names: list[str], message: str) -> None:
    named = model()
    with pytest.raises(ValueError, match=message):
        set_class_names(named, names)
    assert get_info(named).class_names is None


def test_info_can_be_replaced() -> None:
    told = model()
    set_info(told, ModelInfo(protocol=EvalProtocol(8, 8)))
    set_class_names(told, list("abc"))
    assert get_info(told) == ModelInfo(("a", "b", "c"), protocol=EvalProtocol(8, 8))
