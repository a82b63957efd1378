"""ROOM _weights."""

from truncate._weights.checkpoint import PICKLED, SUFFIXES, NotTensorsError, state_dict_in
from truncate._weights.loading import LoadReport, listed, load_weights, problems_of, wrapping

__all__ = [
    "LoadReport",
    "NotTensorsError",
    "PICKLED",
    "SUFFIXES",
    "listed",
    "load_weights",
    "problems_of",
    "state_dict_in",
    "wrapping",
]
