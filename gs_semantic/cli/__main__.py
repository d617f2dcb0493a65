"""``python -m gs_semantic.cli``."""

import sys

from gs_semantic.cli import main

if __name__ == "__main__":
    sys.exit(main())
