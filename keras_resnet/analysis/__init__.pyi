from .studies.curves import NetworkCurves as NetworkCurves, TrainingStudy as TrainingStudy
from .studies.degradation import (
    degradation_study as degradation_study,
    shortcut_study as shortcut_study,
)
from .studies.deletion import (
    DeletionInsertion as DeletionInsertion,
    deletion_insertion as deletion_insertion,
)
from .studies.explain import explain as explain, grad_cam as grad_cam
from .studies.gradient_study import GradientStudy as GradientStudy, gradient_study as gradient_study
from .studies.gradients import GradientNorms as GradientNorms, gradient_norms as gradient_norms
from .studies.lesion import LesionStudy as LesionStudy, lesion_study as lesion_study
from .studies.paths import PathStudy as PathStudy, path_study as path_study
from .studies.responses import first_filters as first_filters, layer_responses as layer_responses
