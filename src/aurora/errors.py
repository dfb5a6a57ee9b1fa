"""Every error that Aurora raises, in one tree, and what each means to a script.

An error says what happened (``message``: lower case, one line, no full stop), and
what is safe and what to do next (``hint``: whole sentences). ``code`` is stable and
meant for programs, ``exit_code`` is what the command line ends with. An error never
holds a secret: foreign errors are re-worded at the door where they enter.

::

    AuroraError                     1   failed
    ├─ UsageError                   2   usage
    ├─ Incomplete                   3   partly done
    ├─ GoalMissed                   4   proven right, but slower than the goal
    ├─ Inconclusive                 5   a test could not tell
    ├─ RepositoryError
    │  ├─ RepositoryNotFound       10
    │  ├─ RepositoryLocked         11
    │  ├─ WrongKey                 12
    │  └─ UnsupportedRepository    13   newer format, another source, or rolled back
    ├─ SourceError                 20
    │  ├─ SourceUnreachable        20
    │  ├─ SourcePrivilege          21
    │  ├─ SourceUnsupported        22
    │  └─ SourceChanged            23
    ├─ StorageError                30
    │  ├─ StorageUnavailable       30
    │  ├─ StorageDenied            31
    │  ├─ StorageFull              32
    │  └─ StorageUnfit             33
    ├─ IntegrityError              40
    │  ├─ ObjectMissing            41
    │  ├─ ObjectDamaged            42
    │  ├─ CheckFailed              43   a restore or a verification found a difference
    │  └─ RecoveryTestFailed       44   a test restored the backup, and it is not what it must be
    ├─ TargetError                 50
    │  ├─ TargetUnreachable        50
    │  ├─ TargetNotEmpty           51
    │  ├─ TargetUnfit              52   privilege, version, room
    │  ├─ TargetRefused            53   a statement failed while restoring
    │  └─ EnvironmentUnfit         54   what a recovery test needs is not here
    └─ Cancelled                  130
"""

from collections.abc import Mapping


class AuroraError(Exception):
    """The root of the tree.

    Attributes:
        message: what happened, one line, lower case, no full stop.
        hint: what is safe and what to do next, in whole sentences; may be empty.
        context: names and numbers that help a program (never a secret).
    """

    code = "failed"
    exit_code = 1
    retryable = False

    def __init__(
        self, message: str, *, hint: str = "", context: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context: dict[str, object] = dict(context or {})


class UsageError(AuroraError):
    """The command, an option or the configuration is wrong; nothing was started."""

    code = "usage"
    exit_code = 2


class Incomplete(AuroraError):
    """The main thing is done and safe, a part of it is not."""

    code = "incomplete"
    exit_code = 3


class GoalMissed(AuroraError):
    """What was tested is right, but took longer than ``[goals]`` allow."""

    code = "goal-missed"
    exit_code = 4


class Inconclusive(AuroraError):
    """A test ended without telling whether the backup is good; run it again."""

    code = "inconclusive"
    exit_code = 5


class RepositoryError(AuroraError):
    """The repository as a whole cannot be used as asked."""

    code = "repository"


class RepositoryNotFound(RepositoryError):
    """There is no repository at this address, or no such backup in it."""

    code = "repository-not-found"
    exit_code = 10


class RepositoryLocked(RepositoryError):
    """Another run holds what this one needs."""

    code = "repository-locked"
    exit_code = 11
    retryable = True


class WrongKey(RepositoryError):
    """No key slot opens with the passphrase, key file or recovery code given."""

    code = "wrong-key"
    exit_code = 12


class UnsupportedRepository(RepositoryError):
    """A newer format, a repository of another source, a swapped or rolled back storage."""

    code = "repository-unsupported"
    exit_code = 13


class SourceError(AuroraError):
    """The source database failed or refused."""

    code = "source"
    exit_code = 20


class SourceUnreachable(SourceError):
    """No connection to the source, or it was lost."""

    code = "source-unreachable"
    retryable = True


class SourcePrivilege(SourceError):
    """The role may not read something that the backup needs."""

    code = "source-privilege"
    exit_code = 21


class SourceUnsupported(SourceError):
    """The server, its version, or the way to it (a pooler, a standby) does not do."""

    code = "source-unsupported"
    exit_code = 22


class SourceChanged(SourceError):
    """The source's schema changed, or is locked, while the backup began; try again."""

    code = "source-changed"
    exit_code = 23
    retryable = True


class StorageError(AuroraError):
    """A storage failed."""

    code = "storage"
    exit_code = 30


class StorageUnavailable(StorageError):
    """The storage does not answer, or answers with errors that may pass."""

    code = "storage-unavailable"
    retryable = True


class StorageDenied(StorageError):
    """The storage refuses the credentials or the operation."""

    code = "storage-denied"
    exit_code = 31


class StorageFull(StorageError):
    """No room left on the storage."""

    code = "storage-full"
    exit_code = 32


class StorageUnfit(StorageError):
    """The storage does not keep a promise that a repository needs."""

    code = "storage-unfit"
    exit_code = 33


class IntegrityError(AuroraError):
    """Stored bytes are not what was written."""

    code = "integrity"
    exit_code = 40


class ObjectMissing(IntegrityError):
    """An object that something names is not there."""

    code = "object-missing"
    exit_code = 41


class ObjectDamaged(IntegrityError):
    """An object is there, but is truncated, altered, moved or swapped."""

    code = "object-damaged"
    exit_code = 42


class CheckFailed(IntegrityError):
    """A check of a restore or of a backup found a difference."""

    code = "check-failed"
    exit_code = 43


class RecoveryTestFailed(IntegrityError):
    """A recovery test found the backup, or what it restores to, wrong."""

    code = "recovery-test-failed"
    exit_code = 44


class TargetError(AuroraError):
    """The database to restore into failed or refused."""

    code = "target"
    exit_code = 50


class TargetUnreachable(TargetError):
    """No connection to the target, or it was lost."""

    code = "target-unreachable"
    retryable = True


class TargetNotEmpty(TargetError):
    """The target holds something that the restore would overwrite."""

    code = "target-not-empty"
    exit_code = 51


class TargetUnfit(TargetError):
    """The target lacks a privilege, a version, an extension or room."""

    code = "target-unfit"
    exit_code = 52


class TargetRefused(TargetError):
    """The target refused a statement of the restore."""

    code = "target-refused"
    exit_code = 53


class EnvironmentUnfit(TargetError):
    """A recovery test lacks something on this machine: an extension, room, a server's version."""

    code = "environment"
    exit_code = 54


class Cancelled(AuroraError):
    """The user, or a signal, stopped the run."""

    code = "cancelled"
    exit_code = 130
