"""What `keras_private` relies on; each failure says what a new Keras has changed."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import pytest

from keras_resnet.training.metrics import Accuracy
from keras_resnet.training.optimizers.keras_private import all_layers
from keras_resnet.training.optimizers.optimizers import SGD, Lamb

NAMES = {
    "_get_variable_index": ["self", "variable"],
    "_get_current_learning_rate": ["self"],
    "_apply_weight_decay": ["self", "variables"],
    "_clip_gradients": ["self", "grads"],
}
if keras.backend.backend() == "tensorflow":
    NAMES["_all_reduce_sum_gradients"] = ["self", "grads_and_vars"]


@pytest.mark.parametrize("name", NAMES)
def test_keras_has_the_methods_that_are_replaced(name: str) -> None:
    method = getattr(keras.optimizers.Optimizer, name, None)
    assert method is not None, f"Keras' optimizers have no `{name}` any more"
    parameters = list(inspect.signature(method).parameters)
    assert parameters == NAMES[name], f"`{name}` of Keras' optimizers takes other arguments now"


class Watched(SGD):
    """Notes what Keras calls."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.calls: list[str] = []

    def _get_current_learning_rate(self) -> Any:
        self.calls.append("rate")
        return super()._get_current_learning_rate()

    def _apply_weight_decay(self, variables: Any) -> None:
        self.calls.append("decay")
        super()._apply_weight_decay(variables)

    def _clip_gradients(self, gradients: Any) -> Any:
        self.calls.append("clip")
        return super()._clip_gradients(gradients)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.calls.append("update")
        super().update_step(gradient, variable, learning_rate)


def test_keras_calls_them_in_the_order_that_the_updates_need() -> None:
    optimizer, variable = Watched(learning_rate=0.5, momentum=0.0), keras.Variable(np.ones(2))
    optimizer.build([variable])
    optimizer.rate_factor.assign(0.1)
    optimizer.calls.clear()
    optimizer.apply([keras.ops.ones(2)])
    steps = [call for call in optimizer.calls if call in ("clip", "update")]
    assert steps == ["clip", "update"], "Keras does not clip, then update any more"
    assert {"rate", "decay"} <= set(optimizer.calls), "Keras asks for the rate or decay otherwise"
    np.testing.assert_allclose(variable, 0.95, err_msg="Keras takes the learning rate elsewhere")


def test_lamb_has_its_moments() -> None:
    optimizer, variables = Lamb(), [keras.Variable(np.zeros(n)) for n in (2, 3)]
    optimizer.build(variables)
    shapes = [moment.shape for moment in optimizer.moments_of(variables[1])]
    assert shapes == [(3,), (3,)], "Keras keeps LAMB's moments elsewhere"


def test_layers_inside_of_layers_are_found() -> None:
    inner = keras.layers.Dense(2)
    wrapper = keras.layers.TimeDistributed(inner)
    nested = keras.Sequential([keras.Input((3, 4)), wrapper])
    model = keras.Sequential([keras.Input((3, 4)), nested])
    assert {wrapper, inner, nested} <= set(all_layers(model)), "Keras finds fewer layers now"


def test_callbacks_know_that_more_accuracy_is_better() -> None:
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile(loss="mse", weighted_metrics=[Accuracy(name="top")])
    stop = keras.callbacks.EarlyStopping("top")
    data = np.zeros((4, 2)), np.zeros((4, 2))
    model.fit(*data, verbose=0, callbacks=[stop])
    assert stop.monitor_op is keras.ops.greater, "Keras' callbacks read another attribute now"


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only there weights are elsewhere")
def test_models_bring_their_weights_back_under_jax() -> None:
    assert hasattr(keras.Model, "jax_state_sync"), "Keras' models have no `jax_state_sync` any more"
