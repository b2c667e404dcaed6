"""Give KerasHub's RetinaNet and DeepLabV3+ a network of this package: `pip install keras-hub`.

With KerasHub 0.32, in two minutes, besides losses that fall (boxes take more steps than these):

RetinaNet: the surest box has an IoU of 0.16
DeepLabV3+: mIoU 0.94
RetinaNetObjectDetector: reloaded, it puts out the same: True
DeepLabV3ImageSegmenter: reloaded, it puts out the same: True
"""

from __future__ import annotations

import keras
import keras_hub
import numpy as np

import keras_resnet

SIZE = 64


@keras.saving.register_keras_serializable("example")
class Encoder(keras_hub.models.FeaturePyramidBackbone):
    """Feature maps under the names that KerasHub wants: P3 is what has stride 8, and so on.

    Of maps with the same stride, which a network with `output_stride` has, it is the last one.
    """

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


def encoder(stages: int, **changes: object) -> Encoder:
    """A small network; `keras_resnet.ResNet50(weights="imagenet", …)` goes in just as well."""
    widths = (16, 32, 64, 64)[:stages]
    config = keras_resnet.ResNetConfig("basic", (1,) * stages, widths, **changes)
    model = keras_resnet.build(config, include_top=False, input_shape=(SIZE, SIZE, 3))
    return Encoder(keras_resnet.feature_extractor(model))


def squares(number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One square on noise each: images, boxes `(n, 4)` (left, top, right, bottom) and masks."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 140, (number, SIZE, SIZE, 3), dtype=np.uint8)
    corners, sides = random.integers(0, 32, (number, 2)), random.integers(14, 33, (number, 1))
    boxes, masks = np.hstack([corners, corners + sides]), np.zeros((number, SIZE, SIZE), np.uint8)
    for image, mask, (left, top, right, bottom) in zip(images, masks, boxes, strict=True):
        image[top:bottom, left:right] = random.integers(60, 256, 3)
        mask[top:bottom, left:right] = 1
    return images, boxes.astype(np.float32), masks


keras.utils.set_random_seed(0)
images, boxes, masks = squares(480, seed=1)
held_out, true_boxes, true_masks = squares(50, seed=2)

backbone = keras_hub.models.RetinaNetBackbone(
    encoder(3), min_level=3, max_level=4, use_p5=False, image_shape=(SIZE, SIZE, 3)
)
anchors = keras_hub.layers.AnchorGenerator("xyxy", 3, 4, 2, [1.0], 2.0)
detector = keras_hub.models.RetinaNetObjectDetector(
    backbone,
    num_classes=1,
    bounding_box_format="xyxy",
    anchor_generator=anchors,
    pre_logits_num_conv_layers=1,
)
detector.compile(keras.optimizers.Adam(1e-3))
objects = {"boxes": boxes[:, None], "labels": np.zeros((len(boxes), 1), np.float32)}
detector.fit(images, objects, batch_size=8, epochs=2, verbose=2)
# KerasHub 0.32's own `predict` fails where the batch size is not fixed.
found = detector.decode_predictions(detector(held_out), held_out)["boxes"][:, :1]
overlaps = keras.utils.bounding_boxes.compute_iou(true_boxes[:, None], found, "xyxy")
print(f"RetinaNet: the surest box has an IoU of {np.mean(overlaps):.2f}")

backbone = keras_hub.models.DeepLabV3Backbone(
    encoder(4, output_stride=8),
    spatial_pyramid_pooling_key="P3",
    low_level_feature_key="P2",
    upsampling_size=2,
    dilation_rates=[2, 3],
    image_shape=(SIZE, SIZE, 3),
)
segmenter = keras_hub.models.DeepLabV3ImageSegmenter(backbone, 2, activation="softmax")
segmenter.compile(
    keras.optimizers.Adam(1e-3),
    "sparse_categorical_crossentropy",
    metrics=["sparse_categorical_accuracy"],
)
segmenter.fit(images, masks, batch_size=8, epochs=2, verbose=2)
score = keras.metrics.MeanIoU(2, sparse_y_pred=False)
score.update_state(true_masks, segmenter.predict(held_out, verbose=0))
print(f"DeepLabV3+: mIoU {float(score.result()):.2f}")

for model in (detector, segmenter):
    model.save("reloaded.keras")
    again = keras.saving.load_model("reloaded.keras")
    outputs = [keras.tree.flatten(network(held_out[:4])) for network in (model, again)]
    same = all(np.array_equal(*pair) for pair in zip(*outputs, strict=True))
    print(f"{type(model).__name__}: reloaded, it puts out the same: {same}")
