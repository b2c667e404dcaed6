"""Training through `model.fit`. Needs TensorFlow."""

from keras_resnet.training.optimizers import SGD
from keras_resnet.training.recipe_table import RECIPES
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.schedules import warmup_cosine
from keras_resnet.training.trainer import TrainResult, train

__all__ = ["RECIPES", "SGD", "Recipe", "TrainResult", "train", "warmup_cosine"]
