"""Compression of networks: quantization-aware training, pruning and clustering.

Everything is implemented in Keras 3, with `model.fit` under TensorFlow or JAX. `to_tf_keras` makes
a tf_keras twin of a network for tensorflow-model-optimization, the engine "tfmot"; this needs
TensorFlow and the extra `compression`.
"""

import lazy_loader

# The stub `__init__.pyi` lists the public names, which are imported when they are first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
