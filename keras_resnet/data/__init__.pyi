from .bad_records import BadRecords as BadRecords, TooManyBadRecordsError as TooManyBadRecordsError
from .config import (
    AUGMENTATIONS as AUGMENTATIONS,
    Augmentation as Augmentation,
    DataConfig as DataConfig,
)
from .pipeline import (
    evaluation_batches as evaluation_batches,
    steps_per_epoch as steps_per_epoch,
    training_batches as training_batches,
)
from .sources import (
    LabeledImages as LabeledImages,
    Source as Source,
    load_data as load_data,
    load_digits as load_digits,
    load_part as load_part,
)
