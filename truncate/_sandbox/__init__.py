"""ROOM _sandbox."""

from truncate._sandbox.copies import UNCHANGING, fresh, sandbox_copy
from truncate._sandbox.example import (
    Example,
    call_model,
    can_be_watched,
    cloned,
    example_of,
    observe,
    outputs_of,
    outside_inference_mode,
    twins,
    watch,
    without_a_trace,
)
from truncate._sandbox.meta import Meta, is_meta
from truncate._sandbox.randomness import (
    python_draws_watched,
    random_state_kept,
    random_state_watched,
    same_states,
    states_of_torch,
)

__all__ = [
    "Example",
    "Meta",
    "UNCHANGING",
    "call_model",
    "can_be_watched",
    "cloned",
    "example_of",
    "fresh",
    "is_meta",
    "observe",
    "outputs_of",
    "outside_inference_mode",
    "python_draws_watched",
    "random_state_kept",
    "random_state_watched",
    "same_states",
    "sandbox_copy",
    "states_of_torch",
    "twins",
    "watch",
    "without_a_trace",
]
