"""Where an incident is published: a static page of our own, Atlassian Statuspage, a webhook.

Each takes an :class:`Update` and may be told the same one again: a run that died between
sending and writing it down publishes nothing twice.
"""

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from aurora.errors import AuroraError
from aurora.storage.base import Storage

if TYPE_CHECKING:
    import httpx

STATUSPAGE = "https://api.statuspage.io/v1"
TRYING = "trying"
"""In what is known of a place: whether a run that died may have told it already."""

_SHOWN = 20  # incidents on the static page
_TIMEOUT = 15.0
_OPEN = {"critical": "major_outage", "major": "partial_outage", "minor": "degraded_performance"}


class NotPublished(AuroraError):
    """A status page or a webhook could not be told; the draft stays in the record."""

    code = "not-published"
    retryable = True

    @property
    def unsure(self) -> bool:
        """Whether it may have been published all the same: the answer alone was lost."""
        return bool(self.context.get("unsure"))


@dataclass(frozen=True, slots=True)
class Update:
    """One thing to be told of an incident."""

    incident: str
    title: str
    severity: str
    status: str  # investigating, identified, monitoring, resolved
    text: str
    at: str  # ISO 8601, UTC
    number: int  # of this update within its incident, from 0


class Publisher(Protocol):
    """A place to publish at."""

    name: str

    def publish(self, update: Update, known: dict[str, Any], *, notify: bool) -> dict[str, Any]:
        """Tell *update*; what to know of it the next time. Raises NotPublished, StorageError."""


class StaticPage:
    """``index.html`` and ``status.json`` on any storage; no script, no request to anybody."""

    name = "static page"

    def __init__(
        self, storage: Storage, title: str, history: Callable[[], Sequence[Sequence[Update]]]
    ) -> None:
        """*history* gives what was published of every incident, oldest first."""
        self._storage, self._title, self._history = storage, title, history

    def publish(self, update: Update, known: dict[str, Any], *, notify: bool) -> dict[str, Any]:  # noqa: ARG002 - a page notifies nobody
        incidents = [list(one) for one in self._history() if one]
        mine = next((one for one in incidents if one[0].incident == update.incident), None)
        if mine is None:
            incidents.append([update])
        elif all(one.number != update.number for one in mine):
            mine.append(update)
        incidents = incidents[-_SHOWN:]
        page = render(self._title, incidents, update.at)
        document = {
            "title": self._title,
            "at": update.at,
            "status": overall(incidents),
            "incidents": [[asdict(one) for one in updates] for updates in reversed(incidents)],
        }
        self._storage.put("index.html", page.encode())
        self._storage.put("status.json", (json.dumps(document, indent=1) + "\n").encode())
        return {"url": self._storage.url}


