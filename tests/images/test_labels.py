from __future__ import annotations

import importlib.resources
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet.images.labels import dataset_classes, decode_predictions, imagenet_classes


def test_classes_are_in_the_order_of_ilsvrc() -> None:
    """TensorFlow Datasets has the same order from another source."""
    datasets = importlib.resources.files("tensorflow_datasets")
    labels = (datasets / "datasets" / "imagenet2012" / "labels.txt").read_text().split()
    assert [wordnet_id for wordnet_id, _ in imagenet_classes()] == labels
    assert len(labels) == 1000


def test_names_are_unique_words() -> None:
    names = [name for _, name in imagenet_classes()]
    assert len({name.casefold() for name in names}) == 1000
    for name in names:
        assert name == name.strip()
        assert name.isascii()
        assert len("ox") <= len(name) <= len("American Staffordshire terrier")
        assert not {",", "_", "\t"} & set(name)


@pytest.mark.parametrize(
    ("index", "wordnet_id", "name"),
    [
        (0, "n01440764", "tench"),
        (134, "n02012849", "crane (bird)"),
        (207, "n02099601", "golden retriever"),
        (264, "n02113186", "Cardigan Welsh corgi"),
        (385, "n02504013", "Indian elephant"),
        (474, "n02963159", "cardigan"),
        (517, "n03126707", "crane (machine)"),
        (638, "n03710637", "maillot"),
        (639, "n03710721", "tank suit"),
        (782, "n04152593", "screen"),
        (999, "n15075141", "toilet tissue"),
    ],
)
def test_known_classes(index: int, wordnet_id: str, name: str) -> None:
    assert imagenet_classes()[index] == (wordnet_id, name)


def test_imagenet_predictions_in_words() -> None:
    predictions = np.zeros((2, 1000), np.float32)
    predictions[0, [385, 386, 101]] = 0.5, 0.25, 0.125
    predictions[1, 999] = 1
    expected = [
        [
            ("n02504013", "Indian elephant", 0.5),
            ("n02504458", "African elephant", 0.25),
            ("n01871265", "tusker", 0.125),
        ],
        [
            ("n15075141", "toilet tissue", 1.0),
            # Equal scores: the lower index first.
            ("n01440764", "tench", 0.0),
            ("n01443537", "goldfish", 0.0),
        ],
    ]
    assert decode_predictions(predictions, top=3) == expected
    assert decode_predictions(keras.ops.convert_to_tensor(predictions), top=3) == expected
    assert [len(row) for row in decode_predictions(predictions)] == [5, 5]
    assert all(type(score) is float for row in decode_predictions(predictions) for *_, score in row)


def test_names_of_other_classes() -> None:
    logits = [[-1.5, 4.0, 0.25], [2, 1, 0]]
    for names in (["cat", "dog", "dog"], ("cat", "dog", "dog"), np.array(["cat", "dog", "dog"])):
        assert decode_predictions(logits, 2, names) == [
            [("1", "dog", 4.0), ("2", "dog", 0.25)],
            [("0", "cat", 2.0), ("1", "dog", 1.0)],
        ]
    # All of them if there are fewer than asked for.
    assert decode_predictions(logits, 99, ["a", "b", "c"])[0] == [
        ("1", "b", 4.0),
        ("2", "c", 0.25),
        ("0", "a", -1.5),
    ]
    names = [f"class {index}" for index in range(1000)]
    assert decode_predictions(np.eye(1000)[7:8], 1, names) == [[("7", "class 7", 1.0)]]
    assert decode_predictions(np.empty((0, 3)), class_names=["a", "b", "c"]) == []


@pytest.mark.parametrize(
    ("predictions", "options", "message"),
    [
        (np.zeros(1000), {}, r"\(n, classes\). Received: \(1000,\). Put a single prediction into"),
        (np.zeros((1, 1, 1000)), {}, r"Received: \(1, 1, 1000\)"),
        ([[1, 2], [3]], {}, "Received: no array of numbers"),
        ([["a", "b"]], {}, "Received: no array of numbers"),
        (np.zeros((1, 10)), {}, "1000 classes, or `class_names`. Received: .* of 10 classes. Pass"),
        (
            np.zeros((1, 10)),
            {"class_names": ["a", "b"]},
            "`class_names` to be 10 names, one per column of the predictions. Received: 2",
        ),
        (np.zeros((1, 3)), {"class_names": "cat"}, "to be 3 names, .* Received: 'cat'"),
        (np.zeros((1, 1000)), {"top": 0}, "`top` to be an integer of at least 1. Received: 0"),
        (np.zeros((1, 1000)), {"top": 2.5}, "`top` .* Received: 2.5"),
        (np.zeros((1, 1000)), {"top": True}, "`top` .* Received: True"),
    ],
)
def test_what_cannot_be_decoded(predictions: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_predictions(predictions, **options)


def test_ids_of_other_classes() -> None:
    scores = np.array([[0.1, 0.9]])
    ids = np.array(["n1", "n2"])
    assert decode_predictions(scores, 1, ["a", "b"], ids) == [[("n2", "b", 0.9)]]
    for names, wrong, message in (
        (["a", "b"], ["n1"], "Expected `class_ids` to be 2 names.* Received: 1"),
        (None, ["n1", "n2"], "or `class_names`. Received: predictions of 2 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_predictions(scores, 1, names, wrong)


def test_classes_of_data_sets() -> None:
    names, ids = dataset_classes("imagenet")
    assert ids is not None
    assert (names[0], ids[0], len(names), len(ids)) == ("tench", "n01440764", 1000, 1000)
    names, ids = dataset_classes("cifar10")
    assert (names[3], len(names), ids) == ("cat", 10, None)
