"""A command as a child of the daemon: ``python -m aurora.cli.child FD SECONDS WORDS…``.

It ends in order when its parent ends, however that ends: the pipe FD, which nobody writes to,
is closed then. One that does not end within SECONDS is killed, so that it cannot stand in the
way of the next daemon for ever.
"""

import os
import signal
import sys
import threading
import time


def _end_with_parent(pipe: int, patience: float) -> None:
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(patience)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    pipe, patience = int(sys.argv[1]), float(sys.argv[2])
    threading.Thread(target=_end_with_parent, args=(pipe, patience), daemon=True).start()
    from aurora.cli import app  # noqa: PLC0415 - the watch comes first

    return app.main(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
