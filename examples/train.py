"""Train a small network by a recipe. Run it again after an interruption to resume.

Prints (figures differ between machines):

    Training on one CPU.
    Weight decay 0.001 (coupled) on 8 kernels; not on 1 bias and 14 norm scales and shifts.
    Epoch 1/3: loss 2.1188, accuracy 24.08%, validation loss 3.0230, accuracy 13.89%, …
    Epoch 2/3: loss 0.9659, accuracy 69.80%, validation loss 0.7317, accuracy 77.78%, …
    Epoch 3/3: loss 0.3676, accuracy 92.28%, validation loss 0.2539, accuracy 95.28%, …
    best: 95.28% after epoch 3, in runs/digits/best.keras
"""

import keras

import keras_resnet
from keras_resnet.data import load_data
from keras_resnet.training import find_recipe, override, train

data = load_data("digits")
keras.utils.set_random_seed(0)
# Eight weighted layers: stem, six convolutions, classifier.
model = keras_resnet.cifar_resnet(8, classes=len(data[0].class_names), input_shape=(32, 32, 3))
# `keras-resnet recipes` lists the recipes and their fields; an unknown field raises ValueError.
recipe = override(find_recipe("quick-digits"), {"optimizer.learning_rate": 0.1})
# Run it again after an interruption, even by `kill -9`: it resumes from the last saved state.
result = train(model, data, recipe, "runs/digits", epochs=3, checkpoint_every=20)
print(f"best: {result.best:.2%} after epoch {result.best_epoch}, in runs/digits/best.keras")
