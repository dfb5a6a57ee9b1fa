"""Make the virtual environment, or say in plain words why this Python cannot.

    python3 tools/venv.py .venv

It runs on whatever ``python3`` is here, so it is written for old ones too.
"""

import subprocess
import sys

NEEDED = (3, 11)


def main() -> int:
    """Make the environment at the path given. Returns the exit status."""
    if sys.version_info < NEEDED:
        print(
            "Aurora needs Python {}.{} or newer; {} is {}.{}.\n"
            "Name another with: make PYTHON=python3.12 ...".format(
                *NEEDED, sys.executable, *sys.version_info[:2]
            ),
            file=sys.stderr,
        )
        return 1
    try:
        import ensurepip  # noqa: F401, PLC0415 - Debian ships python3 without it
        import venv  # noqa: F401, PLC0415
    except ImportError:
        print(
            "This python3 cannot make a virtual environment.\n"
            "On Debian and Ubuntu: apt-get install python3-venv",
            file=sys.stderr,
        )
        return 1
    return subprocess.call([sys.executable, "-m", "venv", sys.argv[1]])


if __name__ == "__main__":
    sys.exit(main())
