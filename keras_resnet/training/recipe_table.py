"""The table of training recipes."""

from __future__ import annotations

from keras_resnet.data.config import Augmentation
from keras_resnet.training.recipe_parts import OptimizerConfig, ScheduleConfig
from keras_resnet.training.recipes import Recipe

_RECIPES = (
    Recipe(
        "quick-digits",
        duration=10,
        batch_size=32,
        optimizer=OptimizerConfig(learning_rate=0.05, weight_decay=1e-3),
        schedule=ScheduleConfig("cosine", warmup=1),
        augmentation=Augmentation(crop="pad", padding=4),
        sources={
            "": "our own: ResNet-20 on the 1,437 training digits within two minutes on two cores",
            "optimizer.momentum": "He et al. 2015, section 4.2",
            "optimizer.weight_decay": "our own: in 450 steps, 1e-4 would do next to nothing",
            "augmentation.padding": "He et al. 2015, section 4.2",
        },
    ),
)

#: name -> recipe.
RECIPES = {recipe.name: recipe for recipe in _RECIPES}
