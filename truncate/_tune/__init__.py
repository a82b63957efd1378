"""Fine-tuning: freezing a part of a model, and putting a fresh head on a backbone.

In: a model, and the last layer to freeze (`freeze`), or a backbone and an example (`with_head`).
Out: the same model, frozen in place, or a new module of backbone and head.
"""

from truncate._tune.freezing import freeze, unfreeze
from truncate._tune.heads import WithHead, with_head

__all__ = [
    "WithHead",
    "freeze",
    "unfreeze",
    "with_head",
]
