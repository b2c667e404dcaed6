from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet.training.optimizers.groups import rate_multipliers, variable_kind
from keras_resnet.training.optimizers.optimizers import (
    LARS,
    SGD,
    Adam,
    AdamW,
    Lamb,
    describe,
    make_optimizer,
)
from keras_resnet.training.recipes.parts import OptimizerConfig

from ...conftest import ROOT, Run

#: name of a variable -> its values at first; and 50 gradients of each.
STARTS = {
    "conv1_conv/kernel": np.random.default_rng(0).normal(size=(3, 4)),
    "conv1_bn/gamma": np.random.default_rng(1).normal(size=4) + 1,
    "predictions/bias": np.random.default_rng(2).normal(size=4),
}
GRADIENTS = {
    name: np.random.default_rng(number).normal(size=(50, *start.shape))
    for number, (name, start) in enumerate(STARTS.items(), start=3)
}
#: The learning rate changes where Caffe's and torch's momentum part.
BOUNDARY, BEFORE, AFTER = 25, 0.02, 0.005

Values = dict[str, np.ndarray]


def rate(step: int) -> float:
    return BEFORE if step < BOUNDARY else AFTER


def schedule() -> keras.optimizers.schedules.LearningRateSchedule:
    return keras.optimizers.schedules.PiecewiseConstantDecay([BOUNDARY - 1], [BEFORE, AFTER])


def variables_of(starts: Mapping[str, np.ndarray], dtype: str = "float32") -> list[keras.Variable]:
    variables = []
    for name, start in starts.items():
        layer, kind = name.split("/")
        with keras.name_scope(layer):
            variables.append(keras.Variable(start, name=kind, dtype=dtype))
    assert [variable.path for variable in variables] == list(starts)
    return variables


def trained(
    optimizer: keras.Optimizer, dtype: str = "float64", steps: int = 50, zero: bool = False
) -> Values:
    """The variables after steps with `GRADIENTS`, or with none."""
    import tensorflow as tf  # The process with jax imports this file, too.

    variables = variables_of(STARTS, dtype)
    optimizer.build(variables)
    # Tracing takes as long as a dozen steps.
    apply = tf.function(optimizer.apply) if steps > 10 else optimizer.apply
    for number in range(steps):
        apply([tf.constant(g[number % 50] * (not zero), dtype) for g in GRADIENTS.values()])
    return dict(zip(STARTS, (variable.numpy() for variable in variables), strict=True))


def assert_equal_to(expected: Callable[[str], np.ndarray], values: Values) -> None:
    for name, value in values.items():
        np.testing.assert_allclose(value, expected(name), rtol=0, atol=1e-6, err_msg=name)


def sgd(
    weights: np.ndarray,
    gradients: np.ndarray,
    decay: float = 0.0,
    *,
    decoupled: bool = False,
    torch: bool = False,
    nesterov: bool = False,
    momentum: float = 0.9,
    scale: Callable[[np.ndarray, np.ndarray], float] = lambda weights, gradient: 1.0,
) -> np.ndarray:
    """Momentum SGD in the letters of Caffe (v holds rates) and torch (v holds gradients)."""
    velocity = np.zeros_like(weights)
    for step, raw in enumerate(gradients):
        ratio, gradient = scale(weights, raw), raw
        if decoupled:
            weights = weights - rate(step) * decay * weights
        else:
            gradient = gradient + decay * weights
        gradient = ratio * gradient
        if torch:
            velocity = momentum * velocity + gradient
            change = rate(step) * (gradient + momentum * velocity if nesterov else velocity)
        else:
            velocity = momentum * velocity + rate(step) * gradient
            change = momentum * velocity + rate(step) * gradient if nesterov else velocity
        weights = weights - change
    return weights


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("form", ["caffe", "torch"])
def test_fifty_steps_of_sgd(form: Any, nesterov: bool, decay: Any) -> None:
    optimizer = SGD(schedule(), 0.9, nesterov, form, weight_decay=0.05, decay=decay)

    def expected(name: str) -> np.ndarray:
        wanted = 0.05 if name.endswith("kernel") else 0.0
        return sgd(
            STARTS[name],
            GRADIENTS[name],
            wanted,
            decoupled=decay == "decoupled",
            torch=form == "torch",
            nesterov=nesterov,
        )

    assert_equal_to(expected, trained(optimizer))


