"""Findings: what a check looked at, how it stands, and what to do about it."""

from collections.abc import Callable, Iterable, Iterator

from aurora.errors import AuroraError
from aurora.storage.probe import Finding, Level

__all__ = ["Finding", "Level", "failed", "good", "guarded", "of_error", "warning"]


def good(code: str, message: str) -> Finding:
    return Finding(code, Level.OK, message)


def warning(code: str, message: str, hint: str, details: Iterable[str] = ()) -> Finding:
    return Finding(code, Level.WARNING, message, hint, tuple(details))


def failed(code: str, message: str, hint: str, details: Iterable[str] = ()) -> Finding:
    return Finding(code, Level.ERROR, message, hint, tuple(details))


def of_error(error: AuroraError, *, about: str = "") -> Finding:
    """An error as a finding; *about* stands before its message."""
    message = f"{about}: {error.message}" if about else error.message
    return Finding(error.code, Level.ERROR, message, error.hint)


def guarded(check: Callable[[], Iterable[Finding]], *, about: str = "") -> Iterator[Finding]:
    """The findings of *check*; an AuroraError that ends it becomes its last finding."""
    try:
        yield from check()
    except AuroraError as error:
        yield of_error(error, about=about)
