"""``python -m truncate``."""

import sys

from truncate._cli import run

if __name__ == "__main__":
    sys.exit(run())
