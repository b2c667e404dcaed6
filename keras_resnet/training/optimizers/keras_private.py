"""Everything that this package takes from Keras' internals; a test tells when Keras changes it.

- `Optimizer._get_variable_index`: which variable an update is of, under every backend and strategy.
- `Optimizer._get_current_learning_rate` and `_learning_rate`: Keras gives a schedule the number of
  accumulated batches, and has no factor beside the schedule.
- `Optimizer._apply_weight_decay`: Keras decays all variables at one learning rate.
- `Optimizer._clip_gradients` and, under TensorFlow, `_all_reduce_sum_gradients`: Keras clips each
  replica's gradients instead of their sum.
- `Lamb._momentums` and `_velocities`: Keras' update leaves weight decay out of the trust ratio.
- `Metric._direction`: `EarlyStopping` and `ModelCheckpoint` read from it whether more is better.
- `Model.jax_state_sync`: within `fit` under jax, weights are elsewhere than in the model.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class OpenOptimizer(keras.optimizers.Optimizer):
    """Mixin before a Keras optimizer that handles clipping and the learning rate.

    Attributes:
        rate_factor: a variable by which every learning rate is multiplied; subclasses add it.
    """

    rate_factor: Any

    def index_of(self, variable: Any) -> int:
        """The place of `variable`, or of what the backend makes of it, among those of `build`."""
        return int(self._get_variable_index(variable))

    def moments_of(self, variable: Any) -> tuple[Any, Any]:
        """LAMB's averages of the gradient of `variable`, and of its square."""
        index = self.index_of(variable)
        return self._momentums[index], self._velocities[index]

    def _apply_weight_decay(self, variables: Any) -> None:
        """Nothing: `update_step` decays, where each variable's learning rate is known."""

    def _get_current_learning_rate(self) -> Any:
        rate = self._learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            # Keras would count the accumulated batches.
            rate = rate(self.iterations)
        else:
            rate = super()._get_current_learning_rate()
        return ops.multiply(rate, self.rate_factor)

    def _clip_gradients(self, gradients: Any) -> Any:
        # Under TensorFlow these are one replica's alone; see `_all_reduce_sum_gradients`.
        if keras.backend.backend() == "tensorflow":
            return gradients
        return super()._clip_gradients(gradients)

    def _all_reduce_sum_gradients(self, pairs: Any) -> Any:
        """Add up the replicas' gradients and clip the sum; called under TensorFlow only."""
        gradients, variables = zip(*super()._all_reduce_sum_gradients(pairs), strict=True)
        return list(zip(super()._clip_gradients(list(gradients)), variables, strict=True))


def set_more_is_better(metric: keras.metrics.Metric) -> None:
    """Lets Keras' callbacks know that a larger value of `metric` is a better one."""
    metric._direction = "up"


def synchronize(model: keras.Model) -> None:
    """Within `fit` under jax, brings the weights of the last step into the model's variables."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
