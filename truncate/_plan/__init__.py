"""Planning a cut: which operations of each forward are needed, and what crosses where a model is divided.

In: a model, its targets (`targets_of` reads every spelling of them), and the graphs of its forwards (`Traces`).
Out: a `Plan` for each piece, with a `Branch` for each graph. Nothing is built here; `_build` makes modules of plans.
"""

from truncate._plan.asked import before, one_layer, targets_of
from truncate._plan.cutter import Cutter
from truncate._plan.division import Division
from truncate._plan.effects import Effects
from truncate._plan.locate import Capture
from truncate._plan.plan import Branch, Form, LivePlan, Plan, Slot, assumptions_of

__all__ = [
    "Branch",
    "Capture",
    "Cutter",
    "Division",
    "Effects",
    "Form",
    "LivePlan",
    "Plan",
    "Slot",
    "assumptions_of",
    "before",
    "one_layer",
    "targets_of",
]
