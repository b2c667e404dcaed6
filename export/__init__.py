"""SavedModel, TFLite and ONNX artifacts that are run and compared when they are written.

Import it as `keras_resnet.export`. Needs TensorFlow and, for TFLite and ONNX, the extra `export`.
"""

import lazy_loader

if __name__ == "export":
    raise ImportError(
        "This package is a part of `keras_resnet`: write `import keras_resnet.export` instead."
    )

# What it has is in the stub beside this file, and is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
