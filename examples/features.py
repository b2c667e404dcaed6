"""Build a model that returns the feature maps C2 to C5, for a detector or a segmenter.

Prints, on one line:

    {'C2': (None, 64, 64, 256), 'C3': (None, 32, 32, 512),
     'C4': (None, 16, 16, 1024), 'C5': (None, 16, 16, 2048)}
"""

import keras_resnet

backbone = keras_resnet.ResNet50(include_top=False, input_shape=(256, 256, 3), output_stride=16)
features = keras_resnet.feature_extractor(backbone, ("C2", "C3", "C4", "C5"))
print({name: tuple(x.shape) for name, x in features.output.items()})
