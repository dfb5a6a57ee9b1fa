"""``python -m aurora``: the same as the ``aurora`` command."""

import sys

from aurora.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
