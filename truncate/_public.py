"""The public names."""

from truncate._api import split, truncate
from truncate._build import source
from truncate._errors import (
    CannotFollowError,
    ContentWarning,
    CrossingError,
    ExtractError,
    FixedArgumentError,
    NoPythonError,
    NotReachedError,
    TruncateError,
    UnknownTargetError,
    WeightsError,
    WrongResultError,
)
from truncate._extract import Extractor, Features, extract
from truncate._probe import ProbedLayer, Probes, probe
from truncate._show import Drawing, LayerInfo, Layers, draw, layers
from truncate._tune import freeze, unfreeze, with_head
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
    "LayerInfo",
    "Layers",
    "LoadReport",
    "NoPythonError",
    "NotReachedError",
    "ProbedLayer",
    "Probes",
    "TruncateError",
    "UnknownTargetError",
    "WeightsError",
    "WrongResultError",
    "draw",
    "extract",
    "freeze",
    "layers",
    "load_weights",
    "probe",
    "source",
    "split",
    "truncate",
    "unfreeze",
    "with_head",
]
