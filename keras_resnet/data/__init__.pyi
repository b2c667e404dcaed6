from .bad_records import BadRecords as BadRecords
from .bad_records import TooManyBadRecordsError as TooManyBadRecordsError
from .config import (
    AUGMENTATIONS as AUGMENTATIONS,
)
from .config import (
    Augmentation as Augmentation,
)
from .config import (
    DataConfig as DataConfig,
)
from .pipeline import (
    evaluation_batches as evaluation_batches,
)
from .pipeline import (
    steps_per_epoch as steps_per_epoch,
)
from .pipeline import (
    training_batches as training_batches,
)
from .sources import (
    LabeledImages as LabeledImages,
)
from .sources import (
    Source as Source,
)
from .sources import (
    load_data as load_data,
)
from .sources import (
    load_digits as load_digits,
)
