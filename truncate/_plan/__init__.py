"""ROOM _plan."""

from truncate._plan.cutter import Cutter
from truncate._plan.division import Division
from truncate._plan.effects import Effects
from truncate._plan.locate import Pick
from truncate._plan.plan import Form, Plan, Slot, Way, assumptions_of

__all__ = [
    "Cutter",
    "Division",
    "Effects",
    "Form",
    "Pick",
    "Plan",
    "Slot",
    "Way",
    "assumptions_of",
]
