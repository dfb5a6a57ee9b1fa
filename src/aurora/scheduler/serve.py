"""``/metrics`` for Prometheus and ``/healthz`` for whoever restarts a daemon that hangs."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from aurora import clock
from aurora.errors import UsageError
from aurora.scheduler.metrics import Collector, exposition

if TYPE_CHECKING:
    from aurora.scheduler.setup import Daemon

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Server:
    """Serves on *listen* (``address:port``), or nowhere where that is ``off``."""

    def __init__(self, listen: str, daemon: "Daemon") -> None:
        self._listen = listen
        self._daemon = daemon
        self._collector = Collector(
            daemon.state, daemon.board, daemon.aurora.database, self._stream
        )
        self._http: ThreadingHTTPServer | None = None

    @property
    def told(self) -> str:
        """Where it serves, for the first line of the daemon."""
        if self._http is None:
            return ""
        host, port = self._http.server_address[:2]
        return f"; metrics at http://{host!s}:{port}/metrics"

    def start(self) -> None:
        """Raises UsageError where the address cannot be had."""
        if self._listen == "off":
            return
        host, _, port = self._listen.rpartition(":")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 30

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Requests are nobody's news."""

        try:
            self._http = ThreadingHTTPServer((host.strip("[]"), int(port)), Handler)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {self._listen}: {(error.strerror or 'failed').lower()}",
                hint='Set listen under [metrics] to another address and port, or to "off".',
            ) from error
        self._http.daemon_threads = True
        threading.Thread(
            target=self._http.serve_forever, name="aurora-metrics", daemon=True
        ).start()

    def stop(self) -> None:
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()

    def _stream(self) -> dict[str, Any] | None:
        keeper = self._daemon.keeper
        return None if keeper is None else keeper.state

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        path = request.path.partition("?")[0]
        if path == "/metrics":
            _send(request, 200, _METRICS_TYPE, exposition(self._collector))
        elif path == "/healthz":
            alive, document = self._health()
            body = json.dumps(document).encode() + b"\n"
            _send(request, 200 if alive else 503, "application/json", body)
        else:
            _send(request, 404, "text/plain", b"try /metrics or /healthz\n")

    def _health(self) -> tuple[bool, dict[str, object]]:
        """Whether the *daemon* is well. A backup that fails is no reason to restart it."""
        alive = self._daemon.worker.is_alive
        report = self._daemon.board.report
        return alive, {
            "alive": alive,
            "running": self._daemon.worker.busy,
            "level": None if report is None else str(report.level),
            "verdict": None if report is None else report.verdict,
            "looked_at": None if report is None else clock.isoformat(report.at),
        }


def _send(request: BaseHTTPRequestHandler, code: int, kind: str, body: bytes) -> None:
    request.send_response(code)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
