"""ONNX: float32, through tf2onnx."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from keras_resnet.export.metadata import into_onnx
from keras_resnet.export.signature import BATCH, IMAGE, ExportSource
from keras_resnet.extras import require
from keras_resnet.quiet import quiet

#: The newest opset for which tf2onnx still writes GlobalAveragePool; from 18 on it becomes
#: ReduceMean with a transpose.
OPSET = 17


def write_float32(source: ExportSource, path: Path) -> None:
    """Writes an ONNX file that `onnx.checker` accepts, with NHWC `image` and a free batch size."""
    tf2onnx, onnx = require("tf2onnx"), require("onnx")
    function = tf.function(source.serving_function(), input_signature=[source.input_spec])
    concrete = function.get_concrete_function()
    # Flattened, a dict's values are in the order of its sorted keys.
    ends = dict(zip(sorted(source.outputs), concrete.outputs, strict=True))
    names = {f"{IMAGE}:0": IMAGE, **{ends[name].name: name for name in source.outputs}}
    inputs, outputs = list(names)[:1], list(names)[1:]
    with quiet():
        # Not `tf2onnx.convert.from_function`: it makes graph inputs of the constants that layers
        # such as Normalization hold.
        frozen = tf2onnx.tf_loader.from_function(concrete, inputs, outputs)
        proto, _ = tf2onnx.convert.from_graph_def(
            frozen,
            input_names=inputs,
            output_names=outputs,
            opset=OPSET,
            tensors_to_rename=names,
        )
    if source.options.batch_size is None:
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    # Shapes in between still carry the converter's own name for the batch dimension; they are
    # inferred anew.
    del proto.graph.value_info[:]
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    onnx.checker.check_model(proto, full_check=True)
    into_onnx(proto, source.info)
    path.write_bytes(proto.SerializeToString())
