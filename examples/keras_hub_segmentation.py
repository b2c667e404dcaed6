"""Train KerasHub's DeepLabV3+ with a network of this package, and export it. It prints

mIoU 0.06
mIoU 0.84
same outputs after reloading: True
model-float32.tflite: largest error 2e-06, mIoU 0.84
model-int8.tflite: largest error 1e-01, mIoU 0.84
model.onnx: largest error 2e-06, mIoU 0.84

in two minutes. A test requires a mIoU of 0.75 of the network and its files. Needs
`pip install keras-hub`.
"""

from __future__ import annotations

import keras
import keras_hub
import numpy as np

import keras_resnet
from keras_resnet.export import export, load_runner

SIZE = 64


@keras.saving.register_keras_serializable("example")
class Encoder(keras_hub.models.FeaturePyramidBackbone):
    """Feature maps by KerasHub's names: P3 is the last one with stride 8, and so on."""

    def __init__(self, features: keras.Model, **kwargs: object) -> None:
        super().__init__(features.input, features.output, **kwargs)
        self.features = features
        self.pyramid_outputs = {
            f"P{(features.input.shape[1] // x.shape[1]).bit_length() - 1}": x
            for x in features.output.values()
        }

    def get_config(self) -> dict[str, object]:
        return {"features": keras.saving.serialize_keras_object(self.features), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, object]) -> Encoder:
        return cls(keras.saving.deserialize_keras_object(config.pop("features")), **config)


def encoder() -> Encoder:
    """Build a small encoder; `keras_resnet.ResNet50(weights="imagenet", …)` works, too."""
    config = keras_resnet.ResNetConfig("basic", (1,) * 4, (16, 32, 64, 64), output_stride=8)
    model = keras_resnet.build(config, include_top=False, input_shape=(SIZE, SIZE, 3))
    return Encoder(keras_resnet.feature_extractor(model))


def scenes(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of shapes on noise, and the class of every pixel, 0 for noise."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 140, (number, SIZE, SIZE, 3), dtype=np.uint8)
    masks = np.zeros((number, SIZE, SIZE), np.uint8)
    for index, quarter in np.argwhere(random.random((number, 4)) < 0.6):
        side, kind = random.integers(14, 33), random.integers(3)
        top, left = 32 * np.array(divmod(quarter, 2)) + random.integers(0, 33 - side, 2)
        window = np.s_[index, top : top + side, left : left + side]
        y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
        shape = (x**2 + y**2 <= 1, abs(x) <= 1, 2 * abs(x) <= y + 1)[kind]
        images[window][shape], masks[window][shape] = random.integers(60, 256, 3), kind + 1
    return images, masks


def mean_iou(probabilities: np.ndarray) -> float:
    """Return the intersection over union on the held-out images, averaged over the classes."""
    metric = keras.metrics.MeanIoU(4, sparse_y_pred=False)
    metric.update_state(true_masks, probabilities)
    return float(metric.result())


keras.utils.set_random_seed(0)
images, masks = scenes(960, seed=1)
held_out, true_masks = scenes(100, seed=2)

backbone = keras_hub.models.DeepLabV3Backbone(
    encoder(), "P3", 2, [2, 3], "P2", image_shape=(SIZE, SIZE, 3)
)
segmenter = keras_hub.models.DeepLabV3ImageSegmenter(backbone, 4, activation="softmax")
rate = keras.optimizers.schedules.CosineDecay(2e-3, 240)
segmenter.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=[])
print(f"mIoU {mean_iou(segmenter.predict(held_out, verbose=0)):.2f}")
segmenter.fit(images, masks, batch_size=8, epochs=2, verbose=2)
print(f"mIoU {mean_iou(segmenter.predict(held_out, verbose=0)):.2f}")

segmenter.save("segmenter.keras")
reloaded = keras.saving.load_model("segmenter.keras")
same = np.array_equal(segmenter(held_out[:4]), reloaded(held_out[:4]))
print(f"same outputs after reloading: {same}")

report = export(
    segmenter,
    "segmenter",
    ["tflite-float32", "tflite-int8", "onnx"],
    calibration=images[:200],
    images=held_out,
    timing=None,
    overwrite=True,
)
for row in report.artifacts[1:]:
    (outputs,) = load_runner(f"segmenter/{row.file_name}").compute(held_out).values()
    error = row.comparison.max_error
    print(f"{row.file_name}: largest error {error:.0e}, mIoU {mean_iou(outputs):.2f}")
