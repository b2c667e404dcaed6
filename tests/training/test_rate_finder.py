"""The learning-rate finder, on one dense layer whose training is known, and on a tiny network."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnet import ResNetConfig, build
from keras_resnet.data import LabeledImages
from keras_resnet.models.info import get_info
from keras_resnet.training import Recipe, find_recipe, freeze, override, rate_finder
from keras_resnet.training.rate_finder import (
    RateCurve,
    find_rate,
    rate_setting,
    smooth,
    suggest,
)

#: SGD with nothing added to it, on whole batches of pictures as they are.
PLAIN: dict[str, Any] = {
    "batch_size": 8,
    "optimizer.momentum": 0.0,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 0.0,
    "augmentation.crop": "none",
    "augmentation.flip": 0.0,
}


def recipe(**changes: Any) -> Recipe:
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return override(find_recipe("finetune"), {**PLAIN, **named})


def black_and_white(black: int = 4, white: int = 4) -> tuple[LabeledImages, LabeledImages]:
    labels = np.repeat([0, 1], [black, white]).astype(np.int32)
    pixels = np.broadcast_to((255 * labels)[:, None, None, None], (len(labels), 4, 4, 3))
    part = LabeledImages(pixels.astype(np.uint8), labels, ("black", "white"))
    return part, part


def dense(kernel: float = 0.0, bias: float = 0.0) -> keras.Model:
    """Logits `(-k, k) * sum of the colours in [-1, 1] + (bias, 0)`."""
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(2, "softmax", name="predictions")(x)
    model = keras.Model(inputs, outputs, name="dense")
    model.layers[-1].set_weights([np.tile([-kernel, kernel], (3, 1)), np.array([bias, 0.0])])
    return model


def losses_of_dense(rates: tuple[float, ...], factor: float = 1.0) -> list[float]:
    """By hand: all six weights have a gradient of the same size, sigmoid(-d), and d is 6 of them.

    d is the difference of the two logits, of the right class minus the wrong one.
    """
    d, losses = 0.0, []
    for rate in rates:
        losses.append(math.log1p(math.exp(-d)))
        d += 6 * factor * rate / (1 + math.exp(d))
    return losses


@pytest.fixture
def noise() -> tuple[LabeledImages, LabeledImages]:
    """Sixty-four pictures of noise, whose classes say nothing."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    part = LabeledImages(pixels, random.integers(0, 3, 64).astype(np.int32), ("a", "b", "c"))
    return part, part


@pytest.fixture
def network(tiny_config: ResNetConfig) -> keras.Model:
    keras.utils.set_random_seed(0)
    return build(tiny_config, input_shape=(16, 16, 3), classes=3)


def test_rates_grow_geometrically_and_each_step_has_its_own() -> None:
    curve = find_rate(dense(), black_and_white(), recipe(), lowest=1e-4, highest=100, steps=100)
    assert curve.rates[0] == 1e-4
    assert curve.rates[-1] == 100
    growth = [after / before for before, after in itertools.pairwise(curve.rates)]
    np.testing.assert_allclose(growth, 10 ** (6 / 99))
    np.testing.assert_allclose(curve.losses, losses_of_dense(curve.rates), rtol=1e-3, atol=1e-6)
    # In the limit of small steps, d + exp(d) - 1 = 6 * rate / log(growth). The loss falls most
    # steeply where (d + exp(d) - 1) / (1 + exp(d))**2 is largest, d = 0.94: at a rate of 0.059.
    # The smoothed loss is late, by a factor of up to 10 ** (6 / 25) = 1.74.
    assert curve.suggested is not None
    assert 0.059 <= curve.suggested <= 0.059 * 1.9
    assert curve.suggested in curve.rates
    assert str(curve).startswith(f"Suggested learning rate: {curve.suggested:.2g}")


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"optimizer__rate_groups": {"head": 0.1}}, 0.1),
        # Two batches of eight make a step.
        ({"batch_size": 16, "optimizer__accumulation": 2}, 1.0),
        # The scaling rule is for recipes' rates, not for those that are tried.
        ({"optimizer__reference_batch_size": 256}, 1.0),
    ],
)
def test_the_recipe_says_how_a_rate_is_used(changes: dict[str, Any], factor: float) -> None:
    data = black_and_white()
    curve = find_rate(dense(), data, recipe(**changes), lowest=0.01, highest=10, steps=20)
    expected = losses_of_dense(curve.rates, factor)
    np.testing.assert_allclose(curve.losses, expected, rtol=1e-3, atol=1e-6)


def test_the_loss_is_the_recipes() -> None:
    # Logits 1 + 3 * 0.1 * 2 and so on: of black minus white, 1.6; of white minus black, -0.4.
    black, white = math.log1p(math.exp(-1.6)), math.log1p(math.exp(0.4))
    model, data = dense(0.1, 1.0), black_and_white(6, 2)
    plain = find_rate(model, data, recipe(), steps=10, highest=1e-5)
    assert plain.losses[0] == pytest.approx((6 * black + 2 * white) / 8, rel=1e-5)
    balanced = find_rate(
        model, data, recipe(loss__class_weights="balanced"), steps=10, highest=1e-5
    )
    assert balanced.losses[0] == pytest.approx((black + white) / 2, rel=1e-5)
    # Six weights of 0.1, which L2-SP pulls to zero.
    pulled = find_rate(model, data, recipe(loss__l2_sp=1.0), steps=10, highest=1e-5)
    assert pulled.losses[0] - plain.losses[0] == pytest.approx(0.5 * 6 * 0.01, rel=1e-4)