def test_fifty_steps_in_float32_stay_close() -> None:
    values = trained(SGD(schedule(), weight_decay=0.05), "float32")
    expected = sgd(STARTS["conv1_conv/kernel"], GRADIENTS["conv1_conv/kernel"], 0.05)
    np.testing.assert_allclose(values["conv1_conv/kernel"], expected, atol=1e-6)


def test_without_momentum_both_forms_are_plain_descent() -> None:
    caffe, torch = (trained(SGD(schedule(), 0.0, form=form)) for form in ("caffe", "torch"))
    for name, start in STARTS.items():
        expected = sgd(start, GRADIENTS[name], momentum=0.0)
        np.testing.assert_allclose(caffe[name], expected, rtol=1e-6)
        np.testing.assert_array_equal(caffe[name], torch[name])


@pytest.mark.reference
@pytest.mark.parametrize("nesterov", [False, True])
def test_torch_form_equals_torch(nesterov: bool) -> None:
    torch = pytest.importorskip("torch")
    values = trained(SGD(schedule(), 0.9, nesterov, "torch", weight_decay=0.05))
    for name, start in STARTS.items():
        weights = torch.tensor(start, requires_grad=True)
        theirs = torch.optim.SGD(
            [weights],
            BEFORE,
            momentum=0.9,
            nesterov=nesterov,
            weight_decay=0.05 if name.endswith("kernel") else 0.0,
        )
        for step, gradient in enumerate(GRADIENTS[name]):
            theirs.param_groups[0]["lr"] = rate(step)
            weights.grad = torch.tensor(gradient)
            theirs.step()
        np.testing.assert_allclose(values[name], weights.detach().numpy(), rtol=1e-6)


def test_decay_without_gradients_is_that_of_torch() -> None:
    """200 steps leave 0.120 of a weight; decoupled decay, 0.819."""
    left = {}
    for decay in ("coupled", "decoupled"):
        values = trained(SGD(0.1, weight_decay=0.01, decay=decay), steps=200, zero=True)
        shares = values["conv1_conv/kernel"] / STARTS["conv1_conv/kernel"]
        left[decay] = shares.mean()
        assert np.ptp(shares) < 1e-9
        np.testing.assert_array_equal(values["conv1_bn/gamma"], STARTS["conv1_bn/gamma"])
    assert left == {
        "coupled": pytest.approx(0.120, abs=1e-3),
        "decoupled": pytest.approx(0.999**200, rel=1e-6),
    }


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
@pytest.mark.parametrize(("form", "nesterov"), [("caffe", False), ("torch", True)])
def test_fifty_steps_of_lars(form: Any, nesterov: bool, decay: Any) -> None:
    optimizer = LARS(
        schedule(),
        trust_coefficient=0.3,
        epsilon=0.1,
        form=form,
        nesterov=nesterov,
        weight_decay=0.05,
        decay=decay,
    )

    def scale(weights: np.ndarray, gradient: np.ndarray) -> float:
        norm, coupled = np.linalg.norm(weights), 0.05 if decay == "coupled" else 0
        return 0.3 * norm / (np.linalg.norm(gradient) + coupled * norm + 0.1)

    def expected(name: str) -> np.ndarray:
        kernel = {"decay": 0.05, "scale": scale} if name.endswith("kernel") else {}
        return sgd(
            STARTS[name],
            GRADIENTS[name],
            decoupled=decay == "decoupled",
            torch=form == "torch",
            nesterov=nesterov,
            **kernel,
        )

    assert_equal_to(expected, trained(optimizer))