def overall(incidents: Sequence[Sequence[Update]]) -> str:
    """The worst of what is open, in Statuspage's words."""
    open_now = [one[-1] for one in incidents if one[-1].status != "resolved"]
    for severity in ("critical", "major", "minor"):
        if any(one.severity == severity for one in open_now):
            return _OPEN[severity]
    return "operational"


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;
color:#1c2530;background:#fff}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-bottom:.2rem}
.state{padding:.7rem 1rem;border-radius:.4rem;color:#fff;background:#b3401f}
.operational{background:#2b7a4b}.degraded_performance{background:#8a6d00}
article{border-top:1px solid #d8dde3;padding-top:.6rem;margin-top:1rem}
dt{font-weight:600;margin-top:.6rem}dd{margin:0;white-space:pre-line}small{color:#5b6775}
@media (prefers-color-scheme:dark){body{color:#e6e9ec;background:#14181d}
article{border-color:#333b45}small{color:#9aa5b1}}
"""
_WORDS = {
    "operational": "Everything works",
    "degraded_performance": "Some things do not work as they should",
    "partial_outage": "Parts of the service do not work",
    "major_outage": "The service does not work",
}


def render(title: str, incidents: Sequence[Sequence[Update]], at: str) -> str:
    """The page. All that came from outside is escaped."""
    state = overall(incidents)
    parts = [
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        f"<p class='state {state}'>{_WORDS[state]}</p>",
    ]
    for updates in reversed(incidents):
        first = updates[0]
        parts.append(
            f"<article><h2>{html.escape(first.title)}</h2>"
            f"<small>{html.escape(first.severity)}, since {html.escape(first.at)}</small><dl>"
        )
        parts += [
            f"<dt>{html.escape(one.status)} <small>{html.escape(one.at)}</small></dt>"
            f"<dd>{html.escape(one.text)}</dd>"
            for one in reversed(updates)
        ]
        parts.append("</dl></article>")
    if not incidents:
        parts.append("<p>No incidents.</p>")
    parts.append(f"<p><small>As of {html.escape(at)} (UTC).</small></p></body></html>\n")
    return "\n".join(parts)


class Statuspage:
    """Atlassian Statuspage, version 1 of its API."""

    name = "Statuspage"

    def __init__(
        self,
        page: str,
        key: Callable[[], str],
        *,
        components: Sequence[str] = (),
        base: str = STATUSPAGE,
    ) -> None:
        """*key* gives the API key when it is needed."""
        self._page, self._key = page, key
        self._components, self._base = tuple(components), base.rstrip("/")

    def publish(self, update: Update, known: dict[str, Any], *, notify: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "name": update.title,
            "status": update.status,
            "body": update.text,
            "deliver_notifications": notify,
            "impact_override": update.severity,
            "metadata": {"aurora": {"incident": update.incident, "update": update.number}},
        }
        if self._components:
            state = "operational" if update.status == "resolved" else _OPEN[update.severity]
            body["component_ids"] = list(self._components)
            body["components"] = dict.fromkeys(self._components, state)
        with self._client() as client:
            theirs = known.get("id") or self._find(client, update.incident)
            if theirs is not None and known.get(TRYING) and self._has(client, theirs, update):
                answer = None
            elif theirs is None:
                answer = self._ask(client, "POST", "incidents", {"incident": body})
            else:
                answer = self._ask(client, "PATCH", f"incidents/{theirs}", {"incident": body})
        found = answer if isinstance(answer, dict) else {}
        url = {"url": str(found["shortlink"])} if "shortlink" in found else {}
        return {"id": str(found.get("id", theirs or "")), **url}

    def _find(self, client: "httpx.Client", incident: str) -> str | None:
        """The incident that a run before this one opened and could not write down."""
        for one in self._ask(client, "GET", "incidents/unresolved", None) or []:
            mark = (one.get("metadata") or {}).get("aurora") or {}
            if mark.get("incident") == incident:
                return str(one["id"])
        return None

    def _has(self, client: "httpx.Client", theirs: str, update: Update) -> bool:
        """Whether a run before this has told *update* and could not write it down."""
        found = self._ask(client, "GET", f"incidents/{theirs}", None) or {}
        mark = (found.get("metadata") or {}).get("aurora") or {}
        return mark == {"incident": update.incident, "update": update.number}

    def _client(self) -> "httpx.Client":
        import httpx  # noqa: PLC0415 - slow to import

        return httpx.Client(
            base_url=f"{self._base}/pages/{self._page}/",
            headers={"Authorization": f"OAuth {self._key()}"},
            timeout=_TIMEOUT,
        )

    def _ask(self, client: "httpx.Client", method: str, path: str, body: object) -> Any:
        return _answer(client, method, path, body, "Statuspage")


class Webhook:
    """One POST of JSON to an address that is a secret."""

    name = "webhook"

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url

    def publish(self, update: Update, known: dict[str, Any], *, notify: bool) -> dict[str, Any]:
        import httpx  # noqa: PLC0415 - slow to import

        with httpx.Client(timeout=_TIMEOUT) as client:
            again = bool(known.get(TRYING))
            body = {"event": "incident", "notify": notify, "again": again, **asdict(update)}
            _answer(client, "POST", self._url(), body, "the webhook")
        return {}


def _answer(client: "httpx.Client", method: str, path: str, body: object, who: str) -> Any:
    import httpx  # noqa: PLC0415 - slow to import

    try:
        answer = client.request(method, path, json=body)
    except httpx.HTTPError as error:
        # Its words may hold the address, which is a secret for a webhook.
        raise NotPublished(
            f"{who} does not answer: {type(error).__name__}",
            hint="The draft is in the record; run the command again.",
            context={"unsure": not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)},
        ) from None
    if answer.status_code >= 400:
        raise NotPublished(
            f"{who} refused it: HTTP {answer.status_code}",
            hint={401: "Check the API key.", 404: "Check the page's id."}.get(
                answer.status_code, "The draft is in the record; run the command again."
            ),
        )
    try:
        return answer.json()
    except ValueError:
        return None
