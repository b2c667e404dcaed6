"""Batch normalization by TensorFlow's fused operation, in layers that stay plain Keras."""

from __future__ import annotations

from types import MethodType
from typing import Any, TypeVar

import keras

from keras_resnet.training.optimizers.keras_private import all_layers

Model = TypeVar("Model", bound=keras.Model)

#: Input dtypes of the fused operation; it computes in float32 for all of them.
_DTYPES = ("float32", "float16", "bfloat16")
#: The smallest epsilon that cuDNN's implementation accepts.
_SMALLEST_EPSILON = 1e-5


def accelerate(model: Model) -> Model:
    """Make batch normalization faster on TensorFlow, in training and in inference.

    Keras computes `BatchNormalization` by a dozen operations in float32, whatever the precision of
    the network. The same layers call TensorFlow's fused operation instead, in float32, bfloat16 and
    float16. Outputs, gradients and moving statistics are Keras' up to rounding (1e-5 of their size
    in float32, 1e-2 in bfloat16). Layers, weights and configuration stay as they are, so a saved
    file holds core Keras layers only, and a model loaded from it is not accelerated.

    Layers that the fused operation cannot compute keep Keras' computation: an `axis` other than
    the last one, inputs without height and width, `synchronized=True`, `renorm=True`, `epsilon`
    below 1e-5, masks, and float64. So do inference and frozen layers if TensorFlow has a GPU, where
    the gradient of the fused operation fails under
    `tf.config.experimental.enable_op_determinism()` unless the statistics are those of the batch.

    Args:
        model: a Keras model that is built; it is changed in place. Call this before `compile`, or
            compile it again: functions that Keras has traced stay as they were.

    Returns:
        The same model. On other backends than TensorFlow it is unchanged, as their compilers fuse
        these operations.

    Raises:
        ValueError: If `model` is not a Keras model.

    Examples:
        >>> model = keras_resnet.training.accelerate(keras_resnet.ResNet50(classes=10))
        >>> model.compile("sgd", "sparse_categorical_crossentropy")
        >>> model.fit(images, labels)
        >>> model.save("model.keras")
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a `keras.Model`. Received: {model!r}")
    if keras.backend.backend() == "tensorflow":
        for layer in all_layers(model):
            # A subclass may normalize in its own way.
            if type(layer) is keras.layers.BatchNormalization and _is_supported(layer):
                # Not a class of ours, which a saved file would name.
                layer.call = MethodType(_call, layer)
    return model


def _is_supported(layer: Any) -> bool:
    return (
        layer.axis in (-1, 3)
        and layer.epsilon >= _SMALLEST_EPSILON
        and not (layer.synchronized or layer.renorm)
    )


def _call(self: Any, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
    """Compute what `keras.layers.BatchNormalization.call` does.

    Args:
        self: a layer that `_is_supported`.
        inputs: `(batch, height, width, channels)`.
        training: whether to take the statistics from the batch.
        mask: positions that count; with it, Keras' own computation is used.
    """
    import tensorflow as tf

    from_batch = bool(training) and self.trainable
    deterministic = from_batch or not tf.config.list_physical_devices("GPU")
    fits = mask is None and len(inputs.shape) == 4 and inputs.dtype in _DTYPES
    if not (fits and deterministic):
        return type(self).call(self, inputs, training=training, mask=mask)
    mean, variance = tf.cast(self.moving_mean, "float32"), tf.cast(self.moving_variance, "float32")
    output, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=tf.cast(self.gamma, "float32") if self.scale else tf.ones_like(mean),
        offset=tf.cast(self.beta, "float32") if self.center else tf.zeros_like(mean),
        mean=tf.zeros([0]) if from_batch else mean,
        variance=tf.zeros([0]) if from_batch else variance,
        epsilon=self.epsilon,
        is_training=from_batch,
    )
    if from_batch:
        # The operation returns the unbiased variance; Keras averages that of the batch itself.
        # `tf.size` would overflow from 2^31 elements on.
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), "float32")
        batch_variance *= (count - 1.0) / count
        self.moving_mean.assign(mean * self.momentum + batch_mean * (1.0 - self.momentum))
        self.moving_variance.assign(
            variance * self.momentum + batch_variance * (1.0 - self.momentum)
        )
    return output
