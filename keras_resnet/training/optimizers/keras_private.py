"""All private members of Keras that this package uses; a test fails when Keras changes them.

- `Optimizer._get_variable_index`: finds the variable of an update, in every backend and strategy.
- `Optimizer._get_current_learning_rate` and `_learning_rate`: Keras passes the number of
  accumulated batches to a schedule, and has no factor beside the schedule.
- `Optimizer._apply_weight_decay`: Keras decays all variables with the same learning rate.
- `Optimizer._clip_gradients` and, under TensorFlow, `_all_reduce_sum_gradients`: Keras clips the
  gradients of each replica instead of their sum.
- `Lamb._momentums` and `_velocities`: Keras excludes weight decay from the trust ratio.
- `Metric._direction`: tells `EarlyStopping` and `ModelCheckpoint` that larger values are better.
- `Layer._flatten_layers`: `Model.layers` lacks the layers inside of layers that are not models.
- `Model.jax_state_sync`: during `fit` under JAX, current weights are not in the model's variables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras import ops


class OpenOptimizer(keras.optimizers.Optimizer):
    """Mixin that changes how a Keras optimizer clips gradients and computes its learning rate.

    Attributes:
        rate_factor: variable by which every learning rate is multiplied, created by subclasses.
    """

    rate_factor: Any

    def index_of(self, variable: Any) -> int:
        """Return the index of `variable`, or of its backend representation, in `build`'s list."""
        return int(self._get_variable_index(variable))

    def moments_of(self, variable: Any) -> tuple[Any, Any]:
        """Return LAMB's moving averages of the gradient of `variable` and of its square."""
        index = self.index_of(variable)
        return self._momentums[index], self._velocities[index]

    def _apply_weight_decay(self, variables: Any) -> None:
        """Do nothing: `update_step` applies the decay, as it knows the rate of each variable."""

    def _get_current_learning_rate(self) -> Any:
        rate = self._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            # Keras would count accumulated batches.
            rate = rate(self.iterations)
        else:
            rate = super()._get_current_learning_rate()
        return ops.multiply(rate, self.rate_factor)

    def _clip_gradients(self, gradients: Any) -> Any:
        # Under TensorFlow, these are the gradients of one replica; see `_all_reduce_sum_gradients`.
        if keras.backend.backend() == "tensorflow":
            return gradients
        return super()._clip_gradients(gradients)

    def _all_reduce_sum_gradients(self, pairs: Any) -> Any:
        """Sum the gradients of the replicas and clip the sum; called under TensorFlow only."""
        gradients, variables = zip(*super()._all_reduce_sum_gradients(pairs), strict=True)
        return list(zip(super()._clip_gradients(list(gradients)), variables, strict=True))


def set_more_is_better(metric: keras.metrics.Metric) -> None:
    """Tell the callbacks of Keras that larger values of `metric` are better."""
    metric._direction = "up"


def all_layers(model: keras.Model) -> Iterator[keras.Layer]:
    """Yield the model and all layers in it, including those inside of other layers."""
    yield from model._flatten_layers()


def synchronize(model: keras.Model) -> None:
    """Copy the current weights into the model's variables, which `fit` under JAX does not do."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
