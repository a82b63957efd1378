"""Following a forward on proxies, as torch.fx does, without running the model.

A module and the call of it go in; a list of graphs comes out, one per branch of modes, or `CannotFollowError`. The
module's own class runs, on a proxy module: its parameters, buffers, children and inputs are proxies, which write what
is done to them into the graph. What tracing on proxies shares with recording on real values (`_record`) is here too:
`GraphBuilder`, traced numbers, and the lists, dicts and objects that a forward passes on.
"""

from truncate._follow.branches import follow
from truncate._follow.classes import asks_for_none, compares_bools, compares_values, has_own_call, is_chain
from truncate._follow.failures import explain
from truncate._follow.filled import Given, held_by_several
from truncate._follow.graph_builder import GraphBuilder
from truncate._follow.numbers import Traced, TracedBool, plain, traced
from truncate._follow.objects import (
    NOT_OPENED,
    PLAIN,
    Lent,
    hides,
    is_changeable,
    is_opaque,
    made_plain,
    objects_in,
    plain_inside,
    revive,
    shares_with_copies,
)
from truncate._follow.proxy import Proxy, Unfollowable, active, tracing_with
from truncate._follow.proxy_module import ProxyModules, entry_of, is_proxy_module
from truncate._follow.replaced import INSTEAD_OF, real_of

__all__ = [
    "Given",
    "GraphBuilder",
    "INSTEAD_OF",
    "Lent",
    "NOT_OPENED",
    "PLAIN",
    "Proxy",
    "ProxyModules",
    "Traced",
    "TracedBool",
    "Unfollowable",
    "active",
    "asks_for_none",
    "compares_bools",
    "compares_values",
    "entry_of",
    "explain",
    "follow",
    "has_own_call",
    "held_by_several",
    "hides",
    "is_chain",
    "is_changeable",
    "is_opaque",
    "is_proxy_module",
    "made_plain",
    "objects_in",
    "plain",
    "plain_inside",
    "real_of",
    "revive",
    "shares_with_copies",
    "traced",
    "tracing_with",
]