@pytest.mark.parametrize(
    ("weight", "gradient", "expected"), [(0.0, 2.0, -0.2), (2.0, 0.0, 1.9), (0.0, 0.0, 0.0)]
)
def test_lars_takes_the_ratio_1_at_zero_norms(
    weight: float, gradient: float, expected: float
) -> None:
    variable = keras.Variable(np.full((1, 1), weight), name="kernel")
    optimizer = LARS(0.1, trust_coefficient=1e-3, weight_decay=0.5)
    optimizer.apply([keras.ops.full((1, 1), gradient)], [variable])
    assert variable.numpy()[0, 0] == pytest.approx(expected)


def adam(
    weights: np.ndarray, gradients: np.ndarray, decay: float, way: str, factor: float = 1.0
) -> np.ndarray:
    """Adam with `way` "coupled", "decoupled", or "trust": LAMB's algorithm 2."""
    mean, square, epsilon = np.zeros_like(weights), np.zeros_like(weights), 1e-3
    for step, gradient in enumerate(gradients, start=1):
        lr = factor * rate(step - 1)
        if way == "decoupled":
            weights = weights * (1 - lr * decay)
        if way == "coupled":
            gradient = gradient + decay * weights
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        corrected = square / (1 - 0.99**step)
        if way == "trust":
            update = mean / (1 - 0.9**step) / (np.sqrt(corrected) + epsilon)
            if decay:
                update = update + decay * weights
                update = update * np.linalg.norm(weights) / np.linalg.norm(update)
        else:
            # Keras' epsilon is Kingma and Ba's "epsilon hat".
            hat = epsilon / np.sqrt(1 - 0.99**step)
            update = mean / (1 - 0.9**step) / (np.sqrt(corrected) + hat)
        weights = weights - lr * update
    return weights


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_fifty_steps_of_lamb_with_the_decay_in_the_trust_ratio(decay: Any) -> None:
    """Kernels are scaled; variables that do not decay are not, as in timm."""
    optimizer = Lamb(
        schedule(), beta_1=0.9, beta_2=0.99, epsilon=1e-3, weight_decay=0.2, decay=decay
    )
    assert_equal_to(
        lambda name: adam(
            STARTS[name], GRADIENTS[name], 0.2 if name.endswith("kernel") else 0.0, "trust"
        ),
        trained(optimizer),
    )


def test_lamb_is_keras_own_where_all_is_scaled_and_nothing_decays() -> None:
    ours = trained(Lamb(0.01, decay_on=("kernels", "biases", "norms")), "float32")
    theirs = trained(keras.optimizers.Lamb(0.01), "float32")
    for name in STARTS:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "decay"), [(Adam, "coupled"), (Adam, "decoupled"), (AdamW, "decoupled")]
)
def test_fifty_steps_of_adam_with_groups(kind: Any, decay: Any) -> None:
    optimizer = kind(
        schedule(),
        beta_2=0.99,
        epsilon=1e-3,
        weight_decay=0.2,
        decay=decay,
        rate_groups={"stem": 0.1, "head": 2.0},
    )
    factors = {"conv1_conv/kernel": 0.1, "conv1_bn/gamma": 0.1, "predictions/bias": 2.0}
    assert_equal_to(
        lambda name: adam(
            STARTS[name],
            GRADIENTS[name],
            0.2 if name.endswith("kernel") else 0.0,
            decay,
            factors[name],
        ),
        trained(optimizer),
    )


@pytest.mark.parametrize("kind", [SGD, Lamb, Adam])
def test_a_multiplier_is_a_learning_rate(kind: Any) -> None:
    """To the last bit, which scaled gradients would not be for Adam."""
    keywords = {"weight_decay": 0.1, "decay": "decoupled"}
    grouped = kind(1 / 64, rate_groups={"*bn/*": 0.25}, **keywords)
    values, slow, fast = (
        trained(optimizer, "float32", steps=5)
        for optimizer in (grouped, kind(1 / 256, **keywords), kind(1 / 64, **keywords))
    )
    for name, value in values.items():
        np.testing.assert_array_equal(value, (slow if "bn" in name else fast)[name])
    assert not np.array_equal(slow["conv1_bn/gamma"], fast["conv1_bn/gamma"])


