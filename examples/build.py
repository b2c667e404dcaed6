"""Build a ResNet-50 with random weights, look at its cost, run it and save it.

Prints:

    (2, 10)
    Complexity(params=23528522, bn_statistics=53120, macs=4087156736, activations=…, depth=50)
"""

import numpy as np

import keras_resnet

# The weights are random: its predictions mean nothing before training.
model = keras_resnet.ResNet50(classes=10)
# RGB pixels in [0, 255]. The saved file loads with keras.saving.load_model, even where this package
# is not installed.
images = np.random.randint(0, 256, (2, 224, 224, 3), dtype=np.uint8)
print(model.predict(images, verbose=0).shape)
print(keras_resnet.complexity(model))
model.save("resnet50.keras")
