"""ObjectStorage without a server: what obstore's errors mean, and what it does about them."""

from pathlib import Path

import obstore
import pytest
from obstore import exceptions
from obstore.store import LocalStore

from aurora.errors import (
    AuroraError,
    ObjectMissing,
    StorageDenied,
    StorageFull,
    StorageUnavailable,
    StorageUnfit,
)
from aurora.storage.addresses import parse_address
from aurora.storage.base import ObjectExists
from aurora.storage.foreign import translated
from aurora.storage.objects import ObjectStorage

HTTP = (
    "Generic S3 error: Error performing PUT https://h/b/k?sig=very-secret in 1ms - Server "
    "returned non-2xx status code: {}: <Error><Code>{}</Code><Message>Some words</Message>"
    "</Error>\n\nDebug source:\nGeneric {{ uri: https://h/b/k?sig=very-secret }}"
)


def storage_on(directory: Path) -> ObjectStorage:
    """An ObjectStorage whose store deletes one by one and stops at an absent name, like GCS."""
    storage = ObjectStorage(
        parse_address("s3://bucket"), {"access_key_id": "a", "secret_access_key": "b"}
    )
    storage._reader = storage._writer = LocalStore(str(directory))
    return storage


def test_delete_goes_on_behind_an_absent_name(tmp_path: Path) -> None:
    """A store that gives up at the first absent name still loses all the others."""
    storage = storage_on(tmp_path)
    names = [f"gc/{i:03}" for i in range(300)]
    for name in names[5:]:
        storage.put(name, b"1")
    storage.delete(names)
    assert list(storage.list("")) == []


def test_condition_that_is_not_implemented_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answers 501 to a conditional put gets plain ones from then on."""
    storage = storage_on(tmp_path)
    modes: list[object] = []
    real = obstore.put

    def put(*args: object, mode: object = None, **named: object) -> object:
        modes.append(mode)
        if mode == "create":
            raise exceptions.GenericError(HTTP.format("501 Not Implemented", "NotImplemented"))
        return real(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(obstore, "put", put)
    storage.put("a", b"1", create_only=True)
    storage.put("b", b"1", create_only=True)
    assert modes == ["create", None, None]
    assert storage.get("a") == b"1"


def test_strangers_are_not_listed(tmp_path: Path) -> None:
    """Objects whose names Aurora could not ask for are passed over."""
    storage = storage_on(tmp_path)
    storage.put("a", b"1")
    (tmp_path / "with space").write_bytes(b"1")
    (tmp_path / "ünder").write_bytes(b"1")
    assert [info.name for info in storage.list("")] == ["a"]


@pytest.mark.parametrize(
    "status, code, kind, retryable",
    [
        ("429 Too Many Requests", "SlowDown", StorageUnavailable, True),
        ("500 Internal Server Error", "InternalError", StorageUnavailable, True),
        ("502 Bad Gateway", "", StorageUnavailable, True),
        ("503 Service Unavailable", "ServiceUnavailable", StorageUnavailable, True),
        ("408 Request Timeout", "RequestTimeout", StorageUnavailable, True),
        ("400 Bad Request", "RequestTimeout", StorageUnavailable, True),
        ("401 Unauthorized", "", StorageDenied, False),
        ("403 Forbidden", "AccessDenied", StorageDenied, False),
        ("403 Forbidden", "RequestTimeTooSkewed", StorageDenied, False),
        ("402 Payment Required", "", StorageFull, False),
        ("507 Insufficient Storage", "", StorageFull, False),
        ("403 Forbidden", "QuotaExceeded", StorageFull, False),
        ("413 Payload Too Large", "EntityTooLarge", StorageUnfit, False),
        ("400 Bad Request", "AuthorizationHeaderMalformed", StorageUnfit, False),
        ("400 Bad Request", "InvalidRequest", StorageUnfit, False),
        ("404 Not Found", "NoSuchBucket", StorageUnfit, False),
        ("405 Method Not Allowed", "MethodNotAllowed", StorageUnfit, False),
        ("501 Not Implemented", "NotImplemented", StorageUnfit, False),
    ],
)
def test_answers(status: str, code: str, kind: type[AuroraError], retryable: bool) -> None:
    """Each answer has one meaning, names its status and code, and shows no signed URL."""
    error = exceptions.GenericError(HTTP.format(status, code))
    found = translated(error, "write chunks/ab", "bucket", "chunks/ab")
    assert type(found) is kind
    assert found.retryable is retryable
    assert found.hint
    assert status[:3] in found.message
    assert "very-secret" not in f"{found.message}{found.hint}{found.context}"
    assert "\n" not in found.message


@pytest.mark.parametrize(
    "error, kind",
    [
        (FileNotFoundError("not found: NoSuchKey"), ObjectMissing),
        (FileNotFoundError("<Code>NoSuchBucket</Code>"), StorageUnfit),
        (exceptions.AlreadyExistsError("412"), ObjectExists),
        (exceptions.PreconditionError("412"), ObjectExists),
        (exceptions.PermissionDeniedError("403"), StorageDenied),
        (exceptions.UnauthenticatedError("401"), StorageDenied),
        (exceptions.NotSupportedError("no"), StorageUnfit),
        (exceptions.GenericError("HTTP error: error sending request"), StorageUnavailable),
        (exceptions.GenericError("invalid peer certificate: UnknownIssuer"), StorageUnfit),
        (exceptions.GenericError("Received redirect without LOCATION, this normally "
                                 "indicates an incorrectly configured region"), StorageUnfit),
        (exceptions.GenericError("performing PUT http://169.254.169.254/latest"), StorageDenied),
        (exceptions.GenericError("Content-Length: MissingContentLength"), StorageUnfit),
        (exceptions.GenericError("failed for key a: Access Denied. (code: AccessDenied)"),
         StorageDenied),
        (exceptions.JoinError("panic"), StorageUnavailable),
    ],
)  # fmt: skip
def test_errors_without_an_answer(error: Exception, kind: type[AuroraError]) -> None:
    """What obstore says by class or by words only is told apart as well."""
    assert type(translated(error, "read a", "bucket", "a")) is kind


def test_wrong_clock_is_named() -> None:
    """A refusal for a clock that is off says so: nobody finds that by checking keys."""
    error = exceptions.PermissionDeniedError(HTTP.format("403 Forbidden", "RequestTimeTooSkewed"))
    assert "clock" in translated(error, "write a", "bucket").hint
