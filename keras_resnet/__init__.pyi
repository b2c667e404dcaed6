from . import (
    analysis as analysis,
    compression as compression,
    data as data,
    evaluation as evaluation,
    export as export,
    images as images,
    models as models,
    training as training,
    weights as weights,
)
from .analysis.complexity import Complexity as Complexity, complexity as complexity
from .images.labels import decode_predictions as decode_predictions
from .images.protocol import preprocess_input as preprocess_input
from .jobs.compress import compress as compress
from .jobs.compression_report import (
    CompressionError as CompressionError,
    CompressionReport as CompressionReport,
)
from .jobs.embed import embed as embed, embed_to_file as embed_to_file
from .jobs.predictor import Predictor as Predictor
from .jobs.projection import Projection as Projection, project_vectors as project_vectors
from .jobs.projection_page import save_projection as save_projection
from .jobs.vector_files import load_vectors as load_vectors
from .models.info import set_class_names as set_class_names
from .models.saving import load_model as load_model
from .networks.builder import build as build

# `make golden` writes this list from the rows of networks/table.py.
from .networks.builders import (
    PlainNet18 as PlainNet18,
    PlainNet20 as PlainNet20,
    PlainNet32 as PlainNet32,
    PlainNet34 as PlainNet34,
    PlainNet44 as PlainNet44,
    PlainNet56 as PlainNet56,
    PlainNet110 as PlainNet110,
    ResNet18 as ResNet18,
    ResNet18D as ResNet18D,
    ResNet18V2 as ResNet18V2,
    ResNet20 as ResNet20,
    ResNet32 as ResNet32,
    ResNet34 as ResNet34,
    ResNet34D as ResNet34D,
    ResNet34V2 as ResNet34V2,
    ResNet44 as ResNet44,
    ResNet50 as ResNet50,
    ResNet50_GN as ResNet50_GN,
    ResNet50C as ResNet50C,
    ResNet50D as ResNet50D,
    ResNet50V2 as ResNet50V2,
    ResNet56 as ResNet56,
    ResNet101 as ResNet101,
    ResNet101D as ResNet101D,
    ResNet101V2 as ResNet101V2,
    ResNet110 as ResNet110,
    ResNet110V2 as ResNet110V2,
    ResNet152 as ResNet152,
    ResNet152D as ResNet152D,
    ResNet152V2 as ResNet152V2,
    ResNet164V2 as ResNet164V2,
    ResNet200 as ResNet200,
    ResNet200D as ResNet200D,
    ResNet200V2 as ResNet200V2,
    ResNet1001V2 as ResNet1001V2,
    ResNet1202 as ResNet1202,
    ResNetBlur50 as ResNetBlur50,
    ResNeXt50_32x4d as ResNeXt50_32x4d,
    ResNeXt101_32x8d as ResNeXt101_32x8d,
    ResNeXt101_64x4d as ResNeXt101_64x4d,
    SEResNet18 as SEResNet18,
    SEResNet34 as SEResNet34,
    SEResNet50 as SEResNet50,
    SEResNet101 as SEResNet101,
    SEResNet152 as SEResNet152,
    WideResNet28_10 as WideResNet28_10,
    WideResNet50_2 as WideResNet50_2,
    WideResNet101_2 as WideResNet101_2,
    cifar_resnet as cifar_resnet,
    create_model as create_model,
)
from .networks.config import ResNetConfig as ResNetConfig
from .networks.features import feature_extractor as feature_extractor
from .networks.from_checkpoint import from_checkpoint as from_checkpoint
from .networks.table import list_models as list_models
from .weights.load import load_weights as load_weights
from .weights.registry import list_weights as list_weights
from .weights.report import LoadReport as LoadReport
from .weights.save import save_torch_state_dict as save_torch_state_dict

__version__: str
