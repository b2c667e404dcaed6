"""What is used of TensorFlow's private modules: tells when a new TensorFlow has changed it."""

from __future__ import annotations

import importlib
import inspect
import sys

import pytest

from keras_resnet.export.tflite import private

#: The numbers of the file format: files that were written with them have to stay readable.
OPERATORS = {
    **{"ADD": 0, "AVERAGE_POOL_2D": 1, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 4, "DEQUANTIZE": 6},
    **{"FULLY_CONNECTED": 9, "LOGISTIC": 14, "MAX_POOL_2D": 17, "MUL": 18, "RESHAPE": 22},
    **{"SOFTMAX": 25, "PAD": 34, "TRANSPOSE": 39, "SUB": 41, "SQUEEZE": 43, "STRIDED_SLICE": 45},
    **{"SLICE": 65, "REDUCE_MAX": 82, "MIRROR_PAD": 100, "QUANTIZE": 114},
}
TYPES = {
    **{"FLOAT32": 0, "FLOAT16": 1, "INT32": 2, "UINT8": 3, "INT64": 4, "INT16": 7, "INT8": 9},
}


def test_numbers_are_those_of_the_file_format() -> None:
    for name, number in OPERATORS.items():
        assert getattr(private.BuiltinOperator, name) == number, name
    for name, number in TYPES.items():
        assert getattr(private.TensorType, name) == number, name
    assert (private.NO_ACTIVATION, private.RELU) == (0, 1)
    assert private.schema.Padding.VALID == 1


def test_objects_have_the_fields_that_are_set() -> None:
    schema = private.schema
    for kind, fields in (
        (schema.TensorT, "shape shapeSignature type buffer name quantization"),
        (schema.OperatorT, "opcodeIndex inputs outputs builtinOptions builtinOptionsType"),
        (schema.OperatorCodeT, "builtinCode deprecatedBuiltinCode customCode version"),
        (schema.QuantizationParametersT, "min max scale zeroPoint"),
        (schema.DepthwiseConv2DOptionsT, "padding strideW strideH depthMultiplier"),
        (schema.DepthwiseConv2DOptionsT, "dilationWFactor dilationHFactor fusedActivationFunction"),
        (schema.ModelT, "subgraphs operatorCodes buffers metadata signatureDefs"),
        (schema.SubGraphT, "tensors operators inputs outputs"),
        (schema.BufferT, "data"),
        (schema.MetadataT, "name buffer"),
    ):
        assert set(fields.split()) <= set(vars(kind())), kind


def test_functions_take_what_they_are_given() -> None:
    for function, names in (
        (private.mlir_quantize, "input_data_type output_data_type denylisted_nodes"),
        (private.Calibrator.calibrate_and_quantize, "allow_float activations_type bias_type"),
    ):
        assert set(names.split()) <= set(inspect.signature(function).parameters)


def test_bytes_become_objects_and_bytes_again() -> None:
    model = private.schema.ModelT()
    model.version, model.description = 3, b"nothing"
    content = private.convert_object_to_bytearray(model)
    assert bytes(content[4:8]) == b"TFL3"
    assert private.convert_bytearray_to_object(bytearray(content)).description == b"nothing"


def test_another_tensorflow_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow.lite.python.convert", None)
    monkeypatch.delitem(sys.modules, private.__name__)
    with pytest.raises(ImportError, match="Expected a TensorFlow with .*Received: .*convert"):
        importlib.import_module(private.__name__)
