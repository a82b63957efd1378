"""The public names."""

from truncate._api import split, truncate
from truncate._drawing import Drawing, draw
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
from truncate._layers import Layers, layers
from truncate._places import Place
from truncate._standalone import source
from truncate._weights import LoadReport, load_weights

__all__ = [
    "CannotFollowError",
    "ContentWarning",
    "CrossingError",
    "Drawing",
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
    "draw",
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
