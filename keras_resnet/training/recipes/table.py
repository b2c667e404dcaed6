"""The table of training recipes."""

from __future__ import annotations

from keras_resnet.data.config import Augmentation
from keras_resnet.support.suggest import did_you_mean
from keras_resnet.training.recipes.libraries import LIBRARIES
from keras_resnet.training.recipes.papers import PAPERS, cited
from keras_resnet.training.recipes.parts import OptimizerConfig, ScheduleConfig
from keras_resnet.training.recipes.recipe import Recipe

_DIGITS = Recipe(
    "quick-digits",
    duration=10,
    batch_size=32,
    optimizer=OptimizerConfig(learning_rate=0.05, weight_decay=1e-3),
    schedule=ScheduleConfig("cosine", warmup=1),
    augmentation=Augmentation(crop="pad", padding=4),
    citations=cited(
        "our own: ResNet-20 on the 1,437 training digits within two minutes on two cores",
        {
            "our own: found by experiment": "duration batch_size optimizer.learning_rate",
            "He et al. 2015 (arXiv:1512.03385), section 4.2": "optimizer.momentum "
            "augmentation.crop augmentation.padding",
            "our own: black, as the digits' background; the paper pads with the mean": (
                "augmentation.fill"
            ),
            "our own: 1e-4 has almost no effect within 450 steps": "optimizer.weight_decay",
            "Loshchilov and Hutter 2017 (arXiv:1608.03983)": "schedule.name",
            "Goyal et al. 2017 (arXiv:1706.02677), section 2.2; the length is our own": (
                "schedule.warmup"
            ),
        },
    ),
)

_CIFAR10 = Recipe(
    "quick-cifar10",
    duration=8,
    batch_size=128,
    optimizer=OptimizerConfig(learning_rate=0.2, nesterov=True, weight_decay=5e-4),
    schedule=ScheduleConfig("piecewise-linear", points=((0, 0.15), (2, 1), (8, 0))),
    augmentation=Augmentation(crop="pad", padding=4, flip=0.5),
    citations=cited(
        "our own, for ResNet-20: 400,000 images, half an hour on two cores at 220 images a second",
        {
            "our own: the number of epochs that fits into half an hour": "duration",
            "our own: the first values tried, in one run": "optimizer.learning_rate "
            "optimizer.nesterov optimizer.weight_decay schedule.points",
            "He et al. 2015 (arXiv:1512.03385), section 4.2": "batch_size optimizer.momentum "
            "augmentation.crop augmentation.padding augmentation.flip",
            "our own: black; the paper pads with the mean": "augmentation.fill",
            "Smith and Topin 2018 (arXiv:1708.07120): one cycle": "schedule.name",
        },
    ),
)

_FINETUNE = Recipe(
    "finetune",
    duration=10,
    batch_size=32,
    optimizer=OptimizerConfig(learning_rate=0.02, weight_decay=1e-4),
    schedule=ScheduleConfig("cosine", warmup=0.5),
    augmentation=Augmentation(crop="inception", area=(0.25, 1.0), flip=0.5),
    patience=10,
    citations=cited(
        "our own, for a pretrained network and a data set of thousands of images",
        {
            "our own: `finetune` replaces it by the lengths of its phases": "duration",
            "our own: a fifth of the learning rate of training from scratch": (
                "optimizer.learning_rate"
            ),
            "He et al. 2015 (arXiv:1512.03385), section 3.4": "optimizer.momentum "
            "optimizer.weight_decay",
            "our own: a pretrained network has already seen small crops": "augmentation.area",
            "our own: fits into the memory of every GPU": "batch_size",
            "our own: longer than the default phases": "patience",
            "Loshchilov and Hutter 2017 (arXiv:1608.03983)": "schedule.name",
            "Goyal et al. 2017 (arXiv:1706.02677), section 2.2; the length is our own": (
                "schedule.warmup"
            ),
            "Szegedy et al. 2015 (arXiv:1409.4842), section 6": "augmentation.crop",
            "Krizhevsky et al. 2012, section 4.1": "augmentation.flip",
        },
    ),
)

#: All training recipes: name -> recipe.
RECIPES = {recipe.name: recipe for recipe in (_DIGITS, _CIFAR10, _FINETUNE, *PAPERS, *LIBRARIES)}


def find_recipe(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises:
        ValueError: If there is no such recipe; the message suggests a similar name.
    """
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES, "`keras-resnet recipes` shows them all")
        raise ValueError(f"Expected the name of a recipe. Received: {name!r}{hint}")
    return RECIPES[name]
