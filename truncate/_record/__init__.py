"""The graphs of all forwards of a model, followed on proxies or recorded on an example.

A model, its `TargetPaths` and perhaps an example go in. `Traces` gives the graphs of any forward that is asked for,
and what is known of the values that modules pass to each other. A forward that cannot be followed is recorded on real
tensors, in one pass of a sandbox copy; what that fixes becomes an `Assumption`, with a guard in the graph.
"""

from truncate._record.traces import Traces

__all__ = [
    "Traces",
]
