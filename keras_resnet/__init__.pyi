from . import analysis as analysis
from . import compression as compression
from . import data as data
from . import export as export
from . import preprocessing as preprocessing
from . import training as training
from . import weights as weights
from .analysis.complexity import Complexity as Complexity
from .analysis.complexity import complexity as complexity
from .builder import build as build
from .checkpoints import from_checkpoint as from_checkpoint
from .config import ResNetConfig as ResNetConfig
from .features import feature_extractor as feature_extractor
from .labels import decode_predictions as decode_predictions
from .model_info import set_class_names as set_class_names
from .predictor import Predictor as Predictor
from .preprocessing import preprocess_input as preprocess_input
from .saving import load_model as load_model
from .table import list_models as list_models
from .variants import (
    PlainNet18 as PlainNet18,
)
from .variants import (
    PlainNet20 as PlainNet20,
)
from .variants import (
    PlainNet32 as PlainNet32,
)
from .variants import (
    PlainNet34 as PlainNet34,
)
from .variants import (
    PlainNet44 as PlainNet44,
)
from .variants import (
    PlainNet56 as PlainNet56,
)
from .variants import (
    PlainNet110 as PlainNet110,
)
from .variants import (
    ResNet18 as ResNet18,
)
from .variants import (
    ResNet18D as ResNet18D,
)
from .variants import (
    ResNet18V2 as ResNet18V2,
)
from .variants import (
    ResNet20 as ResNet20,
)
from .variants import (
    ResNet32 as ResNet32,
)
from .variants import (
    ResNet34 as ResNet34,
)
from .variants import (
    ResNet34D as ResNet34D,
)
from .variants import (
    ResNet34V2 as ResNet34V2,
)
from .variants import (
    ResNet44 as ResNet44,
)
from .variants import (
    ResNet50 as ResNet50,
)
from .variants import (
    ResNet50_GN as ResNet50_GN,
)
from .variants import (
    ResNet50C as ResNet50C,
)
from .variants import (
    ResNet50D as ResNet50D,
)
from .variants import (
    ResNet50V2 as ResNet50V2,
)
from .variants import (
    ResNet56 as ResNet56,
)
from .variants import (
    ResNet101 as ResNet101,
)
from .variants import (
    ResNet101D as ResNet101D,
)
from .variants import (
    ResNet101V2 as ResNet101V2,
)
from .variants import (
    ResNet110 as ResNet110,
)
from .variants import (
    ResNet110V2 as ResNet110V2,
)
from .variants import (
    ResNet152 as ResNet152,
)
from .variants import (
    ResNet152D as ResNet152D,
)
from .variants import (
    ResNet152V2 as ResNet152V2,
)
from .variants import (
    ResNet164V2 as ResNet164V2,
)
from .variants import (
    ResNet200 as ResNet200,
)
from .variants import (
    ResNet200D as ResNet200D,
)
from .variants import (
    ResNet200V2 as ResNet200V2,
)
from .variants import (
    ResNet1001V2 as ResNet1001V2,
)
from .variants import (
    ResNet1202 as ResNet1202,
)
from .variants import (
    ResNetBlur50 as ResNetBlur50,
)
from .variants import (
    ResNeXt50_32x4d as ResNeXt50_32x4d,
)
from .variants import (
    ResNeXt101_32x8d as ResNeXt101_32x8d,
)
from .variants import (
    ResNeXt101_64x4d as ResNeXt101_64x4d,
)
from .variants import (
    SEResNet18 as SEResNet18,
)
from .variants import (
    SEResNet34 as SEResNet34,
)
from .variants import (
    SEResNet50 as SEResNet50,
)
from .variants import (
    SEResNet101 as SEResNet101,
)
from .variants import (
    SEResNet152 as SEResNet152,
)
from .variants import (
    WideResNet28_10 as WideResNet28_10,
)
from .variants import (
    WideResNet50_2 as WideResNet50_2,
)
from .variants import (
    WideResNet101_2 as WideResNet101_2,
)
from .variants import (
    cifar_resnet as cifar_resnet,
)
from .variants import (
    create_model as create_model,
)
from .weights.load import load_weights as load_weights
from .weights.registry import list_weights as list_weights
from .weights.report import LoadReport as LoadReport
from .weights.save import save_torch_state_dict as save_torch_state_dict

__version__: str
