from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet.training.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    TrainedModel,
    balanced_weights,
    make_loss,
)
from keras_resnet.training.metrics import make_metrics
from keras_resnet.training.recipes.parts import LossConfig

from ..conftest import Run

CLASSES = 7
random = np.random.default_rng(0)
LOGITS = random.normal(0, 3, (6, CLASSES)).astype("float32")
LABELS = random.integers(0, CLASSES, 6).astype("int32")
SHARES = random.dirichlet(np.ones(CLASSES) * 0.3, 6).astype("float32")
ONE_HOT = np.eye(CLASSES)[LABELS]
SMOOTHING = [0.0, 0.1, 1.0]


def cross_entropy(shares: np.ndarray, logits: np.ndarray, smoothing: float) -> np.ndarray:
    logits = logits.astype(np.float64)
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    shares = shares * (1 - smoothing) + smoothing / logits.shape[-1]
    return -(shares * log_softmax).sum(-1)


def binary_cross_entropy(
    shares: np.ndarray, logits: np.ndarray, smoothing: float, threshold: float | None = None
) -> np.ndarray:
    chance = 1 / (1 + np.exp(-logits.astype(np.float64)))
    shares = shares * (1 - smoothing) + smoothing / logits.shape[-1]
    if threshold is not None:
        shares = shares > threshold
    return -(shares * np.log(chance) + (1 - shares) * np.log(1 - chance)).mean(-1)


@pytest.mark.parametrize("smoothing", SMOOTHING)
@pytest.mark.parametrize(
    ("targets", "shares"),
    [(LABELS, ONE_HOT), (LABELS[:, None], ONE_HOT), (SHARES, SHARES)],
    ids=["labels", "column", "shares"],
)
def test_losses_equal_numpy(targets: np.ndarray, shares: np.ndarray, smoothing: float) -> None:
    for loss, reference in (
        (CrossEntropy(smoothing), cross_entropy),
        (BinaryCrossEntropy(smoothing), binary_cross_entropy),
    ):
        each = loss.call(keras.ops.cast(targets, "float32"), keras.ops.convert_to_tensor(LOGITS))
        expected = reference(shares, LOGITS, smoothing)
        np.testing.assert_allclose(each, expected, rtol=1e-5)
        np.testing.assert_allclose(loss(targets, LOGITS), expected.mean(), rtol=1e-5)


def test_smoothed_targets_are_those_of_timm() -> None:
    off = 0.1 / CLASSES
    targets = BinaryCrossEntropy(0.1).targets(LABELS, LOGITS)
    np.testing.assert_allclose(targets, np.where(ONE_HOT, 0.9 + off, off), rtol=1e-6)


def test_threshold_is_applied_after_smoothing() -> None:
    shares = np.array([[0.3, 0.7, 0, 0], [0.2, 0.4, 0.4, 0]], "float32")
    logits = LOGITS[:2, :4]
    loss = BinaryCrossEntropy(0.2, target_threshold=0.25)
    # 0.3 becomes 0.29, 0.2 becomes 0.21.
    expected = [[1, 1, 0, 0], [0, 1, 1, 0]]
    np.testing.assert_array_equal(loss.targets(shares, logits), expected)
    np.testing.assert_allclose(
        loss(shares, logits), binary_cross_entropy(shares, logits, 0.2, 0.25).mean(), rtol=1e-5
    )
    labels = np.array([3, 0])
    np.testing.assert_array_equal(loss.targets(labels, logits), np.eye(4)[labels])


@pytest.mark.parametrize("loss", [CrossEntropy(0.1), BinaryCrossEntropy(0.1)])
def test_weights_and_low_precision(loss: keras.losses.Loss) -> None:
    weights = np.array([1.2, 1.2, 1.2, 1.2, 1.2, 0], "float32")
    reference = cross_entropy if isinstance(loss, CrossEntropy) else binary_cross_entropy
    expected = reference(ONE_HOT[:5], LOGITS[:5], 0.1).mean()
    np.testing.assert_allclose(loss(LABELS, LOGITS, weights), expected, rtol=1e-5)
    half = LOGITS.astype("float16")
    result = loss(LABELS, keras.ops.convert_to_tensor(half))
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    np.testing.assert_allclose(
        result, reference(ONE_HOT, half.astype("float32"), 0.1).mean(), rtol=1e-5
    )


def test_extreme_logits_stay_finite() -> None:
    logits = np.array([[1e4, -1e4, 0]], "float32")
    assert float(CrossEntropy()(np.array([1]), logits)) == pytest.approx(2e4)
    assert float(BinaryCrossEntropy()(np.array([1]), logits)) == pytest.approx(
        (2e4 + np.log(2)) / 3
    )


