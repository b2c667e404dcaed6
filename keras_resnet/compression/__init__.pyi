from .clustering import cluster as cluster
from .options import CompressionOptions as CompressionOptions
from .pruning import GradualPruning as GradualPruning, prune as prune, sparsity_of as sparsity_of
from .quantization import (
    freeze_bn as freeze_bn,
    freeze_ranges as freeze_ranges,
    quantize_aware as quantize_aware,
)
from .rebuild import strip as strip
from .twin import (
    copy_from_twin as copy_from_twin,
    copy_to_twin as copy_to_twin,
    to_tf_keras as to_tf_keras,
)
