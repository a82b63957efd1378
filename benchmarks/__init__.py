"""What is measured about truncate: how fast it is, and on how many models it is right.

Run ``python -m benchmarks.speed`` and ``python -m benchmarks.conformance`` from the top of the repository. Each
compares within one run, so that what it prints holds on other machines too, and can write its table into
``docs/benchmarks.md``.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
for folder in ("support", "whole"):  # for the oracle and the models: benchmarks and tests compare with the same hooks
    sys.path.append(str(ROOT / "tests" / folder))
