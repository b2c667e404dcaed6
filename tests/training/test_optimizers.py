from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_resnet.training import SGD


def caffe_sgd(
    weights: np.ndarray, gradients: np.ndarray, rate: float, momentum: float, decay: float
) -> np.ndarray:
    """SGD as the paper's Caffe defines it: v <- m v + rate (g + decay w); w <- w - v."""
    weights, velocity = weights.astype(np.float64), np.zeros(weights.shape)
    for gradient in gradients:
        velocity = momentum * velocity + rate * (gradient + decay * weights)
        weights = weights - velocity
    return weights


@pytest.mark.parametrize("decay_vectors", [False, True])
def test_fifty_steps_equal_the_reference(decay_vectors: bool) -> None:
    random = np.random.default_rng(0)
    kernel, bias = random.normal(size=(3, 4)), random.normal(size=4)
    gradients = [random.normal(size=(50, *w.shape)) * 0.1 for w in (kernel, bias)]
    optimizer = SGD(0.1, momentum=0.9, coupled_weight_decay=0.01, decay_vectors=decay_vectors)
    variables = [keras.Variable(kernel), keras.Variable(bias)]
    for step in range(50):
        optimizer.apply(
            [keras.ops.convert_to_tensor(g[step], "float32") for g in gradients], variables
        )
    for variable, start, steps, decays in zip(
        variables, (kernel, bias), gradients, (True, decay_vectors), strict=True
    ):
        expected = caffe_sgd(start, steps, 0.1, 0.9, 0.01 if decays else 0.0)
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6)


def test_decay_is_not_that_of_keras() -> None:
    """200 steps without a gradient leave 0.120 of a weight; Keras' decay leaves 0.819."""
    variable = keras.Variable(np.ones((1, 1)))
    optimizer = SGD(0.1, momentum=0.9, coupled_weight_decay=0.01)
    for _ in range(200):
        optimizer.apply([keras.ops.zeros((1, 1))], [variable])
    assert float(variable.numpy()[0, 0]) == pytest.approx(0.120, abs=1e-3)


def test_decay_survives_serialization() -> None:
    optimizer = SGD(0.2, nesterov=True, coupled_weight_decay=5e-4, decay_vectors=True, clipnorm=1.0)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(copy, SGD)
    assert copy.get_config() == optimizer.get_config()
    assert (copy.coupled_weight_decay, copy.decay_vectors, copy.nesterov, copy.clipnorm) == (
        5e-4,
        True,
        True,
        1.0,
    )


def test_kernels_decay_and_vectors_do_not(tiny_model: keras.Model) -> None:
    optimizer = SGD(coupled_weight_decay=1e-4)
    decaying = {
        variable.path.split("/")[-1]
        for variable in tiny_model.trainable_variables
        if optimizer.decays(variable)
    }
    kept = {
        variable.path.split("/")[-1]
        for variable in tiny_model.trainable_variables
        if not optimizer.decays(variable)
    }
    assert (decaying, kept) == ({"kernel"}, {"gamma", "beta", "bias"})


def test_ambiguous_decay_is_refused() -> None:
    with pytest.raises(
        ValueError, match="Expected `coupled_weight_decay`.*Received: weight_decay=0.1"
    ):
        SGD(weight_decay=0.1)
    with pytest.raises(ValueError, match="at least 0. Received: -1"):
        SGD(coupled_weight_decay=-1)
