"""Take the feature maps C2 to C5 of a network, for a detector or a segmenter."""

import keras_resnet

backbone = keras_resnet.ResNet50(include_top=False, input_shape=(256, 256, 3), output_stride=16)
features = keras_resnet.feature_extractor(backbone, ("C2", "C3", "C4", "C5"))
print({name: tuple(x.shape) for name, x in features.output.items()})
