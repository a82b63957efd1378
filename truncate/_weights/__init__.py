"""Loading from a checkpoint what a module holds, and no more.

In: a module, usually a part that was cut from a model, and the path of a checkpoint of the whole model.
Out: the module with its tensors loaded, and a `LoadReport`.
"""

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
