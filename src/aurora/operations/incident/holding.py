"""An open incident keeps retention from removing anything: what is there may be what is needed."""

from aurora.repository.door import Repository
from aurora.repository.holds import ALL, Hold, place_hold, read_holds, release_hold


def hold(repository: Repository, database: str, incident: str) -> str:
    """Hold everything of *database* for an incident; the hold's name.

    Where a run before this has placed it and died, that one. Raises StorageError.
    """
    found = _holds_of(repository, database, incident)
    if found:
        return found[0].name
    return place_hold(repository.storage, repository.signer, database, ALL, why_of(incident))


def release(repository: Repository, database: str, incident: str) -> int:
    """End the holds of an incident, not those of people; how many. Raises StorageError."""
    found = _holds_of(repository, database, incident)
    for one in found:
        release_hold(repository.storage, repository.signer, one, "incident closed")
    return len(found)


def why_of(incident: str) -> str:
    """What a hold of an incident gives as its reason."""
    return f"incident {incident}"


def _holds_of(repository: Repository, database: str, incident: str) -> list[Hold]:
    """Holds on the whole database that say that they are of the incident."""
    return [
        one
        for one in read_holds(repository.storage, repository.signer, database)
        if one.backup == ALL and one.why == why_of(incident)
    ]
