"""Every network can learn from its first step on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import ResNetConfig, create_model
from keras_resnet.networks.table import VARIANTS


def marks(config: ResNetConfig) -> Any:
    """Deeper networks are among the longer proofs; the deepest take minutes together."""
    if config.depth > 50 or config.groups > 1:
        return pytest.mark.slow
    return () if config.depth <= 20 else pytest.mark.full


#: Narrow networks of every kind; the widths do not matter here.
NETWORKS = [
    pytest.param(name, marks=marks(config))
    for name, config in VARIANTS.items()
    if config.depth <= 154
]


@pytest.mark.filterwarnings("ignore:The last stage sees")
@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_at_initialisation_is_finite_and_reaches_every_variable(name: str) -> None:
    imagenet = VARIANTS[name].default_size == 224
    size, groups = (64, {"norm_groups": 8}) if imagenet else (16, {})
    fields = groups if VARIANTS[name].norm == "group" else {}
    model = create_model(
        name,
        input_shape=(size, size, 3),
        classes=5,
        width=0.25 if imagenet else 1.0,
        classifier_activation=None,
        **fields,
    )
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, size, size, 3)).astype("float32")
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(random.integers(0, 5, 4), logits)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert len(gradients) > 2 * VARIANTS[name].depth
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.isfinite(gradient).all(), variable.path
        assert np.any(gradient), variable.path
