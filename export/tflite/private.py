"""The private modules of TensorFlow that TFLite needs: imported here only, and only these names.

The public converter quantizes only what it has calibrated by itself, takes no ranges from
quantization-aware training, keeps no layer in float and does not let anybody look into its files.
`tests/export/tflite/test_private.py` notices when TensorFlow changes what is used of them.
"""

from __future__ import annotations

from typing import Any

try:
    # The classes and numbers of the file format.
    from tensorflow.lite.python import schema_py_generated

    # Quantizes a model that has ranges already: to int8, except for given operators.
    from tensorflow.lite.python.convert import mlir_quantize as mlir_quantize

    # The same to int16 activations.
    from tensorflow.lite.python.optimize.calibrator import Calibrator as Calibrator

    # From bytes to objects of these classes, and back.
    from tensorflow.lite.tools.flatbuffer_utils import (
        convert_bytearray_to_object as convert_bytearray_to_object,
        convert_object_to_bytearray as convert_object_to_bytearray,
    )
except ImportError as error:
    raise ImportError(
        "Expected a TensorFlow with the internal modules for TFLite that TensorFlow 2.21 has. "
        f"Received: {error}. Install tensorflow==2.21.*"
    ) from error

schema: Any = schema_py_generated
BuiltinOperator, TensorType = schema.BuiltinOperator, schema.TensorType
NO_ACTIVATION = schema.ActivationFunctionType.NONE
RELU = schema.ActivationFunctionType.RELU