def test_rmsprop_averages_by_beta_2() -> None:
    config = OptimizerConfig("rmsprop", momentum=0.5, beta_2=0.8, epsilon=0.01, weight_decay=0.1)
    values = trained(make_optimizer(config, 0.02), steps=5)
    weights, square, velocity = STARTS["conv1_conv/kernel"], 0.0, 0.0
    for gradient in GRADIENTS["conv1_conv/kernel"][:5]:
        gradient = gradient + 0.1 * weights
        square = 0.8 * square + 0.2 * gradient**2
        velocity = 0.5 * velocity + 0.02 * gradient / np.sqrt(square + 0.01)
        weights = weights - velocity
    np.testing.assert_allclose(values["conv1_conv/kernel"], weights, rtol=1e-6)


@pytest.mark.parametrize("path", ["conv1_bn/gamma", "a/b/beta", "rms/scale"])
def test_kinds_of_norms(path: str) -> None:
    assert variable_kind(path) == "norms"


def test_decay_falls_on_the_chosen_kinds() -> None:
    variables = variables_of(STARTS)
    chosen = {
        ("kernels",): ["conv1_conv/kernel"],
        ("biases", "norms"): ["conv1_bn/gamma", "predictions/bias"],
        ("kernels", "biases", "norms"): list(STARTS),
    }
    for kinds, paths in chosen.items():
        assert SGD(weight_decay=0.1, decay_on=kinds).decayed(variables) == paths
        values = trained(SGD(schedule(), weight_decay=0.1, decay_on=kinds), steps=1)
        for name, start in STARTS.items():
            decay = 0.1 if name in paths else 0.0
            expected = sgd(start, GRADIENTS[name][:1], decay)
            np.testing.assert_allclose(values[name], expected, rtol=1e-6)
    assert SGD(weight_decay=0.0).decayed(variables) == []


def test_clipping_comes_before_decay() -> None:
    """The decay would be clipped away otherwise, and all gradients share one norm."""
    optimizer = SGD(0.1, 0.0, weight_decay=0.1, global_clipnorm=1.0)
    values = trained(optimizer, steps=1)
    norm = np.sqrt(sum(np.sum(gradients[0] ** 2) for gradients in GRADIENTS.values()))
    assert norm > 2
    for name, start in STARTS.items():
        decay = 0.1 * start if name.endswith("kernel") else 0.0
        expected = start - 0.1 * (GRADIENTS[name][0] / norm + decay)
        np.testing.assert_allclose(values[name], expected, rtol=1e-6)


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_accumulated_batches_are_one_step(decay: Any) -> None:
    """Of decay, momentum and the schedule; the mean gradient is what is clipped."""
    config = OptimizerConfig(
        momentum=0.9, weight_decay=0.1, decay=decay, accumulation=3, clip_norm=1.0
    )
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.01])
    optimizer = make_optimizer(config, rates)
    values = trained(optimizer, steps=8)
    weights = dict(STARTS)
    velocity = {name: np.zeros_like(start) for name, start in STARTS.items()}
    for step, lr in enumerate((0.1, 0.01)):
        means = {name: g[3 * step : 3 * step + 3].mean(axis=0) for name, g in GRADIENTS.items()}
        norm = max(1.0, np.sqrt(sum(np.sum(mean**2) for mean in means.values())))
        for name, mean in means.items():
            wanted, gradient = 0.1 if name.endswith("kernel") else 0.0, mean / norm
            if decay == "coupled":
                gradient = gradient + wanted * weights[name]
            else:
                weights[name] = weights[name] * (1 - lr * wanted)
            velocity[name] = 0.9 * velocity[name] + lr * gradient
            weights[name] = weights[name] - velocity[name]
    assert_equal_to(lambda name: weights[name], values)
    assert int(optimizer.iterations) == 2
    assert float(optimizer.learning_rate) == pytest.approx(0.01)


