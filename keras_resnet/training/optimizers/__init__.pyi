from .optimizers import (
    LARS as LARS,
    SGD as SGD,
    Adam as Adam,
    AdamW as AdamW,
    Lamb as Lamb,
    RMSprop as RMSprop,
    make_optimizer as make_optimizer,
)
