"""Teach a network that knows the digits another task: odd or even. Run `make demo` first."""

import keras

import keras_resnet
from keras_resnet.data import load_digits

train, test = load_digits()
base = keras_resnet.ResNet20(include_top=False, pooling="avg", weights="demo-output/model.keras")
base.trainable = False  # the convolutions, and the statistics of BatchNormalization with them
parity = keras.layers.Dense(2, activation="softmax", name="parity")(base.output)
model = keras.Model(base.input, parity)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(train.images, train.labels % 2, epochs=5, verbose=2)
accuracy = model.evaluate(test.images, test.labels % 2, verbose=0)[1]
print(f"{accuracy:.1%} of the held-out digits are right")
