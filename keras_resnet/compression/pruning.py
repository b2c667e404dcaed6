"""Pruning: weights of small magnitude become zero and stay zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import keras
import numpy as np

from keras_resnet.compression.layers import MOST_VALUES, compressed_layers
from keras_resnet.compression.options import Pattern
from keras_resnet.compression.rebuild import check_flat, check_skip, kernels, with_options
from keras_resnet.support.checks import check_choice

#: Output channels in a block that is pruned as a whole, as in XNNPACK's sparse kernels.
BLOCK = 4


def prune(
    model: keras.Model,
    sparsity: float = 0.8,
    *,
    pattern: Pattern = "unstructured",
    skip: Sequence[str] | None = None,
) -> keras.Model:
    """Return a copy of a network in which the smallest weights of every kernel are zero.

    Training keeps the zeros. To prune during training, start with `sparsity=0` and pass
    `GradualPruning` to `train`. Finally, `export` or `strip` the network.

    Args:
        model: a flat network with trained weights, plain, pruned or clustered; it is not changed,
            and its zeros are kept. In a clustered layer, zero is an additional value: apply
            `cluster` to a pruned network if the number of values matters.
        sparsity: share of zeros in every kernel, in [0, 1); ignored with the pattern `"2:4"`, where
            it is one half.
        pattern: weights that are pruned together: `"unstructured"`: single weights; `"2:4"`: 2 of
            every 4 input channels; `"block"`: blocks of 4 adjacent output channels.
        skip: names of layers that are not pruned; None: the first convolution, which has few but
            important weights (Gale et al. 2019, arXiv:1902.09574, section 5). Layers whose numbers
            of channels do not fit the pattern are not pruned either.

    Returns:
        The pruned network, with layers of the same names.

    Raises:
        ValueError: If `sparsity` or `pattern` has an invalid value, `skip` contains a name that is
            not a layer with a kernel, or no layer can be pruned.

    Examples:
        >>> pruned = prune(model, 0)
        >>> train(pruned, "digits", "finetune", callbacks=[GradualPruning(0.8, end=300)])
        >>> plain = strip(pruned)
    """
    check_flat(model)
    _check(sparsity, pattern)
    names = [layer.name for layer in kernels(model)]
    skip = names[:1] if skip is None else skip
    check_skip(skip, names, "layers with kernels")
    chosen = prunable(model, pattern, skip)
    if not chosen:
        raise ValueError(
            f"Expected a layer with a kernel that fits the pattern {pattern!r}. Received: "
            f"{', '.join(names) or 'no layers'}, all of which are skipped or do not fit"
        )
    full = [name for name in chosen if getattr(model.get_layer(name), "clusters", 0) == MOST_VALUES]
    if full:
        raise ValueError(
            f"Expected layers with fewer than {MOST_VALUES} shared values, as zero is another one. "
            f"Received: {', '.join(full)}. Name them in `skip`, or use fewer clusters"
        )
    result = with_options(model, {name: {"pruned": pattern} for name in chosen})
    _set_masks(result, sparsity, chosen)
    return result


def prunable(model: keras.Model, pattern: Pattern, skip: Sequence[str]) -> list[str]:
    """Return the names of the layers that `prune` prunes: those whose kernels fit the pattern."""
    return [x.name for x in kernels(model) if x.name not in skip and _fits(x, pattern)]


class GradualPruning(keras.callbacks.Callback):
    """Callback that prunes a network from `prune` gradually in training (Zhu and Gupta 2017).

    The share of zeros after step `t` is `sparsity * (1 - (1 - (t - begin) / (end - begin)) ** 3)`
    (arXiv:1710.01878, section 3). Zeros are kept. The zeros depend only on the step and the
    weights, so a resumed training ends with the same zeros.

    Args:
        sparsity: final share of zeros in every pruned kernel, in [0, 1).
        end: optimizer step at which the final share is reached.
        begin: optimizer step at which pruning begins.
        every: optimizer steps between two updates of the masks.
        layers: names of the layers to prune; None: all layers with masks.

    Raises:
        ValueError: If an argument has an invalid value; or, in training, if a layer has no mask, or
            one of the pattern `"2:4"`, whose share of zeros is fixed.
    """

    def __init__(
        self,
        sparsity: float,
        end: int,
        *,
        begin: int = 0,
        every: int = 10,
        layers: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        _check(sparsity, "unstructured")
        if not 0 <= begin < end or every < 1:
            raise ValueError(
                "Expected 0 <= `begin` < `end` and `every` of at least 1. Received: "
                f"begin={begin}, end={end}, every={every}"
            )
        self.sparsity, self.begin, self.end, self.every = sparsity, begin, end, every
        self.layers = layers
        self._pruned_at: int | None = None

    def at(self, step: int) -> float:
        """Return the share of zeros after an optimizer step."""
        done = min(1.0, max(0.0, (step - self.begin) / (self.end - self.begin)))
        return self.sparsity * (1 - (1 - done) ** 3)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        masked = {x.name: x.pruned for x in compressed_layers(self.model) if x.pruned}
        patterns = {masked.get(name) for name in (masked if self.layers is None else self.layers)}
        if not patterns or patterns & {"2:4", None}:
            raise ValueError(
                "Expected a network from `prune` with the pattern 'unstructured' or 'block'. "
                f"Received: one with {'the pattern 2:4' if '2:4' in patterns else 'no masks'}"
            )
        # The masks may have changed since that step.
        self._pruned_at = None

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        # The run may have been interrupted between a step and its pruning.
        self._prune()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._prune()

    def _prune(self) -> None:
        step = int(self.model.optimizer.iterations)
        if step == self._pruned_at:
            return
        # Keras calls callbacks only once per `steps_per_execution` steps.
        at_once = getattr(self.model, "steps_per_execution", 1)
        due = step % self.every < at_once or 0 <= step - self.end < at_once
        if due and step < self.end + at_once and self.at(step) > 0:
            _set_masks(self.model, self.at(step), self.layers)
            self._pruned_at = step


def sparsity_of(model: keras.Model) -> dict[str, float]:
    """Return layer name -> share of zeros in its kernel, in the order of the network."""
    final = {layer.name: layer.final_kernel() for layer in compressed_layers(model)}
    values = {layer.name: final.get(layer.name, layer.kernel) for layer in kernels(model)}
    return {
        name: float(np.mean(keras.ops.convert_to_numpy(kernel) == 0))
        for name, kernel in values.items()
    }


def _check(sparsity: float, pattern: str) -> None:
    if not 0 <= sparsity < 1:
        raise ValueError(f"Expected `sparsity` in [0, 1). Received: {sparsity}")
    check_choice("pattern", pattern, get_args(Pattern))


def _fits(layer: Any, pattern: Pattern) -> bool:
    *_, inputs, outputs = layer.kernel.shape
    return not {"unstructured": 0, "2:4": inputs % 4, "block": outputs % BLOCK}[pattern]


def _set_masks(model: keras.Model, sparsity: float, names: Sequence[str] | None) -> None:
    """Update the masks of the layers `names`, or of all layers with masks."""
    for layer in compressed_layers(model):
        if layer.pruned and (names is None or layer.name in names):
            mask = _mask(layer.unrounded_kernel(), sparsity, layer.pruned)
            layer.mask.assign(mask.astype(np.uint8))


def _mask(kernel: np.ndarray, sparsity: float, pattern: Pattern) -> np.ndarray:
    """Return the mask of the weights to keep: not the smallest, and none that are zero."""
    sizes = np.abs(kernel)
    if pattern == "2:4":
        shape = (*kernel.shape[:-2], kernel.shape[-2] // 4, 4, kernel.shape[-1])
        groups = sizes.reshape(shape)
        # The rank of each weight among its four, the largest first; ties keep their order.
        places = np.argsort(np.argsort(-groups, axis=-2, kind="stable"), axis=-2, kind="stable")
        return np.asarray((places < 2).reshape(kernel.shape) & (sizes > 0))
    together = BLOCK if pattern == "block" else 1
    blocks = sizes.reshape(*kernel.shape[:-1], -1, together).sum(-1)
    kept = np.ones(blocks.size, bool)
    kept[np.argsort(blocks, axis=None, kind="stable")[: round(sparsity * blocks.size)]] = False
    kept = np.repeat(kept.reshape(blocks.shape), together, axis=-1)
    return np.asarray(kept & (sizes > 0))
