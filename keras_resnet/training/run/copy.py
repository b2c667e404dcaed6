"""The copy of a model that is trained, with logits as outputs and in the requested precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_resnet.data import Source
from keras_resnet.models.info import class_count
from keras_resnet.models.outputs import bare, check_single_unit, last_operation
from keras_resnet.training.acceleration import accelerate
from keras_resnet.training.losses import TrainedModel, balanced_weights, make_loss
from keras_resnet.training.optimizers.optimizers import make_optimizer
from keras_resnet.training.recipes.recipe import Recipe

#: Values of `dtype` -> Keras dtype policies.
_POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "mixed_bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
    "mixed_float16": "mixed_float16",
}

_POOLING = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
_PREPROCESSING = (keras.layers.Rescaling, keras.layers.Normalization)
_ACTIVATIONS = ("softmax", "sigmoid", "linear")


def _policy_of(dtype: str) -> str:
    if dtype not in _POLICIES:
        raise ValueError(f"Expected `dtype` to be one of {', '.join(_POLICIES)}. Received: {dtype}")
    return _POLICIES[dtype]


def precision_of(
    model: keras.Model, dtype: str | None
) -> Literal["float32", "float16", "bfloat16"]:
    """Return the precision in which `train` computes a model with the argument `dtype`."""
    if dtype is not None:
        computed = {_policy_of(dtype).removeprefix("mixed_")}
    else:
        computed = {layer.compute_dtype for layer in model.layers}
    return (
        "float16" if "float16" in computed else "bfloat16" if "bfloat16" in computed else "float32"
    )


def training_copy(
    model: keras.Model,
    *,
    dtype: str | None = None,
    size: int | Literal["any"] | None = None,
    synchronized: bool = False,
    seed: int = 0,
) -> TrainedModel:
    """Return a copy of a classifier for training, with the same weights.

    Its batch normalization is TensorFlow's fused operation where that is possible; see
    `keras_resnet.training.accelerate`.

    The copy returns float32 logits `(batch, classes)`, as losses of probabilities lose precision.
    If it is made inside the scope of a `tf.distribute` strategy, its variables belong to the
    strategy. `copy_weights` copies its weights back.

    Args:
        model: a functional classifier `(batch, height, width, 3)` -> `(batch, classes)` that ends
            with a softmax, a sigmoid or logits, or `(batch, 1)` with a sigmoid or a logit.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`; with the latter two, variables, pixel
            normalization, global pooling and the head stay float32. None: as in the model.
        size: height and width of the images; `"any"`: any height and width; None: as in the model.
        synchronized: whether BN uses statistics over all replicas instead of one replica.
        seed: random seed of dropout and stochastic depth, for layers without a seed.

    Raises:
        ValueError: If the model is not such a classifier, or `dtype` has an invalid value.
    """
    policy = None if dtype is None else _policy_of(dtype)
    model = bare(model)
    head = _head(model)
    float32 = _float32_layers(model)
    count = iter(range(2**20))

    def copied(layer: keras.Layer) -> keras.Layer:
        number = next(count)
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=copied)
        config = layer.get_config()
        if policy is not None:
            config["dtype"] = "float32" if layer.name in float32 else policy
        if layer is head:
            config["activation"], config["dtype"] = "linear", "float32"
        if synchronized and isinstance(layer, keras.layers.BatchNormalization):
            config["synchronized"] = True
        if "seed" in config and config["seed"] is None:
            config["seed"] = (seed * 2**20 + number) % 2**31
        return type(layer).from_config(config)

    inputs = None
    side = None if size == "any" else size
    if size is not None and tuple(model.input_shape[1:3]) != (side, side):
        inputs = keras.Input((side, side, model.input_shape[-1]), name=model.inputs[0].name)
    clone = keras.models.clone_model(model, input_tensors=inputs, clone_function=copied)
    logits = clone.outputs[0]
    single_unit = logits.shape[-1] == 1 and class_count(model) == 2
    if single_unit:
        # The sigmoid of a logit is the softmax of 0 and that logit.
        logits = keras.ops.pad(logits, [[0, 0], [1, 0]])
    copy = TrainedModel(clone.inputs[0], logits, name=model.name)
    copy.single_unit = single_unit
    copy_weights(model, copy)
    return accelerate(copy)


class _PullToStart:
    """A regularizer: `strength / 2` times the squared distance from the initial weight."""

    def __init__(self, strength: float, start: np.ndarray) -> None:
        self._strength = strength
        # A constant would become part of the graph, which must stay below 2 GB.
        self._start = keras.Variable(start, trainable=False, dtype="float32", name="start")

    def __call__(self, weight: Any) -> Any:
        distance = keras.ops.cast(weight, "float32") - self._start
        return 0.5 * self._strength * keras.ops.sum(keras.ops.square(distance))


def pull_to_start(model: keras.Model, strength: float, start: Sequence[np.ndarray]) -> None:
    """Add the L2-SP penalty, which pulls kernels to their values in `start`, to the loss.

    The kernel of the head is pulled to zero (Li et al. 2018, arXiv:1802.01483, section 3.2).

    Args:
        model: a model from `training_copy` that is not compiled yet.
        strength: twice the factor of the squared distance.
        start: one array per weight, in the order of `model.get_weights()`.

    Raises:
        ValueError: If the shapes in `start` are not those of the weights.
    """
    shapes = [tuple(weight.shape) for weight in model.weights]
    if [np.shape(value) for value in start] != shapes:
        raise ValueError(
            f"Expected {len(shapes)} arrays of the shapes of `get_weights` of {model.name}, to "
            f"pull its weights to. Received: {len(start)} arrays, or other shapes"
        )
    head = [layer for layer in _all_layers(model) if layer.weights][-1]
    own = {id(weight) for weight in head.weights}
    for weight, value in zip(model.weights, start, strict=True):
        if weight.trainable and weight.path.endswith("/kernel"):
            end = np.zeros_like(value) if id(weight) in own else value
            weight.regularizer = _PullToStart(strength, end)


def compile_copy(
    model: TrainedModel,
    recipe: Recipe,
    source: Source,
    learning_rate: Any,
    jit_compile: bool | None = None,
    **keywords: Any,
) -> None:
    """Compile a model from `training_copy` with the optimizer and the loss of a recipe.

    Args:
        model: a model from `training_copy`.
        recipe: the recipe.
        source: training images, whose labels give balanced class weights if the recipe has them.
        learning_rate: a float or a `LearningRateSchedule` of optimizer steps.
        jit_compile: whether XLA compiles the training step; None: only under JAX.
        **keywords: further arguments of `compile`.
    """
    weights = None
    if recipe.loss.class_weights == "balanced":
        weights = balanced_weights(source.labels, len(source.class_names))
    optimizer: Any = make_optimizer(recipe.optimizer, learning_rate)
    # Keras does this itself only if the model, not just its layers, is float16.
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    if jit_compile is None:
        jit_compile = keras.backend.backend() == "jax"
    loss = make_loss(recipe.loss, weights, single_unit=model.single_unit)
    model.compile(optimizer, loss=loss, jit_compile=jit_compile, **keywords)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy the weights of `source` to `target`, one of which `training_copy` made of the other."""
    target.set_weights([np.asarray(value) for value in source.get_weights()])


def _head(model: keras.Model) -> keras.Layer:
    """Return the last layer of a classifier; raise ValueError for other models."""
    shapes = (getattr(model, "input_shape", None), getattr(model, "output_shape", None))
    ranks = [len(shape) if isinstance(shape, tuple) else None for shape in shapes]
    layer = last_operation(model) if getattr(model, "layers", None) else None
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", None)
    if ranks != [4, 2] or layer is None or isinstance(layer, _POOLING) or name not in _ACTIVATIONS:
        raise ValueError(
            "Expected a functional classifier (batch, height, width, channels) -> (batch, classes) "
            f"whose last layer has one of the activations {', '.join(_ACTIVATIONS)}. Received: "
            f"{type(model).__name__} with input {shapes[0]} and output {shapes[1]} that ends with "
            f"{getattr(layer, 'name', None)}"
        )
    if model.output_shape[-1] == 1:
        check_single_unit(layer)
    return layer


def _float32_layers(model: keras.Model) -> set[str]:
    """Return the names of layers that stay float32 in mixed precision, as in `build`."""
    layers = list(_all_layers(model))
    pools = [index for index, layer in enumerate(layers) if isinstance(layer, _POOLING)]
    last = layers[pools[-1] if pools else -1 :]
    return {layer.name for layer in layers if isinstance(layer, _PREPROCESSING)} | {
        layer.name for layer in last
    }


def _all_layers(model: keras.Model) -> Iterator[Any]:
    """Yield the layers of a model, with those of nested models in place of these."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _all_layers(layer)
        else:
            yield layer
