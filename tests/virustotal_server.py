"""A local server that answers as VirusTotal's public API v3 documentation says.

Sources: docs.virustotal.com/reference: file-info, files-scan, files-upload-url, analysis, errors.
"""

import email.parser
import email.policy
import hashlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

KEY = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
STATS = {
    "malicious": 0,
    "suspicious": 0,
    "harmless": 0,
    "undetected": 60,
    "timeout": 1,
    "confirmed-timeout": 0,
    "failure": 0,
    "type-unsupported": 14,
}


@dataclass
class Request:
    time: float
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)


class VirusTotalServer:
    """What VirusTotal knows, and what it does wrong on purpose."""

    def __init__(self) -> None:
        self.reports: dict[str, dict[str, int]] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.looks_until_completed = 1
        self.verdict_of_uploads = STATS | {"malicious": 3}
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []
        """Given instead of the proper ones, first come first served."""
        self.upload_host = ""
        self.hangs = threading.Event()
        self.url = ""
        self.is_proxy = False
        self.changed = threading.Condition()

    def add(self, sha256: str, **stats: int) -> None:
        self.reports[sha256] = STATS | stats

    def wait_for_requests(self, number: int) -> list[Request]:
        with self.changed:
            done = self.changed.wait_for(lambda: len(self.requests) >= number, 10)
        assert done, f"{number} requests, got {self.requests}"
        return self.requests


def error(code: str, message: str = "something") -> bytes:
    return json.dumps({"error": {"code": code, "message": message}}).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: ClassVar[VirusTotalServer]

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", "0"))
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            with self.state.changed:
                self.state.uploads["incomplete"] = body
                self.state.changed.notify_all()
            return
        self._serve(body)

    def do_CONNECT(self) -> None:
        self.state.requests.append(
            Request(time.monotonic(), "CONNECT", self.path, dict(self.headers), b"")
        )
        self._send(403, b"")

    def _serve(self, body: bytes) -> None:
        state = self.state
        path = self.path.partition("://")[2].partition("/")[2] if "://" in self.path else self.path
        request = Request(time.monotonic(), self.command, self.path, dict(self.headers), body)
        if state.hangs.is_set():
            state.requests.append(request)
            with state.changed:
                state.changed.notify_all()
            threading.Event().wait(30)
        status, content, headers = self._answer("/" + path.lstrip("/"), body)
        # Before it is answered: each request has a thread of its own here.
        with state.changed:
            state.requests.append(request)
            state.changed.notify_all()
        self._send(status, content, headers)

    def _answer(self, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        state = self.state
        if state.answers:
            return state.answers.pop(0)
        key = self.headers.get("x-apikey")
        if key != KEY:
            code = "WrongCredentialsError" if key else "AuthenticationRequiredError"
            return 401, error(code), {}
        return self._answer_with_key(path, body)

    def _answer_with_key(self, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        state = self.state
        parts = path.strip("/").split("/")
        match (self.command, parts):
            case ("GET", ["api", "v3", "files", "upload_url"]):
                host = state.upload_host or state.url.removesuffix("/api/v3")
                return 200, json.dumps({"data": f"{host}/_ah/upload/1/"}).encode(), {}
            case ("GET", ["api", "v3", "files", sha256]):
                return self._report(sha256)
            case ("POST", ["api", "v3", "files"] | ["_ah", "upload", "1"]):
                return self._take_upload(body)
            case ("GET", ["api", "v3", "analyses", number]):
                return self._analysis(number)
        return 404, error("NotFoundError", "Resource not found."), {}

    def _report(self, sha256: str) -> tuple[int, bytes, dict[str, str]]:
        stats = self.state.reports.get(sha256)
        if stats is None:
            return 404, error("NotFoundError", f'File "{sha256}" not found'), {}
        attributes = {"sha256": sha256, "last_analysis_date": 1, "last_analysis_stats": stats}
        data = {"id": sha256, "type": "file", "links": {}, "attributes": attributes}
        return 200, json.dumps({"data": data}).encode(), {}

    def _take_upload(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        for part in form.iter_parts():
            content = part.get_payload(decode=True)
            named = part.get_param("name", header="content-disposition")
            if named == "file" and isinstance(content, bytes):
                sha256 = hashlib.sha256(content).hexdigest()
                self.state.uploads[sha256] = content
                number = f"{sha256[:8]}=="
                data = {"type": "analysis", "id": number}
                return 200, json.dumps({"data": data}).encode(), {}
        return 400, error("BadRequestError"), {}

    def _analysis(self, number: str) -> tuple[int, bytes, dict[str, str]]:
        state = self.state
        state.looks_until_completed -= 1
        attributes: dict[str, object] = {"date": 1, "status": "queued", "stats": dict(STATS)}
        if state.looks_until_completed < 0:
            attributes = {"date": 1, "status": "completed", "stats": state.verdict_of_uploads}
        data = {"id": number, "type": "analysis", "attributes": attributes}
        return 200, json.dumps({"data": data}).encode(), {}

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        if "Content-Length" in (headers or {}):
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_arguments: object) -> None:
        """Clients that hang up are a part of the tests."""


@contextmanager
def serve(context: ssl.SSLContext | None = None) -> Iterator[VirusTotalServer]:
    state = VirusTotalServer()
    handler = type("Handler", (_Handler,), {"state": state})
    with _Server(("127.0.0.1", 0), handler) as server:
        scheme = "http"
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            scheme = "https"
        state.url = f"{scheme}://127.0.0.1:{server.server_address[1]}/api/v3"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
