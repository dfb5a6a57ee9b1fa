"""The signature of S3 requests, against the examples that AWS publishes."""

import hashlib
from datetime import UTC, datetime

import pytest

from aurora.storage.addresses import parse_address
from aurora.storage.s3_requests import _place
from aurora.storage.signing import S3Key, canonical_path, canonical_query, signed_headers

# https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, "Examples"
_KEY = S3Key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
_AT = datetime(2013, 5, 24, tzinfo=UTC)
_HOST = {"host": "examplebucket.s3.amazonaws.com"}
_NOTHING = hashlib.sha256(b"").hexdigest()


def _signature(headers: dict[str, str]) -> str:
    return headers["authorization"].rpartition("Signature=")[2]


def test_get_with_a_range() -> None:
    """A GET with one more header."""
    told = signed_headers(
        _KEY, "GET", "/test.txt", {}, {**_HOST, "range": "bytes=0-9"}, _NOTHING, _AT
    )
    assert _signature(told) == "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    assert "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date," in told["authorization"]


def test_put_with_a_body() -> None:
    """A PUT whose name needs encoding."""
    headers = {
        **_HOST,
        "date": "Fri, 24 May 2013 00:00:00 GMT",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
    }
    digest = hashlib.sha256(b"Welcome to Amazon S3.").hexdigest()
    told = signed_headers(_KEY, "PUT", "/test$file.text", {}, headers, digest, _AT)
    assert _signature(told) == "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"


def test_subresource_and_query() -> None:
    """A query without a value, and one with two."""
    told = signed_headers(_KEY, "GET", "/", {"lifecycle": ""}, _HOST, _NOTHING, _AT)
    assert _signature(told) == "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    told = signed_headers(_KEY, "GET", "/", {"prefix": "J", "max-keys": "2"}, _HOST, _NOTHING, _AT)
    assert _signature(told) == "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"


def test_what_is_sent_is_what_is_signed() -> None:
    """The session token is signed too; nothing secret is shown."""
    key = S3Key("id", "hidden-secret", "eu-central-1", "hidden-token")
    told = signed_headers(key, "GET", "/", {}, _HOST, _NOTHING, _AT)
    assert told["x-amz-security-token"] == "hidden-token"
    assert "x-amz-security-token" in told["authorization"]
    assert "/eu-central-1/s3/aws4_request" in told["authorization"]
    assert "hidden" not in repr(key)
    assert canonical_query({"a/b": "c d", "a": "~"}) == "a=~&a%2Fb=c%20d"
    assert canonical_path("/a b/c+d") == "/a%20b/c%2Bd"


@pytest.mark.parametrize(
    "url, place",
    [
        ("s3://b-1/x", ("https://b-1.s3.eu-west-3.amazonaws.com", "")),
        ("s3://b-1/x?path_style=1", ("https://s3.eu-west-3.amazonaws.com", "/b-1")),
        ("s3://b-1/x?endpoint=https://h:443/base/", ("https://h", "/base/b-1")),
        ("s3://b-1/x?endpoint=https://h:9000", ("https://h:9000", "/b-1")),
        ("s3://b-1/x?endpoint=https://h&path_style=0", ("https://b-1.h", "")),
        ("s3://b-1/x?endpoint=http://[::1]:9000", ("http://[::1]:9000", "/b-1")),
    ],
)
def test_where_a_bucket_is(url: str, place: tuple[str, str]) -> None:
    """The bucket in the host or in the path, as obstore has it; the usual port is left out."""
    origin, host, root = _place(parse_address(url), "eu-west-3")
    assert (origin, root) == place
    assert origin.endswith(f"://{host}")
