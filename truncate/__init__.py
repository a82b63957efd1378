"""truncate: the model, stopped at a layer."""

from truncate._api import split, truncate
from truncate._errors import (
    CannotFollowError,
    ContentWarning,
    CrossingError,
    ExtractError,
    FixedArgumentError,
    NotReachedError,
    TruncateError,
    UnknownTargetError,
    WeightsError,
    WrongResultError,
)
from truncate._extract import Features, extract
from truncate._extractor import Extractor
from truncate._freeze import freeze, unfreeze
from truncate._heads import with_head
from truncate._layers import Layers, Place, layers
from truncate._standalone import source
from truncate._weights import LoadReport, load_weights

__all__ = [
    "CannotFollowError",
    "ContentWarning",
    "CrossingError",
    "ExtractError",
    "Extractor",
    "Features",
    "FixedArgumentError",
    "Layers",
    "LoadReport",
    "NotReachedError",
    "Place",
    "TruncateError",
    "UnknownTargetError",
    "WeightsError",
    "WrongResultError",
    "extract",
    "freeze",
    "layers",
    "load_weights",
    "source",
    "split",
    "truncate",
    "unfreeze",
    "with_head",
]
