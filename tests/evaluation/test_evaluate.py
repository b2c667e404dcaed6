"""Evaluating models, artifacts and ensembles."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_resnet
from keras_resnet.evaluation import (
    compare_evaluations,
    evaluate,
    save_evaluation,
    save_predictions,
)
from keras_resnet.evaluation.classes import Classes, columns_of
from keras_resnet.evaluation.label_file import LabelFile

from ..conftest import Run, randomize


@pytest.fixture(scope="module")
def labels(tiny_model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The network's own answers, but for every fourth image."""
    own = np.asarray(tiny_model(images)).argmax(-1)
    return np.where(np.arange(len(own)) % 4, own, (own + 1) % 10)


@pytest.fixture(scope="module")
def other_model(tiny_config: keras_resnet.ResNetConfig) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras_resnet.build(tiny_config, input_shape=(None, None, 3), name="other")
    randomize(model)
    model.layers[-1].bias.assign_add(np.linspace(-1, 1, 10))
    return model


def test_single_crop_of_arrays(
    tiny_model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> None:
    report = evaluate(tiny_model, (images, labels), batch_size=16)
    assert (report.images, report.accuracy) == (40, 0.75)
    expected = np.asarray(tiny_model(images))
    assert np.allclose(report.probabilities, expected, atol=1e-5)
    assert report.confusion.sum() == 40
    assert report.class_names == tuple(map(str, range(10)))


def test_mirror_images_are_averaged(
    tiny_model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> None:
    report = evaluate(tiny_model, (images, labels), "flip")
    both = [np.asarray(tiny_model(x)) for x in (images, images[:, :, ::-1])]
    assert np.allclose(report.probabilities, np.mean(both, axis=0), atol=1e-5)


def test_ensemble_is_the_weighted_mean(
    tiny_model: keras.Model, other_model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> None:
    models = [tiny_model, other_model]
    alone = [evaluate(model, (images, labels)).probabilities for model in models]
    mean = evaluate(models, (images, labels)).probabilities
    assert np.allclose(mean, np.mean(alone, axis=0), atol=1e-6)
    weighted = evaluate(models, (images, labels), ensemble_weights=[3, 1]).probabilities
    assert np.allclose(weighted, 0.75 * alone[0] + 0.25 * alone[1], atol=1e-6)
    with pytest.raises(ValueError, match="`ensemble_weights` to be 2 numbers of at least 0"):
        evaluate(models, (images, labels), ensemble_weights=[1])


def test_scales_are_averaged_and_average_pooling_is_fully_convolutional(
    tiny_model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> None:
    report = evaluate(tiny_model, (images[:3], labels[:3]), "multi_scale")
    # By hand: the classifier as a 1x1 convolution at every place, its scores averaged.
    features = keras_resnet.feature_extractor(tiny_model, ("C4",))
    free = keras.models.clone_model(features, keras.Input((None, None, 3)))
    free.set_weights(features.get_weights())
    kernel, bias = tiny_model.layers[-1].get_weights()
    for image, found in zip(images[:3], report.probabilities, strict=True):
        answers = []
        for side in (32, 37, 55, 69, 91):
            picture = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
            for view in (np.asarray(picture), np.asarray(picture)[:, ::-1]):
                maps = np.asarray(free(view[np.newaxis].astype(np.float32))["C4"])
                scores = (maps @ kernel + bias).mean(axis=(0, 1, 2))
                answers.append(np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum())
        assert np.allclose(found, np.mean(answers, axis=0), atol=1e-5)


def test_artifacts_of_one_size_refuse_other_sizes(digits_file: Path, tmp_path: Path) -> None:
    from keras_resnet.export import export

    model = keras_resnet.load_model(digits_file)
    export(model, tmp_path, ["tflite-float32"], timing=None)
    (file,) = tmp_path.glob("*.tflite")
    single = evaluate(str(file), "digits")
    assert single.accuracy == evaluate(str(digits_file), "digits").accuracy
    with pytest.raises(ValueError, match="Expected an artifact for images of any size"):
        evaluate(str(file), "digits", "multi-scale")


def test_unreadable_images_are_named_and_not_counted(digits_file: Path, tmp_path: Path) -> None:
    for label in range(10):
        folder = tmp_path / str(label)
        folder.mkdir()
        for index in range(2):
            grey = np.full((32, 32), 20 * label, np.uint8)
            Image.fromarray(grey).save(folder / f"{index}.png")
    (tmp_path / "3" / "1.png").write_bytes(b"no image")
    report = evaluate(str(digits_file), f"folder:{tmp_path}", split="all")
    assert report.images == 19
    (bad,) = report.unreadable
    assert bad.endswith("3/1.png")
    assert report.notes[0].startswith("Not counted, as unreadable: 1 image, such as ")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 10], "Expected images with labels from 0 to 9. Received: 10"),
        ([-1, 0], "Expected images with labels from 0 to 9. Received: -1"),
        ([0], "Expected 2 labels, one per image"),
    ],
)
def test_impossible_labels_are_refused(
    tiny_model: keras.Model, images: np.ndarray, labels: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(tiny_model, (images[:2], labels))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"protocol": "triple"}, "Expected `protocol` to be one of"),
        ({"split": "half"}, "Expected `split` to be one of"),
        ({"batch_size": 0}, "Expected `batch_size`"),
        ({"crop": 40, "resize": 30}, "Expected `resize`"),
    ],
)
def test_wrong_arguments(
    tiny_model: keras.Model, images: np.ndarray, keywords: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(tiny_model, (images[:2], [0, 1]), **keywords)


def test_names_of_networks_need_weights_and_tags_are_looked_up(tiny_model: keras.Model) -> None:
    with pytest.raises(
        ValueError, match="Expected neither `weights`.*Received: imagenet with tiny"
    ):
        evaluate(tiny_model, "digits", weights="imagenet")
    with pytest.raises(ValueError, match="Expected `weights` with the name of a network"):
        evaluate("resnet50", "digits")
    with pytest.raises(ValueError, match="Expected a tag of"):
        evaluate("timm/resnet50.none", "digits")


def test_classes_have_to_be_the_same_or_are_matched_by_name() -> None:
    model = Classes(3, ["cat", "dog", "eel"])
    assert columns_of(model, Classes(3, ["cat", "dog", "eel"]), False) is None
    with pytest.raises(ValueError, match="in another order.*class 0 is cat"):
        columns_of(model, Classes(3, ["dog", "cat", "eel"]), False)
    with pytest.raises(ValueError, match="eel only in the model; fox only in the data"):
        columns_of(model, Classes(3, ["cat", "dog", "fox"]), False)
    found = columns_of(model, Classes(2, ["eel", "cat"]), True)
    assert found is not None
    assert found.tolist() == [2, 0]
    with pytest.raises(ValueError, match="Received: fox, which are the names of none"):
        columns_of(model, Classes(2, ["cat", "fox"]), True)
    # ImageNet-V2's folders are called by the index.
    numbers = columns_of(model, Classes(3, ["0", "1", "2"]), True)
    assert numbers is not None
    assert numbers.tolist() == [0, 1, 2]


def test_a_name_of_several_classes_is_none_of_them(tmp_path: Path) -> None:
    classes = Classes(3, ["crane", "eel", "crane"], ["n02012849", "n01440764", "n03126707"])
    with pytest.raises(
        ValueError, match="Received: crane, which are the names of none, or of several, of"
    ):
        columns_of(classes, Classes(2, ["crane", "eel"]), True)
    (tmp_path / "real.json").write_text(json.dumps({"1.png": "n02012849", "2.png": "crane"}))
    labels = LabelFile(tmp_path / "real.json")
    assert labels.right_classes(["1.png"], classes) == [[0]]
    with pytest.raises(ValueError, match="one of 3 classes in .*: 'crane' for 2.png"):
        labels.right_classes(["2.png"], classes)


def test_classes_that_the_data_lacks_are_left_out_of_the_answers(
    tiny_model: keras.Model, images: np.ndarray
) -> None:
    from keras_resnet.data.sources.memory import LabeledImages

    source = LabeledImages(images, np.zeros(40, int), ("7", "2"))
    report = evaluate(tiny_model, source, match_names=True)
    own = np.asarray(tiny_model(images))[:, [7, 2]]
    assert np.allclose(report.probabilities, own / own.sum(1, keepdims=True), atol=1e-5)


def test_labels_from_a_file(tiny_model: keras.Model, images: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    own = np.asarray(tiny_model(images[:4])).argmax(-1).tolist()
    for index in range(4):
        Image.fromarray(images[index]).save(folder / f"ILSVRC2012_val_0000000{index + 1}.png")
    # The second right class of the first one, no right class of the third one.
    real = [[(own[0] + 1) % 10, own[0]], [own[1]], [], [(own[3] + 1) % 10]]
    (tmp_path / "real.json").write_text(json.dumps(real))
    report = evaluate(tiny_model, f"folder:{folder}", labels=tmp_path / "real.json")
    assert (report.images, report.unlabeled) == (3, 1)
    assert report.is_right.tolist() == [True, True, False]
    (tmp_path / "real.json").write_text("[[0]]")
    with pytest.raises(ValueError, match="with a number of at most 1"):
        evaluate(tiny_model, f"folder:{folder}", labels=tmp_path / "real.json")


def test_files(
    tiny_model: keras.Model,
    other_model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    tmp_path: Path,
) -> None:
    report = evaluate(tiny_model, (images, labels))
    save_evaluation(report, tmp_path)
    values = json.loads((tmp_path / "evaluation.json").read_text())
    assert values["accuracy"] == 0.75
    assert values["confusion"] == report.confusion.tolist()
    page = (tmp_path / "evaluation.html").read_text()
    # Two pictures, and a thumbnail of each of the ten mistakes.
    assert page.count("<img") == 12
    save_predictions(report, tmp_path / "rows.csv")
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(lines) == 41
    assert lines[0].startswith('"image","label","prediction","probability","right","0"')
    with pytest.raises(ValueError, match=r"ends in .csv or .parquet"):
        save_predictions(report, tmp_path / "rows.txt")

    other = evaluate(other_model, (images, labels))
    found = compare_evaluations(values, other.to_dict())
    assert found.images == 40
    assert found.accuracies == (0.75, other.accuracy)
    assert found.only_first == int((report.is_right & ~other.is_right).sum())
    assert len(found.disagreements) == int((report.predictions != other.predictions).sum())
    part = compare_evaluations(values, evaluate(other_model, (images[:9], labels[:9])).to_dict())
    assert (part.images, part.left_out) == (9, 31)
    with pytest.raises(FileExistsError, match="Pass `overwrite=True`"):
        save_evaluation(report, tmp_path)


def test_arrays_of_the_models_own_size_stay_as_they_are(
    tiny_config: keras_resnet.ResNetConfig, images: np.ndarray
) -> None:
    keras.utils.set_random_seed(1)
    model = keras_resnet.build(tiny_config, input_shape=(96, 96, 3))
    large = images[:4].repeat(3, axis=1).repeat(3, axis=2)
    found = evaluate(model, (large, np.zeros(4, int))).probabilities
    assert np.allclose(found, np.asarray(model(large)), atol=1e-5)
    resized = evaluate(model, (large, np.zeros(4, int)), resize=110)
    assert resized.protocol["members"][0]["resize"] == 110
    assert not np.allclose(resized.probabilities, found, atol=1e-5)


def rows(*names: str) -> dict:
    row = {"label": "a", "prediction": "a", "right": True}
    return {"predictions": [{"image": name, **row} for name in names]}


def test_files_are_compared_by_their_place_below_the_data() -> None:
    found = compare_evaluations(rows("x/f/a/1.png", "x/f/b/1.png"), rows("f/a/1.png", "f/b/1.png"))
    assert (found.images, found.left_out) == (2, 0)
    # A file that a CSV names twice counts twice.
    assert compare_evaluations(rows("a/1", "a/1", "b/2"), rows("a/1", "a/1", "b/2")).images == 3
    with pytest.raises(ValueError, match="Received: none in common"):
        compare_evaluations(rows("a.png"), rows("b.png"))
    with pytest.raises(ValueError, match="Expected the contents of an `evaluation.json`"):
        compare_evaluations(rows(), {"predictions": []})


def test_a_part_that_is_divided_off_is_said(digits_file: Path, tmp_path: Path) -> None:
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        for index in range(4):
            grey = np.full((8, 8), 20 * label, np.uint8)
            Image.fromarray(grey).save(tmp_path / str(label) / f"{index}.png")
    data = f"folder:{tmp_path}"
    report = evaluate(str(digits_file), data, validation_fraction=0.25)
    assert report.images == 10
    assert "has no validation split: 10 of its 40 images" in report.notes[0]
    assert evaluate(str(digits_file), data, split="all").images == 40


def test_masks_and_scaled_pixels_are_said(
    tiny_model: keras.Model, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_resnet.data.sources.memory import LabeledImages
    from keras_resnet.images import protocol

    source = LabeledImages(images, np.arange(40) % 2, ("7", "2"))
    note, *_ = evaluate(tiny_model, source, match_names=True).notes
    assert (
        note
        == "The predictions of tiny are limited to the 2 classes of the data, of its 10 classes."
    )
    monkeypatch.setattr(protocol, "_warned", False)
    with pytest.warns(UserWarning, match="look scaled"):
        evaluate(tiny_model, [images[:2] / 255, [0, 1]])
    with pytest.raises(ValueError, match="Expected the name of a source"):
        evaluate(tiny_model, images)


def test_not_a_number_is_wrong_and_null_in_json(
    tiny_config: keras_resnet.ResNetConfig, images: np.ndarray, tmp_path: Path
) -> None:
    model = keras_resnet.build(tiny_config, input_shape=(32, 32, 3))
    model.layers[-1].set_weights([w * np.nan for w in model.layers[-1].get_weights()])
    report = evaluate(model, (images[:4], [0, 0, 1, 1]))
    assert report.accuracy == 0
    assert "Counted as misclassified, as a probability is NaN: 4 images." in report.notes
    save_evaluation(report, tmp_path)
    values = json.loads((tmp_path / "evaluation.json").read_text())
    assert values["loss"] is None
    assert values["probabilities"][0] == [None] * 10


def test_binary_classifiers(tiny_config: keras_resnet.ResNetConfig, images: np.ndarray) -> None:
    keras.utils.set_random_seed(0)
    model = keras_resnet.build(tiny_config, input_shape=(32, 32, 3), classes=1)
    labels = np.arange(40) % 2
    report = evaluate(model, (images, labels))
    second = np.asarray(model(images))[:, 0]
    assert np.allclose(report.probabilities[:, 1], second, atol=1e-5)
    assert report.accuracy == pytest.approx(((second > 0.5) == labels).mean())


def test_long_strips_are_unreadable_at_many_scales(tiny_model: keras.Model, tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (60, 40)).save(tmp_path / name)
    Image.new("RGB", (60_000, 2)).save(tmp_path / "b" / "2.png")
    model = keras_resnet.cifar_resnet(8, classes=2)
    report = evaluate(model, f"folder:{tmp_path}", "multi_scale", split="all")
    assert report.images == 2
    (reason,) = report.unreadable.values()
    assert "pixels after resizing" in reason
    with pytest.raises(ValueError, match="Expected no `resize` with the protocol multi_scale"):
        evaluate(model, f"folder:{tmp_path}", "multi_scale", resize=64)


def test_the_public_name_is_the_function_whatever_was_imported_before(run_python: Run) -> None:
    code = "import keras_resnet.cli, keras_resnet.evaluation.loop\n" + (
        "from keras_resnet.evaluation import evaluate\nprint(callable(evaluate))"
    )
    assert run_python(code).stdout == "True\n"


def test_imagenets_labels_are_wordnet_ids_by_number(
    tiny_config: keras_resnet.ResNetConfig, images: np.ndarray, tmp_path: Path
) -> None:
    from keras_resnet.images.labels import imagenet_classes

    keras.utils.set_random_seed(0)
    model = keras_resnet.build(tiny_config, input_shape=(32, 32, 3), classes=1000)
    own = np.asarray(model(images[:3])).argmax(-1)
    (tmp_path / "val").mkdir()
    for index in range(3):
        path = tmp_path / "val" / f"ILSVRC2012_val_0000000{index + 1}.png"
        Image.fromarray(images[index]).save(path)
    right = [own[0], (own[1] + 1) % 1000, own[2]]
    lines = [imagenet_classes()[index][0] for index in right]
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    report = evaluate(model, f"folder:{tmp_path / 'val'}", labels=tmp_path / "labels.txt")
    assert report.is_right.tolist() == [True, False, True]
    assert report.labels.tolist() == right


def test_images_of_one_class(
    tiny_model: keras.Model, digits_file: Path, images: np.ndarray, tmp_path: Path
) -> None:
    own = np.asarray(tiny_model(images)).argmax(-1)
    label = int(np.bincount(own).argmax())
    report = evaluate(tiny_model, (images, np.full(40, label)))
    assert report.accuracy == (own == label).mean() == report.per_class[label]["recall"]
    assert report.notes[0].startswith(f"All images are of one class, {label}: accuracy is its")

    # A folder with one class: the answers are not limited to it, or each would be right.
    (tmp_path / "3").mkdir()
    for index in range(5):
        grey = np.full((32, 32), 50 * index, np.uint8)
        Image.fromarray(grey).save(tmp_path / "3" / f"{index}.png")
    data = f"folder:{tmp_path}"
    with pytest.raises(ValueError, match="Received: 1 class.*match_names=True"):
        evaluate(str(digits_file), data, split="all")
    report = evaluate(str(digits_file), data, split="all", match_names=True)
    assert (report.images, len(report.class_names)) == (5, 10)
    assert report.labels.tolist() == [3] * 5
    assert report.accuracy == (report.predictions == 3).mean() < 1
    assert report.notes[0].startswith("All images are of one class, 3: ")
    (tmp_path / "3").rename(tmp_path / "cat")
    with pytest.raises(ValueError, match="Received: cat, which are the names of none"):
        evaluate(str(digits_file), data, split="all", match_names=True)


def test_a_network_that_always_answers_one_class_is_said(
    tiny_config: keras_resnet.ResNetConfig, images: np.ndarray
) -> None:
    model = keras_resnet.build(tiny_config, input_shape=(32, 32, 3))
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([0 * kernel, bias + 5 * (np.arange(10) == 4)])
    report = evaluate(model, (images, np.arange(40) % 9))
    assert report.accuracy == pytest.approx(4 / 40)
    assert "Every image is classified as 4." in report.notes
    assert (
        "There are no images of 9: recall, precision and F1 of these are not meaningful."
        in report.notes
    )
    assert report.per_class[9]["precision"] is None
    assert report.per_class[9]["recall"] is None