def test_rate_factor_multiplies_the_learning_rate() -> None:
    for learning_rate in (0.1, keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.1, 0.0])):
        optimizer = SGD(learning_rate, 0.0)
        optimizer.rate_factor.assign(0.5)
        assert any(variable is optimizer.rate_factor for variable in optimizer.variables)
        assert float(keras.ops.convert_to_numpy(optimizer.learning_rate)) == pytest.approx(0.05)
        for name, value in trained(optimizer, steps=1).items():
            expected = STARTS[name] - 0.05 * GRADIENTS[name][0]
            np.testing.assert_allclose(value, expected, rtol=1e-6)
    settable = SGD(0.1)
    settable.rate_factor.assign(0.5)
    settable.learning_rate = 0.4
    assert float(settable.learning_rate) == pytest.approx(0.2)


OPTIMIZERS = {
    "sgd": OptimizerConfig(
        nesterov=True,
        weight_decay=0.1,
        clip_norm=2.0,
        accumulation=2,
        rate_groups={"*_bn/*": 0.5, "stem": 0.1},
    ),
    "lars": OptimizerConfig("lars", weight_decay=0.1, trust_coefficient=0.1),
    "lamb": OptimizerConfig("lamb", weight_decay=0.1),
    "adam": OptimizerConfig("adam", weight_decay=0.1, decay_on=("kernels", "biases")),
    "adamw": OptimizerConfig("adamw", weight_decay=0.1, decay="decoupled"),
    "rmsprop": OptimizerConfig("rmsprop", weight_decay=0.1, momentum=0.5),
}


@pytest.fixture(scope="module")
def smallest() -> keras.Model:
    config = keras_resnet.ResNetConfig("basic", (1,), (2,), stem="cifar")
    return keras_resnet.build(config, input_shape=(8, 8, 3), classes=2)


