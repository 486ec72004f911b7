"""What is answered to which path. No sockets here."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from picosnitch_exporter.model import Snapshot
from picosnitch_exporter.outputs.negotiation import accepts_gzip, choose_format
from picosnitch_exporter.outputs.prometheus import Exposition, compress
from picosnitch_exporter.outputs.request import Request
from picosnitch_exporter.state.health import Health

PLAIN = "text/plain; charset=utf-8"
_LANDING_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer; a body that is not bytes is streamed."""

    status: HTTPStatus
    handler: str
    """Which part of the site answered, as a label."""
    body: bytes | Iterator[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)

    def head(self, request: Request | None, extra: Mapping[str, str]) -> bytes:
        """Status line and headers, of which the `extra` ones win."""
        headers = {
            "Date": _http_date(time.time()),
            "Connection": "close",
            "Content-Type": PLAIN,
            "X-Content-Type-Options": "nosniff",
            **self.headers,
        }
        if isinstance(self.body, bytes):
            headers["Content-Length"] = str(len(self.body))
        elif self.is_chunked(request):
            headers["Transfer-Encoding"] = "chunked"
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}"]
        lines += [f"{name}: {value}" for name, value in {**headers, **extra}.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def chunks(self) -> Iterator[bytes]:
        """Yield the body."""
        if isinstance(self.body, bytes):
            yield self.body
        else:
            yield from self.body

    def is_chunked(self, request: Request | None) -> bool:
        """Whether the body goes in chunks, whose end tells a whole answer from a cut one."""
        streamed = not isinstance(self.body, bytes)
        return streamed and request is not None and request.minor_version > 0


def refusal(
    status: HTTPStatus, message: str, *, headers: Mapping[str, str] | None = None
) -> Response:
    """An error as plain text."""
    return Response(
        status=status,
        handler="other",
        body=f"{status.value} {status.phrase}: {message}\n".encode(),
        headers=headers or {},
    )


class Site:
    """The paths of the exporter."""

    def __init__(  # noqa: PLR0913  (what there is to show)
        self,
        *,
        snapshot: Callable[[], Snapshot],
        health: Health,
        readiness: Callable[[], str | None],
        telemetry_path: str,
        version: str,
        with_workload_labels: bool,
    ) -> None:
        self._snapshot = snapshot
        self._health = health
        self._readiness = readiness
        self._telemetry_path = telemetry_path
        self._version = version
        self._exposition = Exposition(with_workload_labels=with_workload_labels)

    def respond(self, request: Request) -> Response:
        """Answer a request whose sender may ask."""
        if request.method not in {"GET", "HEAD"}:
            return refusal(
                HTTPStatus.METHOD_NOT_ALLOWED, "use GET or HEAD", headers={"Allow": "GET, HEAD"}
            )
        if request.path == self._telemetry_path:
            return self._telemetry(request)
        match request.path:
            case "/":
                return self._landing()
            case "/-/healthy":
                return Response(status=HTTPStatus.OK, handler="healthy", body=b"healthy\n")
            case "/-/ready":
                return self._ready()
            case _:
                return refusal(HTTPStatus.NOT_FOUND, f"the metrics are at {self._telemetry_path}")

    def _telemetry(self, request: Request) -> Response:
        chosen = choose_format(request.headers.get("accept", ""))
        headers = {"Content-Type": chosen.content_type, "Vary": "Accept, Accept-Encoding"}
        body = self._exposition.render(
            self._snapshot(), self._health, openmetrics=chosen.openmetrics
        )
        if accepts_gzip(request.headers.get("accept-encoding", "")):
            headers["Content-Encoding"] = "gzip"
            body = compress(body)
        return Response(status=HTTPStatus.OK, handler="telemetry", body=body, headers=headers)

    def _ready(self) -> Response:
        reason = self._readiness()
        if reason is None:
            return Response(status=HTTPStatus.OK, handler="ready", body=b"ready\n")
        return Response(
            status=HTTPStatus.SERVICE_UNAVAILABLE,
            handler="ready",
            body=f"not ready: {reason}\n".encode(errors="backslashreplace"),
        )

    def _landing(self) -> Response:
        # At the first visit: most have none but Prometheus's.
        from picosnitch_exporter.outputs.landing import landing_page

        page = landing_page(
            version=self._version,
            reason_not_ready=self._readiness(),
            snapshot=self._snapshot(),
            telemetry_path=self._telemetry_path,
        )
        return Response(
            status=HTTPStatus.OK,
            handler="landing",
            body=page.encode(errors="backslashreplace"),
            headers={
                "Content-Type": "text/html; charset=utf-8",
                "Content-Security-Policy": _LANDING_POLICY,
            },
        )


def _http_date(seconds: float) -> str:
    # RFC 9110, 5.6.7. time.strftime would follow the locale.
    t = time.gmtime(seconds)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year} "
        f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"
    )
