"""Weight decay and learning rates by rules on the names of variables.

Unlike lists of variables, rules still apply after a model is saved and loaded.
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
    """Return the kind of a variable by its path, such as `conv1_bn/gamma`."""
    name = path.split("/")[-1]
    if name in _NORMS:
        return "norms"
    return "biases" if name == "bias" else "kernels"


def rate_multipliers(paths: Sequence[str], rate_groups: Mapping[str, float]) -> tuple[float, ...]:
    """Return the learning rate factor of every variable.

    A key of `rate_groups` is the name of a part of a network of this package, or a pattern:

    - `stem`: the convolutions before the first stage and their normalization;
    - `C2` to `C5`: the stages. The last stage is the highest one in `paths`, C4 in most CIFAR
      networks. In a pre-activation network, the normalization after the last stage belongs to that
      stage, as it remains when the head is replaced;
    - `head`: the classifier;
    - anything else is a shell-style pattern (`*`, `?`, `[...]`; `*` also matches slashes) for the
      whole path or for its last two parts, as nested models have longer paths.

    Args:
        paths: paths of the trainable variables, such as `conv2_block1_1_conv/kernel`.
        rate_groups: key -> factor. The first key that matches a variable counts; variables without
            a match have the factor 1.

    Returns:
        One factor for each of `paths`.

    Raises:
        ValueError: If a key is not the first match of any variable.
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
            reason = (
                "whose variables are all matched by earlier keys"
                if any(matches)
                else "which matches none"
            )
            raise ValueError(
                "Expected every key of `rate_groups` to match a trainable variable: stem, C2 to "
                f"C5, head, or a pattern for names such as {', '.join(paths[:2])}. "
                f"Received: {key!r}, {reason}"
            )
    return tuple(1.0 if key is None else float(rate_groups[key]) for key in reached)


def _matches(key: str, path: str, group: str | None) -> bool:
    if key in ("stem", "head") or re.fullmatch(r"C[2-9]", key):
        return key == group
    return fnmatchcase(path, key) or fnmatchcase("/".join(path.split("/")[-2:]), key)


class GroupedUpdates(OpenOptimizer):
    """Mixin that gives a Keras optimizer weight decay and learning rates per group of variables.

    It comes before a Keras optimizer: `class SGD(GroupedUpdates, keras.optimizers.SGD)`. In each
    step, gradients are first clipped (their sum over all replicas and accumulated batches), then
    decayed, then applied. Schedules count optimizer steps, not accumulated batches.

    Loading a saved model that was compiled with such an optimizer needs this package, unless it is
    loaded with `compile=False`.

    Args:
        learning_rate: a float or a schedule.
        weight_decay: strength of the weight decay, at least 0.
        decay: `"coupled"`: `weight_decay * w` is added to the gradient (L2); `"decoupled"`:
            `learning_rate * weight_decay * w` is subtracted from the weight before its update.
        decay_on: kinds of variables that decay, one or several; see `variable_kind`.
        rate_groups: factors of the learning rate for some variables, at least 0, with keys as in
            `rate_multipliers`. They also apply to decoupled weight decay.
        **keywords: arguments of the Keras optimizer.

    Attributes:
        rate_factor: a float32 variable by which the scheduled learning rate is multiplied, 1 by
            default. It may change during training and is saved with the state of the optimizer.
            `learning_rate` includes it.

    Raises:
        ValueError: If an argument has an invalid value, or, as soon as the variables are known, if
            a key of `rate_groups` matches none.
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
        # Pairs, as Keras would wrap a dict, and their order matters.
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
        """Create the variables of the optimizer; raise ValueError if a rate group has no match."""
        if not self.built:
            variables = list(variables)
            paths = [variable.path for variable in variables]
            self._multipliers = rate_multipliers(paths, self.rate_groups)
            self._selected = tuple(variable_kind(path) in self.decay_on for path in paths)
        super().build(variables)

    def decayed(self, variables: Sequence[Any]) -> list[str]:
        """Return the paths of the model variables in `variables` that decay."""
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
        """Apply decoupled weight decay to `variable`, or return the gradient with coupled decay.

        Args:
            gradient: clipped gradient, of the shape and dtype of the variable.
            variable: a variable of the model, or its representation in the backend.
            learning_rate: learning rate of the variable.

        Returns:
            The gradient, with the weight decay added if it is coupled.
        """
        if not self.weight_decay or not self.is_selected(variable):
            return gradient
        if self.decay == "coupled":
            return ops.add(gradient, ops.multiply(variable, self.weight_decay))
        share = ops.multiply(learning_rate, self.weight_decay)
        self.assign_sub(variable, ops.multiply(variable, share))
        return gradient

    def step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update `variable` as the Keras optimizer does; see `regularized` for the arguments."""
        super().update_step(gradient, variable, learning_rate)

    def is_selected(self, variable: Any) -> bool:
        """Return whether `variable` is of a kind in `decay_on`."""
        return self._selected[self.index_of(variable)]

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Raise ValueError: Keras does not save such a list with the model; use `decay_on`."""
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
