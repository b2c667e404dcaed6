"""Making networks smaller and faster: quantization-aware training, pruning, clustering.

All of it in Keras 3; `model.fit` is tested under TensorFlow and JAX. `to_tf_keras` is the bridge to
tensorflow-model-optimization; it needs TensorFlow and the extra `keras-resnets[compression]`.
"""

from keras_resnet.compression.clustering import cluster
from keras_resnet.compression.pruning import GradualPruning, prune, sparsity_of
from keras_resnet.compression.quantization import freeze_bn, freeze_ranges, quantize_aware
from keras_resnet.compression.rebuild import strip
from keras_resnet.compression.twin import copy_from_twin, copy_to_twin, to_tf_keras

__all__ = [
    "GradualPruning",
    "cluster",
    "copy_from_twin",
    "copy_to_twin",
    "freeze_bn",
    "freeze_ranges",
    "prune",
    "quantize_aware",
    "sparsity_of",
    "strip",
    "to_tf_keras",
]
