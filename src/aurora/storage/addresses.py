"""Addresses of storages: read once, checked whole, and compared for a common fate.

An address names a place and never a secret, so it may be logged and shown.
"""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from aurora.errors import StorageError, UsageError
from aurora.storage.names import check_name

FORMS = (
    "Forms: /directory or file:///directory; s3://bucket/prefix?endpoint=URL&region=NAME"
    "&path_style=1; supabase://project-ref/bucket/prefix; supabase+https://host/bucket/prefix; "
    "gs://bucket/prefix; az://container/prefix?account=NAME&endpoint=URL."
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)\Z", re.DOTALL)  # two letters: C:\ is a path
_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]{1,221}\Z")
_KINDS = {
    "file": "file", "s3": "s3", "gs": "gs", "gcs": "gs", "az": "az", "azure": "az",
    "supabase": "supabase", "supabase+https": "supabase", "supabase+http": "supabase",
}  # fmt: skip
_PROJECT = re.compile(r"[a-z0-9]{16,32}\Z")
_OPTIONS = {
    "s3": ("endpoint", "region", "path_style", "allow_http"),
    "gs": ("endpoint", "region", "allow_http"),
    "az": ("account", "endpoint", "region", "allow_http"),
    "supabase": ("region",),
}
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


@dataclass(frozen=True, slots=True)
class Address:
    """A checked address. ``kind`` is ``file``, ``s3``, ``gs``, ``az`` or ``supabase``."""

    kind: str
    bucket: str = ""  # bucket or container; empty for a directory
    prefix: str = ""  # no slash at either end; for a directory its absolute path
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """The server's URL without a slash at its end; empty means the provider's own."""
        return self.options.get("endpoint", "").rstrip("/")

    @property
    def region(self) -> str:
        """The region as given, or empty."""
        return self.options.get("region", "")

    @property
    def url(self) -> str:
        """The address in its one canonical form."""
        if self.kind == "file":
            return Path(self.prefix).as_uri()
        path = f"/{self.prefix}" if self.prefix else ""
        if self.kind == "supabase":
            found = urlsplit(self.endpoint)
            ref = _hosted(found.netloc)
            start = f"supabase://{ref}" if ref else f"supabase+{found.scheme}://{found.netloc}"
            region = f"?region={self.region}" if self.region else ""
            return f"{start}{found.path}/{self.bucket}{path}{region}"
        query = urlencode(sorted(self.options.items()), safe="/:")
        return f"{self.kind}://{self.bucket}{path}" + (f"?{query}" if query else "")

    def flag(self, name: str, default: bool) -> bool:
        """An option that is yes or no."""
        value = self.options.get(name, "").lower()
        return value in _TRUE if value else default


class Provider(NamedTuple):
    """Whose storage it is and where: what two storages may have in common."""

    provider: str  # aws, supabase, cloudflare, gcs, azure, local, or a host's name
    account: str  # project, account, or host; empty when the address does not tell
    region: str
    bucket: str


def parse_address(url: str, base_directory: str | os.PathLike[str] | None = None) -> Address:
    """Check *url*; a relative path counts from *base_directory* or the working directory.

    Raises:
        UsageError: it is no address of a known form; the hint lists the forms.
    """
    if not url.strip() or "\0" in url:
        raise UsageError("the storage address is empty or holds a null", hint=FORMS)
    found = _SCHEME.match(url)
    if found is None:
        return _directory(url, base_directory)
    kind = _KINDS.get(found[1].lower())
    if kind is None:
        raise UsageError(f"no storage of the kind {found[1]!r} is known", hint=FORMS)
    if kind == "file":
        path = unquote(found[2].removeprefix("//"))
        return _directory(
            path.removeprefix("localhost") if path.startswith("localhost/") else path,
            base_directory,
        )
    return _supabase(url) if kind == "supabase" else _bucket(kind, url)


def provider_of(url: str) -> Provider:
    """Provider, account or project or host, region and bucket of *url*.

    Raises UsageError for an address of no known form.
    """
    address = parse_address(url)
    if address.kind == "file":
        return Provider("local", socket.gethostname(), _device(address.prefix), address.prefix)
    if address.kind == "az" and not address.endpoint:
        return Provider("azure", address.options["account"], address.region, address.bucket)
    if address.kind == "gs" and not address.endpoint:
        return Provider("gcs", "", address.region, address.bucket)
    return _by_host(address)


def common_fate(first: str, second: str) -> list[str]:
    """Why one accident could take both storages: short facts, none when nothing is shared."""
    one, two = provider_of(first), provider_of(second)
    if one.provider != two.provider:
        return []
    if one.provider == "local":
        facts = ["both are directories of this machine"]
        return facts + (["both are on one file system"] if one.region == two.region else [])
    facts = [f"both are at one provider ({one.provider})"]
    if one.account and one.account == two.account:
        facts.append(f"both belong to one account or project ({one.account})")
    if one.region and one.region == two.region:
        facts.append(f"both are in one region ({one.region})")
    if one.bucket == two.bucket and one.account == two.account:
        facts.append(f"both are in one bucket ({one.bucket})")
    return facts


def _directory(path: str, base_directory: str | os.PathLike[str] | None) -> Address:
    if not path.strip():
        raise UsageError("the file address names no directory", hint=FORMS)
    try:
        whole = Path(base_directory or ".") / Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"no home directory is known for {path!r}", hint=FORMS) from None
    return Address("file", prefix=os.path.abspath(whole))  # noqa: PTH100  no link is followed


