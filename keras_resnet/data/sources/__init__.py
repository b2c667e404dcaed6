"""Where labelled images come from: one module per kind of place."""

from keras_resnet.data.sources.base import Record, Source, Subset, stratified_split
from keras_resnet.data.sources.memory import LabeledImages, load_digits

__all__ = ["LabeledImages", "Record", "Source", "Subset", "load_digits", "stratified_split"]
