"""Run four tutorials for `keras.applications.ResNet50`, with one import changed.

They classify a photograph, compute feature vectors of photographs, fine-tune the network for two
classes, and return the feature maps of a layer in its middle. `WEIGHTS` is None here, so that
nothing is downloaded: the weights are random, and so are the predictions. Set `WEIGHTS` to
"imagenet" and `SIZE` to 224 for a trained network.

Prints (figures differ between machines):

    82.86% trombone (n04487394)
    6.61% standard schnauzer (n02097209)
    4.15% centipede (n01784675)
    vectors: (2, 2048)
    1/1 - 26s - 26s/step - accuracy: 0.5000 - loss: 14.0862 - val_accuracy: 0.5000 - …
    1/1 - 24s - 24s/step - accuracy: 0.5312 - loss: 3.0153 - val_accuracy: 0.2500 - …
    12 layers of the base train, from conv5_block2_1_conv to conv5_block3_3_bn
    feature maps: (1, 4, 4, 1024)
"""

import keras
import numpy as np
from sklearn.datasets import load_sample_image

# The changed line was: from keras.applications.resnet50 import …
from keras_resnet import ResNet50, decode_predictions, preprocess_input

WEIGHTS = None
SIZE = 64


def photograph(name: str) -> np.ndarray:
    """Return a photograph of scikit-learn as a batch of one image, RGB in [0, 255]."""
    image = keras.utils.array_to_img(load_sample_image(name)).resize((SIZE, SIZE))
    return np.expand_dims(keras.utils.img_to_array(image), axis=0)


def crops(left: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return crops of two photographs, right of the column `left`; labels are the photographs."""
    random = np.random.default_rng(left)
    photographs = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    labels = np.arange(count) % 2
    images = np.empty((count, SIZE, SIZE, 3), np.float32)
    for image, label in zip(images, labels, strict=True):
        y, x = random.integers(0, 427 - SIZE), left + random.integers(0, 320 - SIZE)
        image[:] = photographs[label][y : y + SIZE, x : x + SIZE]
    return images, labels


def classify() -> list[tuple[str, str, float]]:
    """Return the three most probable classes of a photograph."""
    model = ResNet50(weights=WEIGHTS, input_shape=(SIZE, SIZE, 3))
    x = preprocess_input(photograph("flower.jpg"))
    return decode_predictions(model.predict(x, verbose=0), top=3)[0]


def vectors() -> np.ndarray:
    """Return the feature vectors of two photographs, `(2, 2048)`."""
    model = ResNet50(weights=WEIGHTS, include_top=False, input_shape=(SIZE, SIZE, 3), pooling="avg")
    x = np.concatenate([photograph("china.jpg"), photograph("flower.jpg")])
    return model.predict(preprocess_input(x), verbose=0)


def transfer() -> keras.Model:
    """Train a new classifier on the network, then also the last blocks of the network."""
    base = ResNet50(weights=WEIGHTS, include_top=False, input_shape=(SIZE, SIZE, 3))
    base.trainable = False
    inputs = keras.Input((SIZE, SIZE, 3))
    x = base(preprocess_input(inputs), training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
    images, labels = crops(0, 32)
    for rate in (1e-3, 1e-5):
        adam = keras.optimizers.Adam(rate)
        model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(images, labels, verbose=2, validation_data=crops(320, 32))
        # By name, as the indices of layers differ from those in keras.applications.
        base.trainable = True
        for layer in base.layers:
            layer.trainable = False
            if layer.name == "conv5_block1_out":
                break
        # In Keras 3, `fit` overrides `training=False` and would update the statistics.
        for layer in base.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    return model


def feature_maps(name: str = "conv4_block6_out") -> np.ndarray:
    """Return the feature maps of a layer in the middle of the network."""
    model = ResNet50(weights=WEIGHTS, input_shape=(SIZE, SIZE, 3))
    extractor = keras.Model(model.input, model.get_layer(name).output)
    return extractor.predict(preprocess_input(photograph("flower.jpg")), verbose=0)


def main() -> None:
    """Run the four tutorials and print their results."""
    keras.utils.set_random_seed(0)
    for wordnet_id, name, probability in classify():
        print(f"{probability:.2%} {name} ({wordnet_id})")
    print("vectors:", vectors().shape)
    base = transfer().get_layer("resnet50")
    trains = [layer.name for layer in base.layers if layer.trainable and layer.weights]
    print(f"{len(trains)} layers of the base train, from {trains[0]} to {trains[-1]}")
    print("feature maps:", feature_maps().shape)


if __name__ == "__main__":
    main()
