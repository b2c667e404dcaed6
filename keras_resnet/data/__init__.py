"""Image data sets as tf.data pipelines. Needs TensorFlow, whatever the Keras backend."""

from keras_resnet.data.pipeline import evaluation_batches, training_batches
from keras_resnet.data.sources import LabeledImages, load_digits

__all__ = ["LabeledImages", "evaluation_batches", "load_digits", "training_batches"]
