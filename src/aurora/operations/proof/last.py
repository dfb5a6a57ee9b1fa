"""What was restored or tested last on this machine, and what a killed test left behind.

``aurora.state/proof.json`` names the last whole restore and the last recovery test;
``recovery-test.json`` stands there while a test runs. Losing them costs the default of
``aurora backup validate``, and that a killed test is told of.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LAST, _RUNNING = "proof.json", "recovery-test.json"


@dataclass(frozen=True, slots=True)
class Last:
    """The last thing of one kind: ``restore`` or ``test``."""

    kind: str
    facts: dict[str, Any]


class ProofState:
    """The two files in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def note(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Remember the last *kind*; it is the newest of all from now on. Raises OSError."""
        known = self._load(_LAST)
        known.pop(kind, None)
        self._store(_LAST, {**known, kind: dict(facts)})

    def newest(self) -> Last | None:
        """The last restore or test, whichever was later."""
        known = self._load(_LAST)
        for kind, facts in reversed(known.items()):
            if isinstance(facts, dict):
                return Last(kind, facts)
        return None

    def begin(self, test_id: str, scratch: Path | None) -> None:
        """Say that a test runs, and where its files are. Raises OSError."""
        facts = {
            "test_id": test_id,
            "pid": os.getpid(),
            "started": process_start(os.getpid()),
            "scratch": str(scratch) if scratch else "",
        }
        self._store(_RUNNING, facts)

    def end(self) -> None:
        """The test is over."""
        (self._directory / _RUNNING).unlink(missing_ok=True)

    def killed(self) -> dict[str, Any] | None:
        """The test that was running when its process died, its files removed; None if none was.

        A server of it is not among them: that ends with its process.
        """
        facts = self._load(_RUNNING)
        if not facts:
            return None
        pid = int(facts.get("pid", 0))
        if pid and process_start(pid) == facts.get("started"):
            return None  # it is at work
        scratch = Path(str(facts.get("scratch") or "."))
        if scratch.name.startswith("aurora-pg-") and scratch.is_dir():
            shutil.rmtree(scratch, ignore_errors=True)
        self.end()
        return facts

    def _load(self, name: str) -> dict[str, Any]:
        try:
            known = json.loads((self._directory / name).read_text(encoding="utf-8"))
            return known if isinstance(known, dict) else {}
        except (OSError, ValueError):
            return {}

    def _store(self, name: str, facts: Mapping[str, Any]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        temporary = self._directory / f"{name}.new"
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self._directory / name)


def process_start(pid: int) -> str:
    """When the process began, in the kernel's words; "" where it is gone or nobody can tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "alive"
    return "alive"
