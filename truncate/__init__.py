"""truncate: the model, stopped at a layer."""

from truncate._api import truncate
from truncate._errors import (
    CannotFollowError,
    ContentWarning,
    FixedArgumentError,
    NotReachedError,
    TruncateError,
    UnknownTargetError,
    WrongResultError,
)
from truncate._freeze import freeze, unfreeze
from truncate._heads import with_head
from truncate._layers import Layers, Place, layers

__all__ = [
    "CannotFollowError",
    "ContentWarning",
    "FixedArgumentError",
    "Layers",
    "NotReachedError",
    "Place",
    "TruncateError",
    "UnknownTargetError",
    "WrongResultError",
    "freeze",
    "layers",
    "truncate",
    "unfreeze",
    "with_head",
]
