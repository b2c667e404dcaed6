"""Names from private modules of TensorFlow, which are imported in this module only.

The public converter cannot do what they are for: it quantizes only with its own calibration, takes
no ranges from quantization-aware training, keeps no layers in float, and cannot read its files.
`tests/export/tflite/test_private.py` fails when TensorFlow changes them.
"""

from __future__ import annotations

from typing import Any

try:
    # Classes and constants of the file format.
    from tensorflow.lite.python import schema_py_generated

    # Quantizes a model with known ranges to int8, except for given operators.
    from tensorflow.lite.python.convert import mlir_quantize as mlir_quantize

    # Quantizes a model with known ranges to int16 activations.
    from tensorflow.lite.python.optimize.calibrator import Calibrator as Calibrator

    # Convert from the content of a file to objects, and back.
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