def _bucket(kind: str, url: str) -> Address:
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise UsageError(f"the {kind} address cannot be read", hint=FORMS) from None
    if "@" in parts.netloc:
        raise UsageError(
            "a storage address must not hold credentials",
            hint="Give them by reference in the configuration, and change the ones shown here: "
            "addresses are logged.",
        )
    if parts.fragment or not _BUCKET.match(parts.netloc):
        raise UsageError(f"the {kind} address names no proper bucket", hint=FORMS)
    prefix = unquote(parts.path).strip("/")
    try:
        if prefix:
            check_name(prefix)
    except StorageError:
        raise UsageError(
            "the prefix in the storage address holds characters that not every storage takes",
            hint="Use letters, digits, dot, underscore, hyphen and single slashes.",
        ) from None
    return Address(kind, parts.netloc, prefix, _options(kind, pairs))


def _supabase(url: str) -> Address:
    """``supabase://<ref>/bucket/prefix``, ``supabase+https://host/bucket/prefix``.

    Its endpoint is the project's URL.
    """
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    bucket, _, tail = path.partition("/")
    if not bucket or bucket.startswith("?"):
        raise UsageError("the supabase address names no bucket", hint=FORMS)
    found = _bucket("supabase", f"supabase://{bucket}/{tail}" if tail else f"supabase://{bucket}")
    if scheme.lower() == "supabase":
        if not _PROJECT.match(host):
            raise UsageError(
                f"not a Supabase project's reference: {host[:80]!r}",
                hint="It is in the project's URL: https://<reference>.supabase.co. For a "
                "self-hosted one write supabase+https://host/bucket/prefix.",
            )
        endpoint = f"https://{host}.supabase.co"
    else:
        endpoint = f"{scheme.lower().partition('+')[2]}://{host}"
    options = {**found.options, "endpoint": endpoint}
    _check_endpoint(options)
    return Address("supabase", found.bucket, found.prefix, options)


def _hosted(host: str) -> str:
    """The reference of a hosted project by its host; "" for others."""
    ref, _, rest = host.partition(".")
    return ref if rest == "supabase.co" and _PROJECT.match(ref) else ""


def _options(kind: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    options = dict(pairs)
    known = _OPTIONS[kind]
    unknown = sorted(set(options) - set(known))
    if unknown or len(options) != len(pairs):
        raise UsageError(
            f"unknown or repeated option in the {kind} address: {', '.join(unknown) or 'twice'}",
            hint=f"Known are {', '.join(known)}.",
        )
    for name in ("path_style", "allow_http"):
        if options.get(name, "1").lower() not in _TRUE | _FALSE:
            raise UsageError(f"the option {name} is yes or no", hint=f"Write {name}=1.")
    if kind == "az" and not options.get("account"):
        raise UsageError("the az address names no account", hint=FORMS)
    if "endpoint" in options:
        _check_endpoint(options)
    return options


def _check_endpoint(options: Mapping[str, str]) -> None:
    try:
        parts = urlsplit(options["endpoint"])
        host = parts.hostname if parts.port != 0 else None  # .port raises on a bad one
    except ValueError:
        raise UsageError("the endpoint is no http or https URL", hint=FORMS) from None
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise UsageError("the endpoint is no http or https URL", hint=FORMS)
    if "@" in parts.netloc:
        raise UsageError("the endpoint must not hold credentials", hint=FORMS)
    allowed = options.get("allow_http", "").lower() in _TRUE
    if parts.scheme == "http" and not allowed and not is_loopback(host):
        raise UsageError(
            f"the endpoint {host} is plain http",
            hint="Anyone on the way could read the names and sizes of objects, and replay "
            "requests. Use https, or add allow_http=1 where the network itself is private.",
        )


def is_loopback(host: str) -> bool:
    """Whether a host's name means this machine."""
    return host in ("localhost", "::1") or bool(re.fullmatch(r"127(\.\d{1,3}){3}", host))


def _by_host(address: Address) -> Provider:
    host = (urlsplit(address.endpoint).hostname or "").lower()
    if not host:
        region = address.region or os.environ.get("AWS_REGION", "us-east-1")
        return Provider("aws", "", region, address.bucket)
    for pattern, provider in _HOSTS:
        if found := re.search(pattern, host):
            groups = found.groupdict()
            region = groups.get("region") or address.region
            return Provider(provider, groups.get("account") or "", region, address.bucket)
    return Provider(host, host, address.region, address.bucket)


_HOSTS = (
    (r"^(?P<account>[a-z0-9]+)\.(?:storage\.)?supabase\.(?:co|in|red)$", "supabase"),
    (r"^(?P<account>[0-9a-f]{32})\.(?:eu\.|fedramp\.)?r2\.cloudflarestorage\.com$", "cloudflare"),
    (r"^s3[.-](?:dualstack\.)?(?P<region>[a-z0-9-]+)\.amazonaws\.com", "aws"),
    (r"\.amazonaws\.com", "aws"),
    (r"^s3\.(?P<region>[a-z0-9-]+)\.backblazeb2\.com$", "backblaze"),
    (r"^s3\.(?P<region>[a-z0-9-]+)\.wasabisys\.com$", "wasabi"),
    (r"(?P<region>[a-z0-9-]+)\.digitaloceanspaces\.com$", "digitalocean"),
    (r"(?P<region>[a-z0-9-]+)\.your-objectstorage\.com$", "hetzner"),
    (r"^s3\.(?P<region>[a-z0-9-]+)\.scw\.cloud$", "scaleway"),
    (r"^(?P<account>[a-z0-9]+)\.(?:blob|dfs)\.core\.windows\.net$", "azure"),
    (r"storage\.googleapis\.com$", "gcs"),
)


def _device(path: str) -> str:
    """The file system that *path* is or will be on."""
    for step in (Path(path), *Path(path).parents):
        try:
            return str(step.stat().st_dev)
        except OSError:
            continue
    return ""
