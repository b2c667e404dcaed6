"""Teach a network that knows the digits another task: odd or even. Run `make demo` first."""

import keras

import keras_resnet
from keras_resnet.data import load_digits
from keras_resnet.training import freeze, replace_head, unfreeze

train, test = load_digits()
base = keras_resnet.load_model("demo-output/model.keras")
model = replace_head(base, 2, names=["even", "odd"])
print(freeze(model))
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(train.images, train.labels % 2, epochs=3, verbose=2)
# The last stage trains, too; batch normalisation keeps the statistics that it has.
print(unfreeze(model, "C4", bn="frozen"))
model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(train.images, train.labels % 2, epochs=2, verbose=2)
accuracy = model.evaluate(test.images, test.labels % 2, verbose=0)[1]
print(f"{accuracy:.1%} of the held-out digits are right")
