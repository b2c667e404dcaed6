from .studies.curves import NetworkCurves as NetworkCurves, TrainingStudy as TrainingStudy
from .studies.degradation import (
    degradation_study as degradation_study,
    shortcut_study as shortcut_study,
)
from .studies.explain import explain as explain, grad_cam as grad_cam
from .studies.lesion import LesionStudy as LesionStudy, lesion_study as lesion_study
from .studies.responses import first_filters as first_filters, layer_responses as layer_responses
