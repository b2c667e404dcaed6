"""Image data sets as tf.data pipelines. Needs TensorFlow, whatever the Keras backend."""

import lazy_loader

# What it has is in the stub beside this file, and is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
