"""Dead man's switches: pings that tell a service that a job began, ended well, or failed.

The form of Healthchecks, which others understand as well: ``ADDRESS/start``, ``ADDRESS`` and
``ADDRESS/fail``, by POST with the last lines as the body; ``rid`` joins begin and end. A ping
that does not get through is tried again and then given up: its absence is the alarm.
"""

import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from urllib.parse import urlencode, urlsplit, urlunsplit

from aurora.errors import AuroraError
from aurora.events import EventSink, Warned

TIMEOUT_SECONDS = 10.0
TRIES = 3
BODY_BYTES = 10_000  # Healthchecks keeps 100 kB; a log's end is enough
_DRAIN_SECONDS = 15.0


class Pings:
    """The switches of the jobs, by name. Sends from a thread of its own, in order."""

    def __init__(self, addresses: Mapping[str, Callable[[], str]], sink: EventSink) -> None:
        """*addresses* resolve references when a ping is sent; they may raise AuroraError."""
        self._addresses = dict(addresses)
        self._sink = sink
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="aurora-ping")
        self._waiting: set[Future[None]] = set()
        self._runs: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._addresses

    def begun(self, name: str) -> None:
        self._runs[name] = str(uuid.uuid4())
        self._send(name, "start", "")

    def succeeded(self, name: str, body: str) -> None:
        self._send(name, "", body)

    def failed(self, name: str, body: str) -> None:
        self._send(name, "fail", body)

    def close(self) -> None:
        """Send what waits, for a while."""
        wait_for(self._waiting, timeout=_DRAIN_SECONDS)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _send(self, name: str, step: str, body: str) -> None:
        if name not in self._addresses:
            return
        future = self._pool.submit(self._post, name, step, body, self._runs.get(name, ""))
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)

    def _post(self, name: str, step: str, body: str, run: str) -> None:
        try:
            ping(self._addresses[name](), step, body, run)
        except AuroraError as error:
            self._sink(Warned("ping-failed", f"ping of {name}: {error.message}", error.hint))


def ping(address: str, step: str, body: str, run: str = "") -> None:
    """One ping. Raises AuroraError, which does not tell the address."""
    import httpx  # noqa: PLC0415 - slow to import
    import tenacity  # noqa: PLC0415

    try:
        tenacity.Retrying(
            stop=tenacity.stop_after_attempt(TRIES),
            wait=tenacity.wait_exponential(0.5, max=5),
            retry=tenacity.retry_if_exception(_may_pass),
            reraise=True,
        )(_post_once, ping_address(address, step, run), body)
    except httpx.HTTPStatusError as error:
        raise AuroraError(
            f"the switch answered {error.response.status_code}",
            hint="Is its address still the right one?",
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AuroraError(f"no answer ({type(error).__name__})") from None


def ping_address(address: str, step: str, run: str = "") -> str:
    """``https://host/ping/x?create=1`` -> ``https://host/ping/x/fail?create=1&rid=…``."""
    parts = urlsplit(address.strip())
    path = parts.path.rstrip("/") + (f"/{step}" if step else "")
    query = "&".join(one for one in (parts.query, urlencode({"rid": run}) if run else "") if one)
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def _post_once(address: str, body: str) -> None:
    import httpx  # noqa: PLC0415 - slow to import

    content = body.encode()[-BODY_BYTES:]
    httpx.post(address, content=content, timeout=TIMEOUT_SECONDS).raise_for_status()


def _may_pass(error: BaseException) -> bool:
    import httpx  # noqa: PLC0415 - slow to import

    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, httpx.TransportError)
