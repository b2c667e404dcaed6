"""Check that a SavedModel only computes: its graph is a program, which could access files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorflow.core.framework.types_pb2 import DT_STRING
from tensorflow.core.protobuf import saved_model_pb2

#: Allowed operators: those that networks compute with, read pictures and name classes. A list of
#: forbidden ones would have gaps: TensorFlow has about a hundred that access files, processes or
#: other machines, some of them unexpected (`PrintV2` and `DebugIdentityV2` write files).
_SAFE = """
Abs AccumulateNV2 Acos Acosh Add AddN AddV2 All Angle Any ApproximateEqual ArgMax ArgMin AsString
Asin Asinh Assert AssignVariableOp Atan Atan2 Atanh AvgPool AvgPool3D BatchDatasetV2 BatchMatMul
BatchMatMulV2 BatchMatMulV3 BatchToSpace BatchToSpaceND BiasAdd BiasAddV1 Bincount Bitcast
BitwiseAnd BitwiseOr BitwiseXor BroadcastArgs BroadcastTo Bucketize Case Cast Ceil CheckNumerics
CheckNumericsV2 ClipByValue CombinedNonMaxSuppression Complex ComplexAbs Concat ConcatV2
ConcatenateDataset Conj ConjugateTranspose Const Conv Conv2D Conv2DBackpropInput Conv3D
Conv3DBackpropInputV2 Cos Cosh CropAndResize Cross Cumprod Cumsum DataFormatDimMap
DataFormatVecPermute DatasetToSingleElement DecodeAndCropJpeg DecodeBmp DecodeGif DecodeImage
DecodeJpeg DecodePng DecodeRaw DepthToSpace DepthwiseConv2dNative Diag DiagPart Digamma
DisableCopyOnRead Div DivNoNan Einsum Elu EmptyTensorList EnsureShape Equal Erf Erfc Erfinv
EuclideanNorm Exp ExpandDims Expm1 ExtractImagePatches ExtractJpegShape ExtractVolumePatches
FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel Fill Floor
FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather GatherNd GatherV2 Greater
GreaterEqual HashTableV2 Identity IdentityN If IgnoreErrorsDataset Imag ImageProjectiveTransformV2
ImageProjectiveTransformV3 InTopKV2 Inv Invert InvertPermutation IsFinite IsInf IsNan L2Loss LRN
LeakyRelu LeftShift Less LessEqual Lgamma LinSpace Log Log1p LogSoftmax LogicalAnd LogicalNot
LogicalOr LookupTableFindV2 LookupTableImportV2 LookupTableSizeV2 MatMul MatrixBandPart MatrixDiag
MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixSetDiag
MatrixSetDiagV2 MatrixSetDiagV3 Max MaxPool MaxPool3D MaxPoolV2 Maximum Mean Min Minimum MirrorPad
Mod Mul MulNoNan Neg NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 NoOp NotEqual
OneHot OnesLike Pack Pad PadV2 ParallelMapDatasetV2 PartitionedCall Placeholder
PlaceholderWithDefault Polygamma Pow Prod QuantizeAndDequantizeV2 QuantizeAndDequantizeV3
QuantizeAndDequantizeV4 RandomStandardNormal RandomUniform RandomUniformInt Range RangeDataset Rank
ReadVariableOp Real RealDiv Reciprocal Relu Relu6 Reshape ResizeArea ResizeBicubic ResizeBilinear
ResizeNearestNeighbor ResourceGather ResourceGatherNd Reverse ReverseSequence ReverseV2
RewriteDataset RightShift Rint Roll Round Rsqrt ScaleAndTranslate ScatterNd SegmentMax SegmentMean
SegmentMin SegmentProd SegmentSum Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Sinh Size
Slice Softmax Softplus Softsign SpaceToBatch SpaceToBatchND SpaceToDepth Split SplitV Sqrt Square
SquaredDifference Squeeze StatefulPartitionedCall StatelessCase StatelessIf
StatelessRandomGetKeyCounter StatelessRandomNormalV2 StatelessRandomUniformV2 StatelessWhile
StopGradient StridedSlice StringJoin StringLength StringLower Sub Substr Sum Tan Tanh TensorDataset
TensorListFromTensor TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack
TensorListReserve TensorListSetItem TensorListStack TensorScatterAdd TensorScatterMax
TensorScatterMin TensorScatterSub TensorScatterUpdate TensorSliceDataset Tile TopK TopKV2 Transpose
TruncateDiv TruncateMod Unique UniqueV2 Unpack UnravelIndex UnsortedSegmentMax UnsortedSegmentMin
UnsortedSegmentProd UnsortedSegmentSum VarHandleOp VarIsInitializedOp VariableShape Where While
Xdivy Xlog1py Xlogy ZerosLike ZipDataset
"""

#: Operator that fills a table from a text file: the artifacts of this package read class names so.
_READS_NAMES = "InitializeTableFromTextFileV2"


def check_only_computes(directory: Path) -> None:
    """Raise ValueError if a SavedModel has operators that may do more than compute.

    Functions that only TensorFlow's saver calls are ignored: loading never calls them.

    Args:
        directory: directory with `saved_model.pb`.

    Raises:
        ValueError: the SavedModel has such operators, or cannot be read.
    """
    try:
        content = (directory / "saved_model.pb").read_bytes()
        graphs = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    except (OSError, DecodeError) as error:
        raise ValueError(
            f"Expected a readable SavedModel. Received: {directory}: {error}"
        ) from error
    found: set[str] = set()
    for graph in graphs:
        library = graph.graph_def.library.function
        functions, ignored = {item.signature.name: item for item in library}, set[str]()
        # TensorFlow 1's loader, which runs everything, loads several graphs or one without objects.
        modern = len(graphs) == 1 and graph.HasField("object_graph_def")
        if modern and len(functions) == len(library):
            ignored = {*_savers(graph, functions), *_name_readers(graph, functions, directory)}
        bodies = [item.node_def for item in library if item.signature.name not in ignored]
        found |= {node.op for nodes in (graph.graph_def.node, *bodies) for node in nodes}
    if unsafe := sorted(found.difference(_SAFE.split())):
        raise ValueError(
            "Expected a SavedModel that only computes. Received: "
            f"{directory}, with operators that may read and write files, start programs or reach "
            f"other machines: {', '.join(unsafe[:5])}. If you trust its author, pass `trust=True`"
        )


def _savers(graph: Any, functions: Mapping[str, Any]) -> list[str]:
    """Return the functions that save and restore the variables, if nothing else calls them."""
    ends = (graph.saver_def.save_tensor_name, graph.saver_def.restore_op_name)
    ends = tuple(end.partition(":")[0] for end in ends)
    called = {node.attr["f"].func.name for node in graph.graph_def.node if node.name in ends}
    objects = graph.object_graph_def.SerializeToString()
    return [
        name
        for name in called & functions.keys()
        # Grappler may replace a function by another one that implements the same interface.
        if name.encode() not in objects
        and "api_implements" not in functions[name].attr
        and not _calls(functions, name)
    ]


def _name_readers(graph: Any, functions: Mapping[str, Any], directory: Path) -> list[str]:
    """Return the functions that only fill a table from text files of the SavedModel."""
    assets = (directory / "assets").resolve()
    if any((assets / x.filename).resolve().parent != assets for x in graph.asset_file_def):
        return []
    objects, found = graph.object_graph_def.nodes, []
    for name, known in graph.object_graph_def.concrete_functions.items():
        kinds = {objects[index].WhichOneof("kind") for index in known.bound_inputs}
        nodes = functions[name].node_def if name in functions else ()
        texts = (node.attr["dtype"].type == DT_STRING for node in nodes if node.op == "Const")
        harmless = {node.op for node in nodes} <= {_READS_NAMES, "Const", "Identity", "NoOp"}
        if harmless and kinds <= {"asset", "resource"} and not any(texts):
            found.append(name)
    return [name for name in found if not _calls(functions, name)]


def _calls(functions: Mapping[str, Any], name: str) -> bool:
    """Return whether any other function may call the one of that name."""
    others = (item for other, item in functions.items() if other != name)
    return any(name.encode() in item.SerializeToString() for item in others)
