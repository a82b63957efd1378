"""Which layer suits a data set: probing all of them in one pass.

In: a model, batches and, if there are any, labels.
Out: `Probes`, a table of layers with what a linear model finds in each and what each costs. It prints, draws its curve,
and makes the cut of a layer, or that with a fitted head.
"""

from truncate._probe.probing import Probing, probe
from truncate._probe.result import ProbedLayer, Probes
from truncate._probe.scores import trial

__all__ = [
    "ProbedLayer",
    "Probes",
    "Probing",
    "probe",
    "trial",
]
