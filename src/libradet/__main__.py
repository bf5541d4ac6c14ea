"""``python -m libradet``."""

import sys

from libradet.cli import main

if __name__ == "__main__":
    sys.exit(main())
