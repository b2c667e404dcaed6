"""Train a network for several labels per image, then for numbers, with two other heads.

The images are generated. First, the network learns which of three shapes are in an image. An image
may have any of them, so that each shape has a sigmoid of its own. Then a head without an activation
replaces the first one, and the network learns the width and height of an ellipse, as fractions of
the image's.

Prints (figures differ between machines; a test requires that more than 0.95 of the labels are
correct, an area under the curve of 0.99, and a mean error of the values below 0.06, two pixels):

    …
    47/47 - 2s - 39ms/step - auc: 1.0000 - binary_accuracy: 0.9989 - loss: 0.0819
    labels: {'auc': 1.0, 'binary_accuracy': 1.0, 'loss': 0.073}
    ['disc', 'triangle'] should be ['disc', 'triangle']
    ['disc', 'square', 'triangle'] should be ['disc', 'square', 'triangle']
    ['disc'] should be ['disc']
    …
    47/47 - 4s - 82ms/step - loss: 0.0013 - mean_absolute_error: 0.0278
    values: {'loss': 0.0007, 'mean_absolute_error': 0.0197}
    guessing the mean: 0.1803
    [0.59 0.61] should be [0.59 0.56]
"""

from typing import Any

import keras
import numpy as np
from PIL import Image, ImageDraw

import keras_resnet
from keras_resnet.training import replace_head

SIZE = 32
SHAPES = ("disc", "square", "triangle")
EPOCHS = 4


def color(random: np.random.Generator, low: int, high: int) -> tuple[int, ...]:
    """Return a random RGB color, each value at least `low` and below `high`."""
    return tuple(int(value) for value in random.integers(low, high, 3))


def scenes(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images with some of the shapes, and whether each shape is present, `(count, 3)`."""
    present = random.integers(0, 2, (count, len(SHAPES)))
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for image, row in zip(images, present, strict=True):
        picture = Image.new("RGB", (SIZE, SIZE), color(random, 0, 80))
        draw = ImageDraw.Draw(picture)
        for shape, visible, quarter in zip(SHAPES, row, random.permutation(4), strict=False):
            side = int(random.integers(9, 15))
            upper, column = divmod(int(quarter), 2)
            left, top = (16 * half + int(random.integers(16 - side)) for half in (column, upper))
            box, fill = (left, top, left + side, top + side), color(random, 120, 256)
            if visible and shape == "disc":
                draw.ellipse(box, fill)
            elif visible and shape == "square":
                draw.rectangle(box, fill)
            elif visible:
                corners = [(left, top + side), (left + side, top + side), (left + side // 2, top)]
                draw.polygon(corners, fill)
        image[:] = picture
    return images, present


def chosen(present: np.ndarray) -> list[str]:
    """Return the names of the shapes that are present."""
    return [shape for shape, yes in zip(SHAPES, present, strict=True) if yes]


def ellipses(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of one ellipse, and its width and height as fractions of the image's."""
    sides = random.integers(6, 29, (count, 2))
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for image, (width, height) in zip(images, sides, strict=True):
        picture = Image.new("RGB", (SIZE, SIZE), color(random, 0, 80))
        left, top = random.integers(SIZE - width), random.integers(SIZE - height)
        box = (left, top, left + width - 1, top + height - 1)
        ImageDraw.Draw(picture).ellipse([int(edge) for edge in box], color(random, 120, 256))
        image[:] = picture
    return images, sides / SIZE


def train(model: keras.Model, images: np.ndarray, targets: np.ndarray, **how: Any) -> None:
    """Call `compile` and `fit`, with a learning rate that falls to zero."""
    steps = EPOCHS * -(-len(images) // 32)
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-3, steps))
    # Compiling with XLA would take longer than these few steps.
    model.compile(adam, jit_compile=False, **how)
    model.fit(images, targets, batch_size=32, epochs=EPOCHS, verbose=2)


def main() -> None:
    """Train both heads and print their figures on new images."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    config = keras_resnet.ResNetConfig("basic", (1, 1, 1), (8, 16, 32), stem="cifar")
    backbone = keras_resnet.build(config, include_top=False, input_shape=(SIZE, SIZE, 3))

    model = replace_head(backbone, len(SHAPES), task="labels", names=SHAPES)
    metrics = [keras.metrics.BinaryAccuracy(), keras.metrics.AUC(multi_label=True, name="auc")]
    train(model, *scenes(random, 1500), loss="binary_crossentropy", metrics=metrics)
    images, present = scenes(random, 500)
    measured = model.evaluate(images, present, verbose=0, return_dict=True)
    print("labels:", {name: round(value, 3) for name, value in measured.items()})
    for scores, row in zip(model.predict(images[:3], verbose=0), present, strict=False):
        print(chosen(scores > 0.5), "should be", chosen(row))

    # Training continues from the same weights; only the head is new.
    model = replace_head(model, 2, task="values", names=["width", "height"])
    train(model, *ellipses(random, 1500), loss="mse", metrics=["mean_absolute_error"])
    images, sides = ellipses(random, 500)
    measured = model.evaluate(images, sides, verbose=0, return_dict=True)
    print("values:", {name: round(value, 4) for name, value in measured.items()})
    print(f"guessing the mean: {abs(sides - sides.mean(0)).mean():.4f}")
    print(model.predict(images[:1], verbose=0)[0].round(2), "should be", sides[0].round(2))


if __name__ == "__main__":
    main()
