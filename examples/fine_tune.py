"""Teach a network that knows the digits another task: odd or even. Run `make demo` first."""

import keras_resnet
from keras_resnet.data import LabeledImages, load_digits
from keras_resnet.training import Stage, find_recipe, finetune, override

train, test = (
    LabeledImages(digits.images, digits.labels % 2, ("even", "odd"), name="even or odd")
    for digits in load_digits()
)
base = keras_resnet.load_model("demo-output/model.keras")
# A digit in a mirror, or a part of it, is none.
recipe = override(find_recipe("finetune"), {"augmentation.flip": 0, "augmentation.crop": "pad"})
result = finetune(
    base,
    (train, test),
    "runs/even-odd",
    recipe=recipe,
    # The new head first; then the last stage, gently, while batch normalisation stays as it is.
    stages=(Stage("head", 1), Stage("C4", 2, 0.1)),
)
print(f"{result.best:.1%} of the held-out digits are right")