@pytest.mark.parametrize("name", ["sgd", "lamb"])
def test_saved_models_keep_rules_and_state(
    name: str, smallest: keras.Model, tmp_path: Path
) -> None:
    optimizer = make_optimizer(OPTIMIZERS[name], schedule())
    smallest.compile(optimizer)
    optimizer.build(smallest.trainable_variables)
    optimizer.rate_factor.assign(0.25)
    gradients = [keras.ops.ones_like(variable) for variable in smallest.trainable_variables]
    optimizer.apply(gradients)
    smallest.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    copy = loaded.optimizer
    assert type(copy) is type(optimizer)
    assert copy.get_config() == optimizer.get_config()
    assert list(copy.rate_groups.items()) == list(OPTIMIZERS[name].rate_groups.items())
    decayed = optimizer.decayed(smallest.trainable_variables)
    assert 0 < len(decayed) < len(gradients)
    assert copy.decayed(loaded.trainable_variables) == decayed
    assert float(copy.rate_factor) == 0.25
    optimizer.apply(gradients)
    copy.apply(gradients)
    for ours, theirs in zip(smallest.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_configs_survive_serialization() -> None:
    for optimizer in (
        SGD(0.5, nesterov=True, form="torch", weight_decay=5e-4, clipnorm=1.0),
        LARS(0.5, trust_coefficient=0.01, epsilon=1e-3, form="torch", decay="decoupled"),
        *(make_optimizer(config, 0.5) for config in OPTIMIZERS.values()),
        Adam(0.5, decay_on=("norms",), rate_groups={"stem": 0.5, "*": 2.0}),
    ):
        copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert type(copy) is type(optimizer)
        assert copy.get_config() == optimizer.get_config()
    assert (copy.decay_on, copy.rate_groups) == (("norms",), {"stem": 0.5, "*": 2.0})


def test_groups_of_a_real_network(tiny_model: keras.Model) -> None:
    paths = [variable.path for variable in tiny_model.trainable_variables]
    groups = {"*_bn/beta": 0.0, "stem": 0.1, "C2": 0.2, "C3": 0.3, "head": 10.0}
    factors = dict(zip(paths, rate_multipliers(paths, groups), strict=True))
    wanted = {
        "conv1_conv/kernel": 0.1,
        "conv1_bn/gamma": 0.1,
        "conv1_bn/beta": 0.0,
        "conv2_block1_1_conv/kernel": 0.2,
        "conv3_block1_2_bn/gamma": 0.3,
        "conv4_block1_1_conv/kernel": 1.0,
        "predictions/kernel": 10.0,
        "predictions/bias": 10.0,
    }
    assert {path: factors[path] for path in wanted} == wanted
    nested = [f"outer/inner/{path}" for path in paths]
    assert rate_multipliers(nested, groups) == tuple(factors.values())
    assert rate_multipliers(nested, {"outer/*": 0.5}) == (0.5,) * len(paths)


def test_every_layer_with_weights_is_in_a_group() -> None:
    """Of every kind of network: deep stems, group norms, squeeze-and-excitation, last norms."""
    networks = json.loads((ROOT / "tests" / "golden" / "layer_names.json").read_text())
    seen = set()
    for name, layers in networks.items():
        ends = ("_conv", "_bn", "_gn", "_se_reduce", "_se_expand", "predictions")
        paths = [f"{layer}/kernel" for layer in layers if layer.endswith(ends)]
        stages = sorted({layer[4] for layer in layers if "_block" in layer})
        groups = {"stem": 0.5, **{f"C{stage}": float(stage) for stage in stages}, "head": 9.0}
        factors = dict(zip(paths, rate_multipliers(paths, groups), strict=True))
        assert 1.0 not in factors.values(), name
        for path, factor in factors.items():
            if path.startswith("post_"):
                assert factor == float(stages[-1])
                seen.add(path)
    assert "post_bn/kernel" in seen


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"C9": 0.1}, r"match a trainable variable.*conv1_conv/kernel.*'C9', which matches none"),
        ({"conv1": 0.1}, "'conv1', which matches none"),
        ({"*": 0.1, "head": 1.0}, "'head', whose variables are all matched by earlier keys"),
    ],
)
def test_idle_groups_are_refused(groups: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SGD(rate_groups=groups).build(variables_of(STARTS))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(weight_decay=-1), "`weight_decay` to be a number at least 0. Received: -1"),
        (lambda: SGD(decay="l2"), "`decay` to be one of.*Received: 'l2'"),
        (lambda: SGD(decay_on=("bn",)), "`decay_on` to be one of.*Received: 'bn'"),
        (lambda: SGD(rate_groups={"stem": -1}), r"`rate_groups\['stem'\]`.*Received: -1"),
        (lambda: SGD(form="keras"), "`form` to be one of.*Received: 'keras'"),
        (lambda: LARS(epsilon=-1), "`epsilon` to be a number at least 0. Received: -1"),
        (lambda: SGD().exclude_from_weight_decay(var_names=["bn"]), "`decay_on`.*bn"),
        (
            lambda: AdamW(weight_decay=0.1, decay="coupled"),
            "'decoupled'. Received: 'coupled'. Use Adam",
        ),
        (
            lambda: OptimizerConfig("adamw", weight_decay=0.1),
            "'decoupled' with `optimizer.name` 'adamw'. Received: 'coupled'. Use 'adam'",
        ),
    ],
)
def test_impossible_arguments_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_description(tiny_model: keras.Model) -> None:
    variables = tiny_model.trainable_variables
    assert describe(SGD(), variables) == "No weight decay."
    assert describe(SGD(weight_decay=1e-4, rate_groups={"head": 2, "stem": 0}), variables) == (
        "Weight decay 0.0001 (coupled) on 8 kernels; not on 1 bias and 14 norm scales and shifts. "
        "Learning rate times 0 for 3 variables, 2 for 2 variables."
    )
    wrapped = keras.optimizers.LossScaleOptimizer(
        Lamb(weight_decay=0.02, decay_on=("kernels", "norms", "biases"))
    )
    assert describe(wrapped, variables) == (
        "Weight decay 0.02 (in the trust ratio) on 8 kernels, 1 bias and 14 norm scales and shifts."
    )


