"""Weight decay and learning rates by rules on variables' names.

Rules rather than lists of variables, so that a saved model that is loaded again follows them still.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, get_args

from keras import ops

from keras_resnet.networks.names import levels_of
from keras_resnet.support.checks import check_choice, check_number
from keras_resnet.training.optimizers.keras_private import OpenOptimizer
from keras_resnet.training.recipes.parts import Decay, VariableKind

_NORMS = ("gamma", "beta", "scale")


def variable_kind(path: str) -> VariableKind:
    """The kind of the variable `path`, such as `conv1_bn/gamma`, by the last part of its name."""
    name = path.split("/")[-1]
    if name in _NORMS:
        return "norms"
    return "biases" if name == "bias" else "kernels"


def rate_multipliers(paths: Sequence[str], rate_groups: Mapping[str, float]) -> tuple[float, ...]:
    """Return the factor of every variable's learning rate.

    A key of `rate_groups` is the name of a part of a network of this package, or a pattern:

    - `stem`: the convolutions before the first stage, with their norms;
    - `C2` to `C5`: the stages. The norm behind the last stage of a pre-activation network belongs
      to that stage: it is trained with the backbone and outlives a change of the head. The last
      stage is the highest among `paths`; C4 in most CIFAR networks;
    - `head`: the classifier;
    - anything else is a pattern as the shell has them (`*`, `?`, `[...]`; `*` crosses slashes),
      for the whole path or for its last two parts, since models in models have longer paths.

    Args:
        paths: of the trainable variables, such as `conv2_block1_1_conv/kernel`.
        rate_groups: key -> factor. The first key that matches a variable counts; a variable that
            none matches has the factor 1.

    Returns:
        One factor for each of `paths`.

    Raises:
        ValueError: some key is the first to match for no variable at all.
    """
    layers = [path.split("/")[-2] if "/" in path else "" for path in paths]
    levels = levels_of(layers)
    groups = [levels[layer] for layer in layers]
    reached = [
        next((key for key in rate_groups if _matches(key, path, group)), None)
        for path, group in zip(paths, groups, strict=True)
    ]
    for key in rate_groups:
        if key not in reached:
            matches = [_matches(key, *names) for names in zip(paths, groups, strict=True)]
            reason = "earlier keys match all its variables" if any(matches) else "it matches none"
            raise ValueError(
                "Expected every key of `rate_groups` to reach a trainable variable: stem, C2 to "
                f"C5, head, or a pattern of names such as {', '.join(paths[:2])}. "
                f"Received: {key!r}; {reason}"
            )
    return tuple(1.0 if key is None else float(rate_groups[key]) for key in reached)


def _matches(key: str, path: str, group: str | None) -> bool:
    if key in ("stem", "head") or re.fullmatch(r"C[2-9]", key):
        return key == group
    return fnmatchcase(path, key) or fnmatchcase("/".join(path.split("/")[-2:]), key)


class GroupedUpdates(OpenOptimizer):
    """Adds weight decay and learning rates by kind and place of a variable to a Keras optimizer.

    To be mixed in before a Keras optimizer: `class SGD(GroupedUpdates, keras.optimizers.SGD)`. In
    one step, gradients are first clipped (the sum over all replicas and accumulated batches), then
    decayed, then applied. Schedules count steps, not the batches that a step accumulates.

    A model that was compiled with such an optimizer and saved needs this package to load;
    `compile=False` does without.

    Args:
        learning_rate: a float or a schedule.
        weight_decay: at least 0.
        decay: `"coupled"`: `weight_decay * w` is added to the gradient (L2); `"decoupled"`:
            `learning_rate * weight_decay * w` is subtracted from the weight before its update.
        decay_on: kinds of variables that decay, one or several; see `variable_kind`.
        rate_groups: what the learning rate of some variables is multiplied by, at least 0; keys as
            for `rate_multipliers`. Decoupled decay is multiplied as well.
        **keywords: those of the Keras optimizer.

    Attributes:
        rate_factor: a variable, float32, 1 at first: a factor of the scheduled learning rate that
            may change while training runs; it is saved with the optimizer's state.
            `learning_rate` is their product.

    Raises:
        ValueError: an argument has another value than these; or, when the variables are known, a
            key of `rate_groups` reaches none.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        *,
        weight_decay: float = 0.0,
        decay: Decay = "coupled",
        decay_on: VariableKind | Sequence[VariableKind] = ("kernels",),
        rate_groups: Mapping[str, float] | None = None,
        **keywords: Any,
    ) -> None:
        check_number("weight_decay", weight_decay)
        check_choice("decay", decay, get_args(Decay))
        kinds = (decay_on,) if isinstance(decay_on, str) else tuple(decay_on)
        for kind in kinds:
            check_choice("decay_on", kind, get_args(VariableKind))
        for key, factor in (rate_groups or {}).items():
            check_number(f"rate_groups[{key!r}]", factor)
        super().__init__(learning_rate=learning_rate, weight_decay=float(weight_decay), **keywords)
        self.decay = decay
        self.decay_on = kinds
        # Pairs, as Keras would track a dict, and their order counts.
        self._rate_groups = tuple((rate_groups or {}).items())
        self._multipliers: tuple[float, ...] = ()
        self._selected: tuple[bool, ...] = ()
        self.rate_factor = self.add_variable(
            shape=(),
            initializer="ones",
            dtype="float32",
            aggregation="only_first_replica",
            name="rate_factor",
        )

    @property
    def rate_groups(self) -> dict[str, float]:
        return dict(self._rate_groups)

    def build(self, variables: Any) -> None:
        """Creates the optimizer's variables for `variables`; refuses idle `rate_groups`."""
        if not self.built:
            variables = list(variables)
            paths = [variable.path for variable in variables]
            self._multipliers = rate_multipliers(paths, self.rate_groups)
            self._selected = tuple(variable_kind(path) in self.decay_on for path in paths)
        super().build(variables)

    def decayed(self, variables: Sequence[Any]) -> list[str]:
        """The paths of those of `variables`, the model's, that decay."""
        kinds = self.decay_on if self.weight_decay else ()
        return [variable.path for variable in variables if variable_kind(variable.path) in kinds]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        multiplier = self._multipliers[self.index_of(variable)]
        if multiplier != 1:
            learning_rate = ops.multiply(learning_rate, multiplier)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        self.step(self.regularized(gradient, variable, learning_rate), variable, learning_rate)

    def regularized(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        """Decays `variable` itself if decoupled; returns its gradient, with the decay if coupled.

        Args:
            gradient: clipped, of the variable's shape and dtype.
            variable: a variable of the model, or what the backend makes of it.
            learning_rate: its own.
        """
        if not self.weight_decay or not self.is_selected(variable):
            return gradient
        if self.decay == "coupled":
            return ops.add(gradient, ops.multiply(variable, self.weight_decay))
        share = ops.multiply(learning_rate, self.weight_decay)
        self.assign_sub(variable, ops.multiply(variable, share))
        return gradient

    def step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates `variable` as the Keras optimizer does; arguments as for `regularized`."""
        super().update_step(gradient, variable, learning_rate)

    def is_selected(self, variable: Any) -> bool:
        """Whether `variable`, or what the backend makes of it, is of a kind in `decay_on`."""
        return self._selected[self.index_of(variable)]

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Refused: Keras forgets such a list when a model is saved."""
        raise ValueError(
            "Expected variables to be excluded by `decay_on`, which is saved with the model. "
            f"Received: exclude_from_weight_decay(var_list={var_list}, var_names={var_names})"
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "decay": self.decay,
            "decay_on": list(self.decay_on),
            "rate_groups": self.rate_groups,
        }
