from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import keras_resnet
from keras_resnet import ResNetConfig, build, decode_predictions
from keras_resnet.export import export
from keras_resnet.images.labels import PERHAPS_UNTRAINED, imagenet_classes
from keras_resnet.jobs.predictor import Predictor
from keras_resnet.models.info import set_class_names
from keras_resnet.models.untrained import untrained_part

from ..conftest import Command, randomize

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)


def fresh(config: ResNetConfig, classes: int = 1000, **keywords: Any) -> keras.Model:
    return build(config, input_shape=(16, 16, 3), classes=classes, **keywords)


def bias_the_head(model: keras.Model) -> None:
    model.get_layer("predictions").bias.assign_add(np.ones(model.output_shape[-1]))


@pytest.mark.parametrize(
    "fields",
    [{}, {"version": "v2"}, {"norm": "group", "norm_groups": 2}, {"zero_init_residual": True}],
)
def test_one_step_of_training_tells(fields: dict[str, Any], tiny_config: ResNetConfig) -> None:
    model = fresh(tiny_config.replace(**fields), 3)
    assert untrained_part(model) == "weights"
    assert untrained_part(fresh(tiny_config, 3, name="b", classifier_activation=None)) == "weights"
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(IMAGES, np.array([0, 1, 2, 0]), verbose=0)
    assert untrained_part(model) is None


def test_a_new_head_on_a_trained_network_is_told(tiny_config: ResNetConfig) -> None:
    model = fresh(tiny_config, 3)
    randomize(model)
    model.get_layer("predictions").bias.assign(np.zeros(3))
    assert untrained_part(model) == "classifier"
    assert untrained_part(keras.Sequential([model])) == "classifier"
    bias_the_head(model)
    assert untrained_part(keras.Sequential([model])) is None
    # Features of random weights are random, too; of trained ones, there is no head to judge.
    assert untrained_part(fresh(tiny_config, None, include_top=False)) == "weights"
    assert untrained_part(keras.Model(model.inputs, model.get_layer("avg_pool").output)) is None


def test_a_model_without_anything_to_tell_by_is_not_judged() -> None:
    layers = [keras.layers.Conv2D(2, 3), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    assert untrained_part(model) is None
    head = keras.layers.Dense(2, use_bias=False)
    assert untrained_part(keras.Sequential([keras.Input((8, 8, 3)), *layers, head])) is None


def test_published_weights_are_trained(digits_file: Path) -> None:
    model = keras_resnet.ResNet20(weights="cifar10")
    assert untrained_part(model) is None
    assert untrained_part(keras_resnet.load_model(digits_file)) is None
    with pytest.warns(UserWarning, match="the classifier is new"):
        other = keras_resnet.ResNet20(weights="cifar10", classes=1000)
    # Neither ImageNet's names nor those of CIFAR-10 are right.
    with pytest.warns(UserWarning, match="resnet20: the classifier has random weights"):
        predictor = Predictor(other)
    ((best,),) = predictor.classify(IMAGES[:1], top=1)
    assert best[0] == best[1] == str(int(best[0]))


def test_random_weights_know_no_names(tiny_config: ResNetConfig, tmp_path: Path) -> None:
    model = fresh(tiny_config, name="random")
    with pytest.warns(UserWarning, match="random: the weights are random and were never trained"):
        export(model, tmp_path, ["tflite-float32"], images=IMAGES, timing=None)
    model.save(tmp_path / "model.keras")
    for source in (model, tmp_path / "model.keras", tmp_path / "model-float32.tflite"):
        with pytest.warns(UserWarning, match=r"(random|model.*): the weights are random"):
            predictor = Predictor(source)
        assert predictor.class_names is None
        for wordnet_id, name, _ in predictor.classify(IMAGES[:1])[0]:
            assert wordnet_id == name == str(int(name))
    # Names that somebody gave stay; the warning, too.
    set_class_names(model, [f"class {index}" for index in range(1000)])
    with pytest.warns(UserWarning, match="the weights are random"):
        named = Predictor(model).classify(IMAGES[:1])[0]
    assert all(name.startswith("class ") for _, name, _ in named)


def test_trained_networks_of_1000_classes_have_imagenets_names(
    tiny_config: ResNetConfig, recwarn: pytest.WarningsRecorder
) -> None:
    PERHAPS_UNTRAINED.clear()  # Of what earlier tests have left.
    model = fresh(tiny_config)
    randomize(model)
    bias_the_head(model)
    found = Predictor(model).classify(IMAGES[:1])[0]
    assert {entry[:2] for entry in found} <= set(imagenet_classes())
    assert not [w for w in recwarn if "random" in str(w.message)]


def test_decoding_warns_of_networks_that_may_have_guessed(
    tiny_config: ResNetConfig, recwarn: pytest.WarningsRecorder
) -> None:
    PERHAPS_UNTRAINED.clear()
    scores = np.zeros((1, 1000))
    decode_predictions(scores)
    assert [str(w.message) for w in recwarn if "random" in str(w.message)] == []
    model = fresh(tiny_config, name="guesser")
    with pytest.warns(UserWarning, match="predictions of guesser: the weights are random"):
        assert decode_predictions(scores, 1) == [[("n01440764", "tench", 0.0)]]
    randomize(model)
    bias_the_head(model)
    recwarn.clear()
    decode_predictions(scores)
    # Other names than ImageNet's are somebody's own, and other widths none of ImageNet's.
    other = fresh(tiny_config, name="other")
    decode_predictions(scores, class_names=[str(index) for index in range(1000)])
    assert [str(w.message) for w in recwarn if "random" in str(w.message)] == []
    assert list(PERHAPS_UNTRAINED) == [other]


def test_the_command_warns(
    tiny_config: ResNetConfig, keras_resnet_command: Command, tmp_path: Path
) -> None:
    fresh(tiny_config).save(tmp_path / "model.keras")
    Image.fromarray(IMAGES[0]).save(tmp_path / "image.png")
    done = keras_resnet_command(
        "predict", str(tmp_path / "model.keras"), str(tmp_path / "image.png")
    )
    assert done.returncode == 0, done.stderr
    assert "model.keras: the weights are random and were never trained" in done.stderr
    names = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines()[1:]]
    assert len(names) == 5
    assert all(name.isdecimal() for name in names)
