"""Tiny hostile models, each named for the one thing that it does.

``GALLERY`` lists them by name, each with a recipe for its inputs. Every place has to be cut exactly. Only those that
are listed in `refuses` may be refused instead, in clear words: what their forward does cannot be seen on proxies.
"""

from __future__ import annotations

from oracle import DEVICE

from gallery import (  # noqa: F401  # each lists its models
    containers,
    forwards,
    gradients,
    hooks,
    in_place,
    modes,
    repeats,
    state,
    structures,
    values,
)
from gallery.specimen import GALLERY, Specimen


def _runs(spec: Specimen) -> bool:
    """Whether a model runs where the tests do: some make tensors on the CPU, whatever they are given."""
    args, kwargs = spec.inputs()
    try:
        spec.make()(*args, **kwargs)
    except RuntimeError:
        return False
    return True


if DEVICE != "cpu":
    for name in [name for name, spec in GALLERY.items() if not _runs(spec)]:
        del GALLERY[name]
        print(f"{name} does not run on {DEVICE}")
