from .comparison import Limits as Limits
from .exporter import ExportError as ExportError, export as export
from .options import ExportOptions as ExportOptions
from .report.rows import ArtifactReport as ArtifactReport, ExportReport as ExportReport
from .report.timing import (
    BenchmarkReport as BenchmarkReport,
    Measurement as Measurement,
    Timing as Timing,
    benchmark as benchmark,
)
from .runner import Runner as Runner
from .runtime import load_runner as load_runner
from .targets import TARGETS as TARGETS, Target as Target
from .verify import limits_of as limits_of, verify as verify
