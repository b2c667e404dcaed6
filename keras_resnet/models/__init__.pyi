from .info import (
    ModelInfo as ModelInfo,
    get_info as get_info,
    set_class_names as set_class_names,
    set_info as set_info,
)
