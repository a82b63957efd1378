"""truncate: the model, stopped at a layer."""

from truncate._api import truncate
from truncate._errors import (
    CannotFollowError,
    FixedArgumentError,
    NotReachedError,
    TruncateError,
    UnknownTargetError,
)

__all__ = [
    "CannotFollowError",
    "FixedArgumentError",
    "NotReachedError",
    "TruncateError",
    "UnknownTargetError",
    "truncate",
]
