"""Making networks smaller by tensorflow-model-optimization, which needs a tf_keras model.

Needs TensorFlow and the extra `keras-resnets[compression]`.
"""

from keras_resnet.compression.twin import copy_from_twin, copy_to_twin, to_tf_keras

__all__ = ["copy_from_twin", "copy_to_twin", "to_tf_keras"]
