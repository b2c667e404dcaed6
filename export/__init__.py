"""SavedModel, TFLite and ONNX artifacts that are run and compared when they are written.

Import it as `keras_resnet.export`. Needs TensorFlow and, for TFLite and ONNX, the extra
`keras-resnets[export]`.
"""

if __name__ == "export":
    raise ImportError(
        "This package is a part of `keras_resnet`: write `import keras_resnet.export` instead."
    )

from keras_resnet.export.check import limits_of, verify
from keras_resnet.export.comparison import Limits
from keras_resnet.export.exporter import ExportError, export
from keras_resnet.export.report import ArtifactReport, ExportReport
from keras_resnet.export.runtime import Runner, load_runner
from keras_resnet.export.signature import ExportOptions
from keras_resnet.export.targets import TARGETS, Target
from keras_resnet.export.timing import BenchmarkReport, Measurement, Timing, benchmark

__all__ = [
    "TARGETS",
    "ArtifactReport",
    "BenchmarkReport",
    "ExportError",
    "ExportOptions",
    "ExportReport",
    "Limits",
    "Measurement",
    "Runner",
    "Target",
    "Timing",
    "benchmark",
    "export",
    "limits_of",
    "load_runner",
    "verify",
]