@pytest.mark.parametrize("loss", [CrossEntropy(), BinaryCrossEntropy(target_threshold=0.5)])
@pytest.mark.parametrize("label", [-1, CLASSES])
def test_labels_outside_of_the_classes_are_nan(loss: keras.losses.Loss, label: int) -> None:
    assert np.isnan(float(loss(np.array([label]), LOGITS[:1])))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="Expected `label_smoothing`.*Received: 1.5"):
        CrossEntropy(1.5)
    with pytest.raises(ValueError, match="Expected `target_threshold`.*Received: -1"):
        BinaryCrossEntropy(target_threshold=-1)
    with pytest.raises(ValueError, match="`class_weights` to be a number at least 0.*-1"):
        CrossEntropy(class_weights=[1.0, -1.0])
    # One weight would be taken for all classes.
    with pytest.raises(ValueError, match="Expected 7 `class_weights`, one per class. Received: 1"):
        CrossEntropy(class_weights=[2.0])(LABELS, LOGITS)
    for threshold in (0.02, 0.95):
        with pytest.raises(ValueError, match="at least 0.025 and less than 0.925"):
            BinaryCrossEntropy(0.1, threshold)(LABELS[:1] % 4, LOGITS[:1, :4])


def test_make_loss_and_serialization() -> None:
    loss = make_loss(LossConfig("cross-entropy", 0.1))
    assert isinstance(loss, CrossEntropy)
    assert loss.label_smoothing == 0.1
    binary = make_loss(LossConfig("binary-cross-entropy", 0.2, 0.3))
    copy = keras.losses.deserialize(keras.losses.serialize(binary))
    assert isinstance(copy, BinaryCrossEntropy)
    assert (copy.label_smoothing, copy.target_threshold) == (0.2, 0.3)
    unsmoothed = copy.for_evaluation()
    assert (unsmoothed.label_smoothing, unsmoothed.target_threshold) == (0.0, 0.3)
    assert unsmoothed.get_config() == {**binary.get_config(), "label_smoothing": 0.0}


def test_balanced_weights_are_one_in_the_mean() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 3])
    # Nine images of three classes that there are: three images' worth each.
    weights = balanced_weights(labels, 4)
    assert weights == pytest.approx([0.5, 1.5, 0, 3])
    assert np.mean(np.array(weights)[labels]) == pytest.approx(1)
    assert balanced_weights(np.arange(4), 4) == [1, 1, 1, 1]
    for wrong, received in (([0, -1], "labels, such as -1"), ([4], "such as 4"), ([], "none")):
        with pytest.raises(ValueError, match=f"labels from 0 to 3.*Received: .*{received}"):
            balanced_weights(np.array(wrong, int), 4)


@pytest.mark.parametrize("name", ["cross-entropy", "binary-cross-entropy"])
@pytest.mark.parametrize(
    ("targets", "shares"), [(LABELS, ONE_HOT), (SHARES, SHARES)], ids=["labels", "mixed"]
)
def test_class_weights_multiply_the_losses_of_images(
    name: Any, targets: np.ndarray, shares: np.ndarray
) -> None:
    weights = np.linspace(0.25, 4, CLASSES)
    loss = make_loss(LossConfig(name, 0.1), weights.tolist())
    reference = cross_entropy if name == "cross-entropy" else binary_cross_entropy
    # A mixed image counts as much as its classes do in the mean.
    expected = reference(shares, LOGITS, 0.1) * (shares @ weights)
    np.testing.assert_allclose(
        loss.call(keras.ops.cast(targets, "float32"), keras.ops.convert_to_tensor(LOGITS)),
        expected,
        rtol=1e-5,
    )
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    np.testing.assert_allclose(copy(targets, LOGITS), expected.mean(), rtol=1e-5)
    plain = copy.for_evaluation()
    np.testing.assert_allclose(
        plain(targets, LOGITS), reference(shares, LOGITS, 0).mean(), rtol=1e-5
    )


def test_class_weights_count_in_training_only() -> None:
    model, weights = linear_model(), np.linspace(0.25, 4, CLASSES)
    model.compile(keras.optimizers.SGD(0.0), loss=CrossEntropy(class_weights=weights.tolist()))
    history = model.fit(
        LOGITS, LABELS, shuffle=False, validation_data=(LOGITS, LABELS), verbose=0
    ).history
    losses = cross_entropy(ONE_HOT, 2 * LOGITS, 0)
    assert history["loss"][0] == pytest.approx((losses * weights[LABELS]).mean(), rel=1e-5)
    assert history["val_loss"][0] == pytest.approx(losses.mean(), rel=1e-5)


def test_impossible_class_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="`loss.class_weights`.*Received: 'inverse'"):
        wrong: Any = "inverse"
        LossConfig(class_weights=wrong)


def linear_model(weight_penalty: float = 0.0) -> TrainedModel:
    inputs = keras.Input((CLASSES,))
    kernel = keras.initializers.Identity(2.0)
    penalty = keras.regularizers.L2(weight_penalty) if weight_penalty else None
    outputs = keras.layers.Dense(
        CLASSES, use_bias=False, kernel_initializer=kernel, kernel_regularizer=penalty
    )(inputs)
    return TrainedModel(inputs, outputs)


