"""truncate: the model, stopped at a layer."""

from truncate._api import truncate
from truncate._errors import (
    CannotFollowError,
    ContentWarning,
    ExtractError,
    FixedArgumentError,
    NotReachedError,
    TruncateError,
    UnknownTargetError,
    WrongResultError,
)
from truncate._freeze import freeze, unfreeze
from truncate._heads import with_head
from truncate._extract import Features, extract
from truncate._layers import Layers, Place, layers

__all__ = [
    "CannotFollowError",
    "ContentWarning",
    "ExtractError",
    "Features",
    "FixedArgumentError",
    "Layers",
    "NotReachedError",
    "Place",
    "TruncateError",
    "UnknownTargetError",
    "WrongResultError",
    "freeze",
    "extract",
    "layers",
    "truncate",
    "unfreeze",
    "with_head",
]
