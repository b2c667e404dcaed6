from .decode import (
    UnreadableImageError as UnreadableImageError,
    find_images as find_images,
    read_image as read_image,
)
from .labels import decode_predictions as decode_predictions
from .protocol import (
    EvalProtocol as EvalProtocol,
    EvalTransform as EvalTransform,
    eval_transform as eval_transform,
    preprocess_input as preprocess_input,
)
