from .studies.curves import (
    DeletionInsertion as DeletionInsertion,
    deletion_insertion as deletion_insertion,
)
from .studies.explain import explain as explain, grad_cam as grad_cam
from .studies.lesion import LesionStudy as LesionStudy, lesion_study as lesion_study
from .studies.responses import first_filters as first_filters, layer_responses as layer_responses
