from .check import limits_of as limits_of
from .check import verify as verify
from .comparison import Limits as Limits
from .exporter import ExportError as ExportError
from .exporter import export as export
from .report import ArtifactReport as ArtifactReport
from .report import ExportReport as ExportReport
from .runtime import Runner as Runner
from .runtime import load_runner as load_runner
from .signature import ExportOptions as ExportOptions
from .targets import TARGETS as TARGETS
from .targets import Target as Target
from .timing import (
    BenchmarkReport as BenchmarkReport,
)
from .timing import (
    Measurement as Measurement,
)
from .timing import (
    Timing as Timing,
)
from .timing import (
    benchmark as benchmark,
)
