from .callbacks import DivergedError as DivergedError
from .cluster import Cluster as Cluster
from .cluster import cluster_from as cluster_from
from .interruption import TrainingInterrupted as TrainingInterrupted
from .rate_finder import RateCurve as RateCurve
from .rate_finder import find_rate as find_rate
from .recipe_table import RECIPES as RECIPES
from .recipe_table import find_recipe as find_recipe
from .recipes import Recipe as Recipe
from .recipes import override as override
from .run_state import ResumeError as ResumeError
from .strategies import Setup as Setup
from .strategies import choose as choose
from .trainer import TrainResult as TrainResult
from .trainer import train as train
from .transfer.finetune import (
    FinetuneResult as FinetuneResult,
)
from .transfer.finetune import (
    Stage as Stage,
)
from .transfer.finetune import (
    finetune as finetune,
)
from .transfer.freezing import FreezeReport as FreezeReport
from .transfer.freezing import freeze as freeze
from .transfer.freezing import unfreeze as unfreeze
from .transfer.heads import (
    check_image_size as check_image_size,
)
from .transfer.heads import (
    replace_head as replace_head,
)
from .transfer.heads import (
    swap_stem as swap_stem,
)
