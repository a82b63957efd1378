"""Building modules from plans.

In: a `Plan`, and how its outputs are arranged.
Out: an ordinary module (`build`), whose forward is generated Python source. Also here: comparing it with the model on
the example (`compare`), its whole source as a file of its own (`source`), pooling, and modules that stay in evaluation.
"""

from truncate._build.assemble import Truncated, build, how_rebuilt
from truncate._build.check import compare, same
from truncate._build.data import carry_data
from truncate._build.held import RECORD, hold, release
from truncate._build.pool import pooling
from truncate._build.standalone import source

__all__ = [
    "RECORD",
    "Truncated",
    "build",
    "carry_data",
    "compare",
    "hold",
    "how_rebuilt",
    "pooling",
    "release",
    "same",
    "source",
]
