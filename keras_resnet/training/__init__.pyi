from . import optimizers as optimizers, recipes as recipes
from .acceleration import accelerate as accelerate
from .devices.cluster import Cluster as Cluster, cluster_from as cluster_from
from .devices.strategies import DeviceSetup as DeviceSetup, choose_strategy as choose_strategy
from .rate_finder import RateCurve as RateCurve, find_rate as find_rate
from .recipes.recipe import Recipe as Recipe, override as override
from .recipes.table import RECIPES as RECIPES, find_recipe as find_recipe
from .run.callbacks import DivergedError as DivergedError
from .run.interruption import TrainingInterrupted as TrainingInterrupted
from .run.state_file import ResumeError as ResumeError
from .run.trainer import TrainResult as TrainResult, train as train
from .transfer.baselines import Baselines as Baselines, baselines as baselines
from .transfer.choices import Phase as Phase
from .transfer.finetune import FinetuneResult as FinetuneResult, finetune as finetune
from .transfer.freezing import FreezeReport as FreezeReport, freeze as freeze, unfreeze as unfreeze
from .transfer.heads import (
    check_image_size as check_image_size,
    replace_head as replace_head,
    swap_stem as swap_stem,
)
