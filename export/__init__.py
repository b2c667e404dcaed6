"""SavedModel, TFLite and ONNX artifacts that are run and compared when they are written.

Import it as `keras_resnet.export`. Needs TensorFlow and, for TFLite and ONNX, the extra
`keras-resnets[export]`.
"""

if __name__ == "export":
    raise ImportError(
        "This package is a part of `keras_resnet`: write `import keras_resnet.export` instead."
    )

from keras_resnet.export.exporter import ExportError, export
from keras_resnet.export.report import ArtifactReport, ExportReport
from keras_resnet.export.runtime import Runner, load_runner
from keras_resnet.export.targets import TARGETS, Target
from keras_resnet.export.verify import Limits

__all__ = [
    "TARGETS",
    "ArtifactReport",
    "ExportError",
    "ExportReport",
    "Limits",
    "Runner",
    "Target",
    "export",
    "load_runner",
]
