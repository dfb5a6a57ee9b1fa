"""AWS signature version 4, for the few S3 requests that obstore does not make.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html is normative.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote

_UNRESERVED = "-_.~"


@dataclass(frozen=True, slots=True)
class S3Key:
    """Who signs, and for which region."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str
    session_token: str = field(default="", repr=False)


def canonical_query(query: Mapping[str, str]) -> str:
    """The query as it is signed, and as it must be sent."""
    pairs = sorted((_encoded(name), _encoded(value)) for name, value in query.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def canonical_path(path: str) -> str:
    """The path as it is signed, and as it must be sent; S3 encodes it once."""
    return quote(path or "/", safe=f"/{_UNRESERVED}")


def signed_headers(
    key: S3Key,
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    payload_sha256: str,
    at: datetime,
) -> dict[str, str]:
    """*headers* (``host`` among them, names in lower case) with all that the signature adds.

    Every header is signed: AWS refuses an ``x-amz-`` header that is not. *at* is in UTC.
    """
    stamp = f"{at:%Y%m%dT%H%M%SZ}"
    told = {**headers, "x-amz-content-sha256": payload_sha256, "x-amz-date": stamp}
    if key.session_token:
        told["x-amz-security-token"] = key.session_token
    told = {name: " ".join(value.split()) for name, value in sorted(told.items())}
    names = ";".join(told)
    lines = "".join(f"{name}:{value}\n" for name, value in told.items())
    request = "\n".join(
        (method, canonical_path(path), canonical_query(query), lines, names, payload_sha256)
    )
    scope = f"{stamp[:8]}/{key.region}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    secret = f"AWS4{key.secret_access_key}".encode()
    for step in scope.split("/"):
        secret = hmac.digest(secret, step.encode(), "sha256")
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, digest))
    signature = hmac.digest(secret, text.encode(), "sha256").hex()
    told["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key.access_key_id}/{scope}, SignedHeaders={names}, "
        f"Signature={signature}"
    )
    return told


def _encoded(text: str) -> str:
    return quote(text, safe=_UNRESERVED)
