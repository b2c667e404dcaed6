"""Making networks smaller and faster: quantization-aware training, pruning, clustering.

All of it in Keras 3; `model.fit` is tested under TensorFlow and JAX. `to_tf_keras` makes the
twin that `tfmot` hands to tensorflow-model-optimization, for `CompressionOptions(engine="tfmot")`;
both need TensorFlow and the extra `compression`.
"""

import lazy_loader

# What it has is in the stub beside this file, and is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
