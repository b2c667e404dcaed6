"""Image data sets as tf.data pipelines. Needs TensorFlow, whatever the Keras backend."""

from keras_resnet.data.bad_records import BadRecords, TooManyBadRecordsError
from keras_resnet.data.config import AUGMENTATIONS, Augmentation, DataConfig
from keras_resnet.data.pipeline import evaluation_batches, steps_per_epoch, training_batches
from keras_resnet.data.sources import LabeledImages, Source, load_data, load_digits

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "BadRecords",
    "DataConfig",
    "LabeledImages",
    "Source",
    "TooManyBadRecordsError",
    "evaluation_batches",
    "load_data",
    "load_digits",
    "steps_per_epoch",
    "training_batches",
]
