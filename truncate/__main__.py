"""``python -m truncate``."""

import sys

from truncate._cli import main

if __name__ == "__main__":
    sys.exit(main())
