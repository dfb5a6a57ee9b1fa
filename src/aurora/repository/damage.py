"""How the repository says that an object is damaged or missing: always by its name."""

from aurora.errors import ObjectDamaged, ObjectMissing

_HINT = (
    "Nothing was changed. Run `aurora backup verify` to see which backups need this object, and "
    "`aurora backup heal all` to restore it from the other storage."
)


def damaged(name: str, reason: str) -> ObjectDamaged:
    """The error for the object *name*; *reason* is a few words without a full stop."""
    return ObjectDamaged(
        f"object {name} is damaged: {reason}",
        hint=_HINT,
        context={"name": name, "reason": reason},
    )


def missing(name: str, reason: str = "") -> ObjectMissing:
    """The error for an object that something names and that is not there."""
    return ObjectMissing(
        f"object {name} is missing" + (f": {reason}" if reason else ""),
        hint=_HINT,
        context={"name": name},
    )
