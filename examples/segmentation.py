"""Segment images with DeepLabV3+ and a dilated network, and export it. In a minute it prints

strides 32 and 8: 60 of 60 weights are equal,
C5 is (2, 2, 64) and (8, 8, 64), with a difference of 8e-08 at common positions
mIoU 0.112
mIoU 0.853
model-float32.tflite: largest error 4e-06, mIoU 0.853
model-int8.tflite: largest error 9e-02, mIoU 0.853
model.onnx: largest error 2e-06, mIoU 0.853

A test requires a mIoU of 0.75 of the trained network and of its files.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers
from PIL import Image, ImageDraw

import keras_resnet
from keras_resnet.export import export, load_runner

SIZE = 64
CLASSES = ("background", "disc", "square", "triangle")


def scenes(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of shapes on noise, `(n, 64, 64, 3)`, and the class of every pixel."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 140, (number, SIZE, SIZE, 3), dtype=np.uint8)
    masks = np.zeros((number, SIZE, SIZE), np.uint8)
    for index in range(number):
        picture, mask = Image.fromarray(images[index]), Image.fromarray(masks[index])
        for kind in random.integers(1, len(CLASSES), random.integers(1, 4)):
            side = int(random.integers(18, 32))
            x, y = random.integers(0, SIZE - side, 2).tolist()
            # The later shape hides the earlier one.
            for canvas, fill in ((picture, tuple(random.integers(60, 256, 3))), (mask, int(kind))):
                draw, box = ImageDraw.Draw(canvas), (x, y, x + side, y + side)
                if kind == 1:
                    draw.ellipse(box, fill)
                elif kind == 2:
                    draw.rectangle(box, fill)
                else:
                    draw.polygon([(x + side // 2, y), (x, y + side), (x + side, y + side)], fill)
        images[index], masks[index] = picture, mask
    return images, masks


def conv(x: keras.KerasTensor, filters: int, size: int = 1, rate: int = 1) -> keras.KerasTensor:
    """Apply convolution, batch normalization, ReLU."""
    x = layers.Conv2D(filters, size, padding="same", dilation_rate=rate, use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def deeplab(backbone: keras.Model) -> keras.Model:
    """Build a narrow DeepLabV3+ (Chen et al. 2018): atrous pyramid pooling, decoder with C2."""
    maps = keras_resnet.feature_extractor(backbone, ("C2", "C5")).output
    low, high = maps["C2"], maps["C5"]
    whole = conv(layers.GlobalAveragePooling2D(keepdims=True)(high), 32)
    branches = [layers.UpSampling2D(high.shape[1:3])(whole), conv(high, 32)]
    branches += [conv(high, 32, 3, rate) for rate in (2, 3)]
    x = conv(layers.Concatenate()(branches), 32)
    x = layers.UpSampling2D(low.shape[1] // x.shape[1], interpolation="bilinear")(x)
    x = conv(layers.Concatenate()([x, conv(low, 16)]), 32, 3)
    x = layers.UpSampling2D(4, interpolation="bilinear")(layers.Conv2D(len(CLASSES), 1)(x))
    return keras.Model(backbone.input, layers.Softmax()(x), name="segmenter")


def mean_iou(masks: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the intersection over union, averaged over the classes."""
    metric = keras.metrics.MeanIoU(len(CLASSES), sparse_y_pred=False)
    metric.update_state(masks, probabilities)
    return float(metric.result())


keras.utils.set_random_seed(0)
images, masks = scenes(1600, seed=1)
held_out, truth = scenes(200, seed=2)

config = keras_resnet.ResNetConfig("basic", (1, 1, 1, 1), (16, 32, 64, 64))
plain = keras_resnet.build(config, include_top=False, input_shape=(None, None, 3))
plain.save_weights("backbone.weights.h5")
backbone = keras_resnet.build(
    config.replace(output_stride=8),
    weights="backbone.weights.h5",
    include_top=False,
    input_shape=(SIZE, SIZE, 3),
)
pairs = zip(plain.get_weights(), backbone.get_weights(), strict=True)
equal = [np.array_equal(*pair) for pair in pairs]
coarse, fine = (np.asarray(network(held_out[:8])) for network in (plain, backbone))
print(f"strides 32 and 8: {sum(equal)} of {len(equal)} weights are equal,")
error = np.abs(fine[:, ::4, ::4] - coarse).max() / coarse.max()
print(f"C5 is {coarse.shape[1:]} and {fine.shape[1:]},", end=" ")
print(f"with a difference of {error:.0e} at common positions")

model = deeplab(backbone)
rate = keras.optimizers.schedules.CosineDecay(4e-3, 300)
model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
print(f"mIoU {mean_iou(truth, model.predict(held_out, verbose=0)):.3f}")
model.fit(images, masks, batch_size=16, epochs=3, verbose=2)
print(f"mIoU {mean_iou(truth, model.predict(held_out, verbose=0)):.3f}")

report = export(
    model,
    "segmenter",
    ["tflite-float32", "tflite-int8", "onnx"],
    calibration=images[:200],
    images=held_out,
    timing=None,
    overwrite=True,
)
for row in report.artifacts[1:]:
    scores = load_runner(f"segmenter/{row.file_name}").compute(held_out)["features"]
    error = row.comparison.max_error
    print(f"{row.file_name}: largest error {error:.0e}, mIoU {mean_iou(truth, scores):.3f}")
