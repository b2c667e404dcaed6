"""Training through `model.fit`. Needs TensorFlow, whatever the Keras backend."""

from keras_resnet.training.callbacks import DivergedError
from keras_resnet.training.cluster import Cluster, cluster_from
from keras_resnet.training.interruption import TrainingInterrupted
from keras_resnet.training.rate_finder import RateCurve, find_rate
from keras_resnet.training.recipe_table import RECIPES, find_recipe
from keras_resnet.training.recipes import Recipe, override
from keras_resnet.training.run_state import ResumeError
from keras_resnet.training.strategies import Setup, choose
from keras_resnet.training.trainer import TrainResult, train
from keras_resnet.training.transfer.finetune import FinetuneResult, Stage, finetune
from keras_resnet.training.transfer.freezing import FreezeReport, freeze, unfreeze
from keras_resnet.training.transfer.heads import check_image_size, replace_head, swap_stem

__all__ = [
    "RECIPES",
    "Cluster",
    "DivergedError",
    "FinetuneResult",
    "FreezeReport",
    "RateCurve",
    "Recipe",
    "ResumeError",
    "Setup",
    "Stage",
    "TrainResult",
    "TrainingInterrupted",
    "check_image_size",
    "choose",
    "cluster_from",
    "find_rate",
    "find_recipe",
    "finetune",
    "freeze",
    "override",
    "replace_head",
    "swap_stem",
    "train",
    "unfreeze",
]