@pytest.mark.parametrize("eager", [True, False])
def test_fit_on_shares_validates_on_labels_without_smoothing(eager: bool) -> None:
    model = linear_model()
    model.compile(
        keras.optimizers.SGD(0.0),
        loss=CrossEntropy(0.1),
        weighted_metrics=make_metrics(CLASSES),
        run_eagerly=eager,
    )
    weights = np.array([1.2] * 5 + [0], "float32")
    history = model.fit(
        LOGITS,
        SHARES,
        batch_size=3,
        shuffle=False,
        validation_data=(LOGITS, LABELS, weights),
        validation_batch_size=3,
        verbose=0,
    ).history
    logits = 2 * LOGITS
    found = np.argsort(-logits, -1)
    first, label = found[:, 0], SHARES.argmax(-1)
    expected = {
        "loss": cross_entropy(SHARES, logits, 0.1).mean(),
        "accuracy": (first == label).mean(),
        "top5_accuracy": (found[:, :5] == label[:, None]).any(-1).mean(),
        "val_loss": cross_entropy(ONE_HOT, logits, 0.0)[:5].mean(),
        "val_accuracy": (first == LABELS)[:5].mean(),
        "val_top5_accuracy": (found[:5, :5] == LABELS[:5, None]).any(-1).mean(),
    }
    assert history.keys() == expected.keys()
    for name, value in expected.items():
        assert history[name][0] == pytest.approx(value, rel=1e-5), name


def test_evaluation_includes_regularization_and_leaves_other_losses() -> None:
    model = linear_model(weight_penalty=0.01)
    model.compile(loss=BinaryCrossEntropy(0.1))
    penalty = 0.01 * 4 * CLASSES
    expected = binary_cross_entropy(ONE_HOT, 2 * LOGITS, 0.0).mean() + penalty
    assert model.evaluate(LOGITS, LABELS, verbose=0) == pytest.approx(expected, rel=1e-5)
    model.compile(loss=keras.losses.CategoricalCrossentropy(True, label_smoothing=0.1))
    expected = cross_entropy(ONE_HOT, 2 * LOGITS, 0.1).mean() + penalty
    assert model.evaluate(LOGITS, ONE_HOT, verbose=0) == pytest.approx(expected, rel=1e-5)


JAX = """
import sys
import numpy as np
import keras
from keras_resnet.training.losses import BinaryCrossEntropy, CrossEntropy
from keras_resnet.training.metrics import hits
from tests.training.test_losses import LABELS, LOGITS, SHARES, linear_model
from tests.training.test_metrics import TIES

assert keras.backend.backend() == "jax"
results = []
for targets in (LABELS, SHARES):
    for loss in (CrossEntropy(0.1), BinaryCrossEntropy(0.1), BinaryCrossEntropy(0.1, 0.2)):
        results.append(loss(targets, LOGITS))
    for k in (1, 3):
        results.append(keras.ops.sum(hits(targets, LOGITS, k)))
for label in range(-1, 5):
    results.extend(hits(np.full(len(TIES), label), TIES, 2))
model = linear_model()
model.compile(keras.optimizers.SGD(0.0), loss=CrossEntropy(0.1))
fitted = model.fit(LOGITS, SHARES, validation_data=(LOGITS, LABELS), verbose=0).history
results += [fitted["loss"][0], fitted["val_loss"][0]]
np.save(sys.argv[1], np.array([float(x) for x in results]))
"""


@pytest.mark.full
def test_jax_gives_the_same(run_new_python: Run, tmp_path: Path) -> None:
    from .test_metrics import TIES, first_classes

    path = tmp_path / "jax.npy"
    process = run_new_python(JAX, str(path), KERAS_BACKEND="jax")
    assert process.returncode == 0, process.stderr
    expected: list[float] = []
    for shares in (ONE_HOT, SHARES):
        expected.append(cross_entropy(shares, LOGITS, 0.1).mean())
        expected.append(binary_cross_entropy(shares, LOGITS, 0.1).mean())
        expected.append(binary_cross_entropy(shares, LOGITS, 0.1, 0.2).mean())
        label = shares.argmax(-1)[:, None]
        expected += [(first_classes(LOGITS, k) == label).any(-1).sum() for k in (1, 3)]
    for label in range(-1, 5):
        expected.extend((first_classes(TIES, 2) == label).any(-1))
    expected.append(cross_entropy(SHARES, 2 * LOGITS, 0.1).mean())
    expected.append(cross_entropy(ONE_HOT, 2 * LOGITS, 0.0).mean())
    np.testing.assert_allclose(np.load(path), np.array(expected, float), rtol=1e-5)
