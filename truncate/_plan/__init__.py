"""ROOM _plan."""

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
]