def test_the_model_stays_as_it_is(
    network: keras.Model, noise: tuple[LabeledImages, LabeledImages]
) -> None:
    before, info = [weight.tobytes() for weight in network.get_weights()], get_info(network)
    curve = find_rate(network, noise, recipe(), lowest=1e-3, highest=1, steps=10)
    assert len(set(curve.losses)) == 10
    assert [weight.tobytes() for weight in network.get_weights()] == before
    assert get_info(network) == info
    assert not network.compiled


@pytest.mark.full
def test_the_seed_decides_on_the_order() -> None:
    data = black_and_white(5, 3)
    first, second, third = (
        find_rate(dense(), data, recipe(batch_size=2), lowest=0.1, highest=1, steps=10, seed=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_allclose(first.losses, second.losses, rtol=1e-5)
    assert not np.allclose(first.losses, third.losses, rtol=1e-2)


def test_it_stops_where_the_loss_diverges(
    network: keras.Model, noise: tuple[LabeledImages, LabeledImages]
) -> None:
    told: list[tuple[str, float]] = []
    curve = find_rate(
        network,
        noise,
        recipe(batch_size=32),
        lowest=1e-3,
        highest=1e6,
        steps=40,
        progress=lambda step, done: told.append((step, done)),
    )
    assert len(curve.rates) == len(curve.losses) == len(curve.smoothed) < 40
    lowest = np.minimum.accumulate(curve.smoothed)
    too_high = ~(np.array(curve.smoothed) <= 4 * lowest)
    assert too_high[-1]
    assert not too_high[:-1].any()
    assert told[:2] == [("rate 1.0e-03", 0.0), (f"rate {curve.rates[4]:.1e}", 0.1)]


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[keras.Model]:
    """Gets the copies that are trained."""
    made: list[keras.Model] = []
    make = rate_finder.training_copy

    def spy(*arguments: Any, **keywords: Any) -> Any:
        made.append(make(*arguments, **keywords))
        return made[-1]

    monkeypatch.setattr(rate_finder, "training_copy", spy)
    return made


def test_frozen_layers_stay_frozen(
    network: keras.Model,
    noise: tuple[LabeledImages, LabeledImages],
    copies: list[keras.Model],
) -> None:
    freeze(network, "backbone")
    find_rate(network, noise, recipe(), lowest=1e-3, highest=1, steps=10)
    pairs = zip(network.weights, network.get_weights(), copies[0].get_weights(), strict=True)
    changed = [weight.path for weight, old, new in pairs if not np.array_equal(old, new)]
    assert changed == ["predictions/kernel", "predictions/bias"]
    network.trainable = False
    with pytest.raises(ValueError, match="trainable layers.*Received: .* frozen. Call `unfreeze`"):
        find_rate(network, noise, recipe())


@pytest.mark.full
def test_optimizer_and_float16(
    tiny_config: ResNetConfig,
    noise: tuple[LabeledImages, LabeledImages],
    copies: list[keras.Model],
) -> None:
    model = build(tiny_config, input_shape=(16, 16, 3), classes=3, dtype="mixed_float16")
    chosen = recipe(
        optimizer__name="adamw",
        optimizer__decay="decoupled",
        optimizer__weight_decay=0.01,
        optimizer__clip_norm=2.0,
    )
    curve = find_rate(model, noise, chosen, lowest=1e-5, highest=1e-3, steps=10)
    assert np.isfinite(curve.losses).all()
    # Small gradients would be zero without the scale.
    outer: Any = copies[0].optimizer
    assert isinstance(outer, keras.optimizers.LossScaleOptimizer)
    inner = outer.inner_optimizer
    assert isinstance(inner, keras.optimizers.AdamW)
    assert (inner.weight_decay, inner.global_clipnorm) == (0.01, 2.0)
    assert float(inner.learning_rate) == pytest.approx(1e-3)


def test_what_cannot_be_searched_is_refused(
    network: keras.Model, noise: tuple[LabeledImages, LabeledImages]
) -> None:
    for lowest, highest in ((0.1, 0.1), (1, 0.1), (0, 1)):
        with pytest.raises(ValueError, match=f"above 0 and below.*lowest={lowest:g}, highest="):
            find_rate(network, noise, lowest=lowest, highest=highest)
    with pytest.raises(ValueError, match="`highest` to be a number at least 0. Received: inf"):
        find_rate(network, noise, highest=math.inf)
    with pytest.raises(ValueError, match="`steps` to be an integer of at least 10. Received: 9"):
        find_rate(network, noise, steps=9)
    with pytest.raises(
        ValueError, match="2 classes of .*with 3 classes. Build it .*replace its head"
    ):
        find_rate(network, black_and_white())
    with pytest.raises(ValueError, match="Did you mean finetune"):
        find_rate(network, noise, "finetun")
    with pytest.raises(ValueError, match="`rate_groups` to match.*'C9'"):
        find_rate(network, noise, recipe(optimizer__rate_groups={"C9": 0.1}))


def test_smoothing_by_hand() -> None:
    # Ten steps: the average keeps a half. 4; (1 + 1) / 0.75; (1 + 3) / 0.875.
    assert list(smooth([4, 2, 6], 10)) == pytest.approx([4, 8 / 3, 4 / 0.875])
    # A hundred: four fifths.
    assert list(smooth([1, 0], 100)) == pytest.approx([1, 0.16 / 0.36])


def test_the_suggestion_for_a_quadratic() -> None:
    # Gradient descent on h / 2 * w**2 has a loss of exp(-rate / r) at growing rates, whose descent
    # against the logarithm of the rate is steepest at rate = r, here 0.1.
    rates = np.geomspace(1e-6, 10, 100)
    losses = 1 + np.exp(-rates / 0.1) + np.where(rates > 1, (rates - 1) ** 2, 0)
    found = suggest(rates, losses, 100)
    assert found is not None
    assert 0.1 <= found <= 0.2
    for seed in range(10):
        noisy = losses + np.random.default_rng(seed).normal(0, 0.05, 100)
        found = suggest(rates, noisy, 100)
        assert found is not None
        assert 0.05 <= found <= 0.4
    assert suggest(rates[:90], [*losses[:89], math.nan], 100) is not None


def test_nothing_is_suggested_where_the_loss_never_falls() -> None:
    rates = np.geomspace(1e-6, 10, 100)
    noise = [np.random.default_rng(seed).normal(2, 0.3, 100) for seed in range(100)]
    # Noise alone hardly ever looks like a fall.
    assert sum(suggest(rates, losses, 100) is not None for losses in noise) <= 3
    assert suggest(rates, 2 + rates, 100) is None
    assert suggest(rates, np.full(100, 2.0), 100) is None
    assert suggest(rates, np.linspace(2, 1.99, 100), 100) is None
    assert suggest(rates[:3], [2, 1, math.inf], 100) is None
    assert suggest(rates[:1], [math.nan], 100) is None


def test_files_hold_the_curve(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    curve = find_rate(
        dense(), black_and_white(), recipe(), lowest=1e-3, highest=10, steps=30, folder=folder
    )
    assert {path.name for path in folder.iterdir()} == {"rates.csv", "rates.png"}
    with (folder / "rates.csv").open(newline="") as file:
        heading, *rows = csv.reader(file)
    assert heading == ["rate", "loss", "smoothed"]
    columns = [tuple(map(float, column)) for column in zip(*rows, strict=True)]
    assert columns == [curve.rates, curve.losses, curve.smoothed]
    with Image.open(folder / "rates.png") as picture:
        assert picture.size == (960, 540)
    # Written again, over the old ones: a search that failed at once.
    failed = RateCurve((0.1, 0.2), (2.0, math.nan), (2.0, math.nan), None)
    failed.write(folder)
    text = (folder / "rates.csv").read_text()
    assert text == "rate,loss,smoothed\n0.1,2.0,2.0\n0.2,nan,nan\n"
    assert failed.to_dict() == {
        "rates": [0.1, 0.2], "losses": [2.0, None], "smoothed": [2.0, None], "suggested": None,
    }  # fmt: skip
    assert json.loads(json.dumps(curve.to_dict(), allow_nan=False))["losses"] == [*curve.losses]
    assert str(failed).startswith("The loss never fell clearly")


def test_the_picture_shows_points_line_and_suggestion() -> None:
    rates = tuple(np.geomspace(1e-3, 10, 5).tolist())
    curve = RateCurve(rates, (2.0, 1.9, 1.0, 0.9, math.inf), (2.0, 1.9, 1.2, 1.1, math.inf), 0.1)
    (axes,) = rate_finder.rate_plot(curve).axes
    points, line, rule, mark = axes.lines
    assert axes.get_xscale() == "log"
    assert np.ma.filled(points.get_ydata(), np.nan)[:4].tolist() == [2.0, 1.9, 1.0, 0.9]
    assert points.get_alpha() == 0.3
    assert list(line.get_ydata())[:4] == [2.0, 1.9, 1.2, 1.1]
    assert list(rule.get_xdata()) == [0.1, 0.1]
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([0.1], [1.2])
    # Most of the picture is for what is finite.
    assert axes.get_ylim() == pytest.approx((1.01, 2.09))


def test_the_setting_undoes_linear_scaling() -> None:
    assert rate_setting(find_recipe("finetune"), 0.3) == 0.3
    scaled = override(find_recipe("goyal2017"), {"batch_size": 1024})
    assert rate_setting(scaled, 0.4) == pytest.approx(0.1)
    chosen = override(scaled, {"optimizer.learning_rate": rate_setting(scaled, 0.4)})
    assert chosen.learning_rate == pytest.approx(0.4)