def test_mixed_float16_keeps_the_rules() -> None:
    """Without gradients, one step is the decay alone."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        head = keras.layers.Dense(2, name="predictions", bias_initializer="ones")
        model = keras.Sequential([keras.Input((3,)), head])
    finally:
        keras.config.set_dtype_policy(policy)
    optimizer = SGD(0.5, weight_decay=0.5, rate_groups={"head": 0.5})
    model.compile(optimizer, loss=lambda target, output: 0.0 * output)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    kernel = head.kernel.numpy()
    model.train_on_batch(np.ones((4, 3)), np.ones((4, 2)))
    np.testing.assert_allclose(head.kernel.numpy(), kernel * (1 - 0.5 * 0.5 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(head.bias.numpy(), np.ones(2))


#: Between them, every function of ours.
JITTED = ("sgd", "lars", "lamb", "adamw")

JAX = """
import sys
import jax, keras
import numpy as np
from keras_resnet.training.optimizers.optimizers import SGD, make_optimizer
from tests.training.optimizers.test_optimizers import (
    GRADIENTS, JITTED, OPTIMIZERS, STARTS, schedule, variables_of
)

results = {}
for name in JITTED:
    variables = variables_of(STARTS)
    optimizer = make_optimizer(OPTIMIZERS[name], schedule())
    optimizer.build(variables)
    optimizer.rate_factor.assign(0.5)
    step = jax.jit(optimizer.stateless_apply)
    values, state = [v.value for v in variables], [v.value for v in optimizer.variables]
    for number in range(50):
        gradients = [g[number].astype("float32") for g in GRADIENTS.values()]
        values, state = step(state, gradients, values)
    results.update({f"{name} {path}": np.array(v) for path, v in zip(STARTS, values)})
np.savez(sys.argv[1], **results)

class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.optimizer.rate_factor.assign(0.0)
        kernels.append(self.model.layers[-1].kernel.numpy())

kernels = []
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.compile(SGD(0.1, 0.0, weight_decay=0.1), loss="mse")
kernels.append(model.layers[-1].kernel.numpy())
model.fit(np.ones((4, 3)), np.ones((4, 2)), batch_size=2, epochs=2, callbacks=[Stop()], verbose=0)
print(*(not np.array_equal(a, b) for a, b in zip(kernels, kernels[1:])))
"""


@pytest.mark.full
def test_jax_takes_the_same_steps(tmp_path: Path, run_new_python: Run) -> None:
    """Compiled, without state; `fit` follows a change of the rate factor."""
    done = run_new_python(JAX, str(tmp_path / "jax.npz"), KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "False"]
    theirs = np.load(tmp_path / "jax.npz")
    for name in JITTED:
        optimizer = make_optimizer(OPTIMIZERS[name], schedule())
        optimizer.rate_factor.assign(0.5)
        for path, value in trained(optimizer, "float32").items():
            np.testing.assert_allclose(value, theirs[f"{name} {path}"], atol=5e-6, err_msg=name)
            assert np.abs(value - STARTS[path]).max() > 1e-3


REPLICAS = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from keras_resnet.training.optimizers.optimizers import SGD
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    variable = keras.Variable([1.0, 1.0], name="kernel")
    optimizer = SGD(1.0, 0.0, weight_decay=0.5, global_clipnorm=1.0)
    optimizer.build([variable])

@tf.function
def step():
    first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
    optimizer.apply([tf.where(first, [3.0, 0.0], [0.0, 4.0])], [variable])

strategy.run(step)
print(*variable.numpy())
"""


def test_replicas_clip_the_sum_of_their_gradients(run_python: Run) -> None:
    """[3, 4] becomes [0.6, 0.8]; Keras would clip [3, 0] and [0, 4] and add up to [1, 1]."""
    done = run_python(REPLICAS)
    assert done.returncode == 0, done.stderr
    expected = [1 - 0.6 - 0.5, 1 - 0.8 - 0.5]
    assert [float(v) for v in done.stdout.split()] == pytest.approx(expected, abs=1e-6)


def test_adamw_is_decoupled_by_default_and_one_kind_may_be_named_alone() -> None:
    assert AdamW(weight_decay=0.1).decay == "decoupled"
    assert SGD(decay_on="biases").decay_on == ("biases",)
