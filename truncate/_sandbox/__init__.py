"""Running a model on an example without changing it.

A model and the arguments of an example go in. What comes out: a sandbox copy, which shares the model's parameters and
owns everything else; and what a pass of that copy shows, such as the outputs of the targets. Parameters, random states
and arguments are afterwards as they were. Meta and fake tensors are allowed: then no kernel runs.
"""

from truncate._sandbox.copies import UNCHANGING, fresh, sandbox_copy
from truncate._sandbox.example import (
    Example,
    call_model,
    can_be_watched,
    cloned,
    example_of,
    isolated,
    observe,
    outputs_of,
    outside_inference_mode,
    twins,
    watch,
)
from truncate._sandbox.meta import Meta, is_meta
from truncate._sandbox.randomness import (
    Draws,
    draws_from_numpy,
    draws_watched,
    python_draws_watched,
    random_state_kept,
    same_states,
    states_of_torch,
)

__all__ = [
    "Draws",
    "Example",
    "Meta",
    "UNCHANGING",
    "call_model",
    "can_be_watched",
    "cloned",
    "draws_from_numpy",
    "draws_watched",
    "example_of",
    "fresh",
    "is_meta",
    "isolated",
    "observe",
    "outputs_of",
    "outside_inference_mode",
    "python_draws_watched",
    "random_state_kept",
    "same_states",
    "sandbox_copy",
    "states_of_torch",
    "twins",
    "watch",
]
