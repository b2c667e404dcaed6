"""Export of Keras models to SavedModel, TFLite and ONNX, with a comparison of every artifact.

Import the package as `keras_resnet.export`. It needs TensorFlow and, for TFLite and ONNX, the extra
`export`.
"""

import lazy_loader

if __name__ == "export":
    raise ImportError(
        "This package is a part of `keras_resnet`: write `import keras_resnet.export` instead."
    )

# The stub beside this file lists the public names; each is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
