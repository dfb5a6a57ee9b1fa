"""Threads that do one job side by side and fail as one."""

import threading
from collections.abc import Callable

from aurora.errors import Cancelled


def run_threads(run: Callable[[], None], count: int, *, name: str, cancel: threading.Event) -> None:
    """Call *run* in *count* threads and wait for all of them.

    The first that fails sets *cancel*, which the others must heed; so does Ctrl-C, and no
    thread outlives this call.

    Raises:
        BaseException: what a thread raised; Cancelled only if none raised anything else.
    """
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failures.append(error)
            cancel.set()

    threads = [
        threading.Thread(target=guarded, name=f"{name}-{number}", daemon=True)
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        cancel.set()
        for thread in threads:
            thread.join()
        raise
    if failures:
        raise next((f for f in failures if not isinstance(f, Cancelled)), failures[0])
