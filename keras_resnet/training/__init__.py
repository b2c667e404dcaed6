"""Training with `model.fit`. Needs TensorFlow, whatever the Keras backend."""

import lazy_loader

# The stub `__init__.pyi` lists the public names, which are imported when they are first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
