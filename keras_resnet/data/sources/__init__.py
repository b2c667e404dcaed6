"""Sources of labeled images, one module per kind."""

from keras_resnet.data.sources.base import Record, Source, Subset, stratified_split
from keras_resnet.data.sources.folder import ImageFiles
from keras_resnet.data.sources.load import load_data, load_part
from keras_resnet.data.sources.memory import LabeledImages, load_digits
from keras_resnet.data.sources.synthetic import SyntheticImages

__all__ = [
    "ImageFiles",
    "LabeledImages",
    "Record",
    "Source",
    "Subset",
    "SyntheticImages",
    "load_data",
    "load_digits",
    "load_part",
    "stratified_split",
]
