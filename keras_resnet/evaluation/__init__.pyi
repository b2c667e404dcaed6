from .comparison import (
    EvaluationComparison as EvaluationComparison,
    compare_evaluations as compare_evaluations,
)
from .loop import evaluate as evaluate
from .report import Evaluation as Evaluation
from .save import save_evaluation as save_evaluation, save_predictions as save_predictions
