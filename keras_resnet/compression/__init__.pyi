from .clustering import cluster as cluster
from .pruning import GradualPruning as GradualPruning
from .pruning import prune as prune
from .pruning import sparsity_of as sparsity_of
from .quantization import (
    freeze_bn as freeze_bn,
)
from .quantization import (
    freeze_ranges as freeze_ranges,
)
from .quantization import (
    quantize_aware as quantize_aware,
)
from .rebuild import strip as strip
from .twin import (
    copy_from_twin as copy_from_twin,
)
from .twin import (
    copy_to_twin as copy_to_twin,
)
from .twin import (
    to_tf_keras as to_tf_keras,
)
