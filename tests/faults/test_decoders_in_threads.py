"""Documents are decoded by many threads at once, also the first time in a process."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading
import {module} as module
sys.setswitchinterval(1e-6)
import msgspec
barrier = threading.Barrier(16)
def first():
    barrier.wait()
    for kind in ({types}):
        try:
            msgspec.json.decode(b'{{}}', type=kind)
        except msgspec.ValidationError:
            pass
threads = [threading.Thread(target=first) for _ in range(16)]
for one in threads: one.start()
for one in threads: one.join()
print('alive')
"""


@pytest.mark.parametrize(
    "module,types",
    [
        ("aurora.repository.refs", "module._Document,"),
        ("aurora.operations.content", "module.Body, module.TableData"),
        ("aurora.operations.objects", "module.ObjectPage,"),
    ],
)
def test_first_decoding_by_many_threads(module: str, types: str) -> None:
    """What msgspec makes of a type at its first use is made before there are threads."""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(module=module, types=types)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr[-2000:]
