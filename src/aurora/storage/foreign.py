"""What obstore's errors mean, said in Aurora's.

obstore puts the HTTP status and the provider's own error code into its text only, and a
listing's refusals into its catch-all class, so the text is read here and nowhere else.
Request URLs in it may hold a signature: nothing but status, code and message gets out.
"""

import re
from dataclasses import dataclass

from obstore import exceptions

from aurora.errors import (
    AuroraError,
    ObjectMissing,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
    StorageUnfit,
)
from aurora.storage.base import ObjectExists

ERRORS = (exceptions.BaseError, FileNotFoundError, NotImplementedError, ValueError, OSError)

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>|\(code: ([A-Za-z0-9]{1,60})\)")
_MESSAGE = re.compile(r"<Message>([^<\n]{1,200})")
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"}
_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "StorageFull",
         "exceed_storage_size_quota", "AccountStorageLimitExceeded"}  # fmt: skip
_PASSING = {"SlowDown", "RequestTimeout", "InternalError", "ServerBusy", "ServiceUnavailable",
            "OperationTimedOut", "ThrottlingException", "Throttling"}  # fmt: skip
_METADATA = ("//169.254.169.254/", "//metadata.google.internal", "//169.254.170.2/")
_DENIED_HINTS = {
    "RequestTimeTooSkewed": "This machine's clock is wrong; set it, then run again.",
    "SignatureDoesNotMatch": "The secret does not belong to the access key, or the region is "
    "not the storage's.",
    "InvalidAccessKeyId": "The storage does not know the access key.",
    "ExpiredToken": "The session token has expired; get a new one.",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """The parts of a provider's refusal that are safe to show."""

    status: int  # 0: there was no HTTP answer, or obstore does not tell
    code: str
    message: str
    text: str  # the whole foreign text: for looking into, never for showing

    @classmethod
    def of(cls, error: BaseException) -> "Reply":
        """Read *error*'s text."""
        text = str(error)
        status, code, message = _STATUS.search(text), _CODE.search(text), _MESSAGE.search(text)
        number = int(status[1]) if status else 0
        word = (code[1] or code[2]) if code else ""
        if word.isdecimal():  # Azure's bulk delete gives the status as the code
            number, word = number or int(word), ""
        return cls(number, word, message[1].strip() if message else "", text)

    @property
    def no_bucket(self) -> bool:
        """The bucket or container itself is not there."""
        return self.code in _NO_BUCKET or "specified container does not exist" in self.text

    @property
    def said(self) -> str:
        """``HTTP 403 AccessDenied: Access Denied``, as much of it as is known."""
        parts = [f"HTTP {self.status}" if self.status else "", self.code]
        return " ".join(part for part in parts if part)


def translated(error: BaseException, what: str, bucket: str, name: str = "") -> AuroraError:
    """Aurora's error for obstore's *error*, met while doing *what* (``read chunks/ab``)."""
    reply = Reply.of(error)
    context: dict[str, object] = {"bucket": bucket, "status": reply.status, "code": reply.code}
    if name:
        context["name"] = name
    if reply.message:
        context["detail"] = reply.message
    kind, why, hint = _judge(error, reply, bucket)
    if kind is ObjectMissing:
        return ObjectMissing(f"there is no object {name or 'of this name'}", context=context)
    said = f" ({reply.said})" if reply.said else ""
    return kind(f"cannot {what}: {why}{said}", hint=hint, context=context)


def bucket_missing(bucket: str) -> StorageUnfit:
    """The error for a bucket that is not there."""
    return StorageUnfit(
        f"the bucket {bucket} does not exist, or these credentials cannot see it",
        hint="Check the bucket's name, the region and the project of the credentials. Aurora "
        "does not create buckets.",
        context={"bucket": bucket},
    )


Judgement = tuple[type[StorageError] | type[ObjectMissing], str, str]


def _judge(error: BaseException, reply: Reply, bucket: str) -> Judgement:
    if reply.no_bucket:
        missing = bucket_missing(bucket)
        return StorageUnfit, missing.message, missing.hint
    if isinstance(error, FileNotFoundError):
        return ObjectMissing, "", ""
    if isinstance(error, exceptions.AlreadyExistsError | exceptions.PreconditionError):
        return ObjectExists, "there is an object of this name already", ""
    if any(address in reply.text for address in _METADATA):
        return (
            StorageDenied,
            "no credentials were given and this machine has none",
            "Name the credentials in the configuration, or set the provider's usual "
            "environment variables.",
        )
    refused = exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
    if reply.code in _FULL or reply.status in (402, 507):
        return StorageFull, "the storage has no room left", _FULL_HINT
    if reply.code in _PASSING:
        return StorageUnavailable, "the storage answers with an error", _UNAVAILABLE_HINT
    if isinstance(error, refused) or reply.status in (401, 403) or reply.code == "AccessDenied":
        hint = _DENIED_HINTS.get(reply.code, "Check the credentials and what they may do.")
        return StorageDenied, "the storage refuses", hint
    return _judge_rest(error, reply)


def _judge_rest(error: BaseException, reply: Reply) -> Judgement:
    if reply.status == 413 or reply.code == "EntityTooLarge":
        return (
            StorageUnfit,
            "the storage refuses an object of this size",
            "Raise the bucket's limit for the size of a file to 64 MiB.",
        )
    if "incorrectly configured region" in reply.text or reply.code in _REGION:
        return StorageUnfit, "the bucket is in another region", "Set region= in the address."
    if "certificate" in reply.text or "UnknownIssuer" in reply.text:
        return (
            StorageUnfit,
            "the server's certificate is not trusted",
            "Add its authority to the system's trusted ones (or name it in SSL_CERT_FILE).",
        )
    permanent = isinstance(error, exceptions.NotSupportedError | NotImplementedError)
    if permanent or reply.status == 501 or "MissingContentLength" in reply.text:
        return StorageUnfit, "the storage does not support it", "Choose another storage."
    if reply.status in (408, 425, 429) or reply.status >= 500:
        return StorageUnavailable, "the storage answers with an error", _UNAVAILABLE_HINT
    if reply.status >= 300:
        return StorageUnfit, "the storage does not accept the request", _UNFIT_HINT
    if isinstance(error, exceptions.InvalidPathError | ValueError):
        return StorageError, "the storage's client does not accept the name", ""
    return StorageUnavailable, "no whole answer from the storage", _UNAVAILABLE_HINT


_REGION = {
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}
_FULL_HINT = "What was stored before is whole. Raise the quota or remove old backups, run again."
_UNAVAILABLE_HINT = (
    "What was stored before is whole. Check the network and the provider's status, run again."
)
_UNFIT_HINT = "Check endpoint, region and path_style in the address, then run `aurora doctor`."
