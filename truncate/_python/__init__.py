"""What can be read from Python itself: bytecode, stack frames, and the torch contexts that are open.

A frame, a code object or a function goes in. What comes out: what that code is about to do with a value (branch on it,
unpack it, compare it with None), whose code it is, and which functions it can reach. Nothing here knows of graphs.
"""

from truncate._python.bytecode import (
    asks_of_values,
    asks_unheard,
    assigned_names,
    attributes_stored,
    compared_device_type,
    compares_two,
    compares_with_bool,
    demanded,
    has_one_outcome,
    identity_tests,
    is_only_asked,
    names_in,
    names_tested_for_none,
    only_shows_text,
    unpacked_items,
)
from truncate._python.contexts import Contexts
from truncate._python.frames import (
    OWN,
    TORCH,
    callers_frame,
    is_aside,
    is_importing,
    is_library,
    source_line,
    users_frame,
)
from truncate._python.reach import closed_over, defaults_of, globals_of, is_theirs, reached
from truncate._python.remembered import can_be_imported, while_there, while_used
from truncate._python.slots import has_bytes, is_filled, is_set, slots_of
from truncate._python.writes import asks_for_mode, changes_given, may_call_again, may_fill, may_write

__all__ = [
    "Contexts",
    "OWN",
    "TORCH",
    "asks_for_mode",
    "asks_of_values",
    "asks_unheard",
    "assigned_names",
    "attributes_stored",
    "callers_frame",
    "can_be_imported",
    "changes_given",
    "closed_over",
    "compared_device_type",
    "compares_two",
    "compares_with_bool",
    "defaults_of",
    "demanded",
    "globals_of",
    "has_bytes",
    "has_one_outcome",
    "identity_tests",
    "is_aside",
    "is_filled",
    "is_importing",
    "is_library",
    "is_only_asked",
    "is_set",
    "is_theirs",
    "may_call_again",
    "may_fill",
    "may_write",
    "names_in",
    "names_tested_for_none",
    "only_shows_text",
    "reached",
    "slots_of",
    "source_line",
    "unpacked_items",
    "users_frame",
    "while_there",
    "while_used",
]
