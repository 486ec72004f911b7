"""A server that answers for pods as the Kubernetes API's documentation says.

https://kubernetes.io/docs/reference/using-api/api-concepts/: lists in pages, watches from a version
on, BOOKMARK events, 410 Gone for versions that are forgotten; tokens that expire.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

Json = dict[str, object]
_WAIT_SECONDS = 10.0


def pod(
    name: str,
    containers: Mapping[str, str],
    *,
    uid: str = "",
    namespace: str = "shop",
    annotations: Mapping[str, str] | None = None,
) -> Json:
    """A pod as the API describes it, with the ids of its containers by name."""
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"uid-{name}",
            "annotations": dict(annotations or {}),
        },
        "spec": {"nodeName": "node-1"},
        "status": {
            "containerStatuses": [
                {"name": container, "containerID": f"containerd://{container_id}"}
                for container, container_id in containers.items()
            ]
        },
    }


@dataclass(frozen=True)
class Request:
    """One that has come."""

    path: str
    query: Mapping[str, str]
    token: str


class ApiServer:
    """Listens on 127.0.0.1; use as a context manager."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.requests: list[Request] = []
        self.token = "first"
        self.page_pods = 100
        self.version = 10
        self.oldest_version = 0
        self.is_broken = False
        """Answers with what no API server says."""
        self.pods: dict[str, Json] = {}
        self.events: list[tuple[int, Json]] = []
        self._epoch = 0
        self._is_closed = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                _Answer(server, self).give()

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self.changed:
            self._is_closed = True
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def apply(self, subject: Json, *, kind: str = "") -> None:
        """Create or change a pod."""
        with self.changed:
            metadata = subject["metadata"]
            assert isinstance(metadata, dict)
            kind = kind or ("MODIFIED" if metadata["uid"] in self.pods else "ADDED")
            self.version += 1
            metadata["resourceVersion"] = str(self.version)
            if kind == "DELETED":
                self.pods.pop(metadata["uid"], None)
            else:
                self.pods[metadata["uid"]] = subject
            self.events.append((self.version, {"type": kind, "object": subject}))
            self.changed.notify_all()

    def bookmark(self) -> None:
        """Say how far it is, as for changes of pods elsewhere."""
        with self.changed:
            self.version += 1
            metadata = {"resourceVersion": str(self.version)}
            event: Json = {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": metadata}}
            self.events.append((self.version, event))
            self.changed.notify_all()

    def forget(self) -> None:
        """Compact: watches from now on have to begin at the latest version."""
        with self.changed:
            self.oldest_version = self.version
            self.events.clear()

    def send(self, event: Json) -> None:
        """An event as it is, to all watches."""
        with self.changed:
            self.events.append((self.version + 1, event))
            self.version += 1
            self.changed.notify_all()

    def disconnect(self) -> None:
        """End all watches without a word."""
        with self.changed:
            self._epoch += 1
            self.changed.notify_all()

    def await_request(self, number: int = 1, **query: str) -> list[Request]:
        """Wait for so many requests that have these parameters."""

        def matching() -> list[Request]:
            return [
                one
                for one in self.requests
                if query.items() <= {**one.query, "token": one.token}.items()
            ]

        with self.changed:
            assert self.changed.wait_for(lambda: len(matching()) >= number, _WAIT_SECONDS), (
                f"no {query}: {self.requests}"
            )
            return matching()


class _Answer:
    def __init__(self, server: ApiServer, handler: BaseHTTPRequestHandler) -> None:
        self._server = server
        self._handler = handler
        self._epoch = 0

    def give(self) -> None:
        server = self._server
        parts = urlsplit(self._handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        token = self._handler.headers.get("Authorization", "").removeprefix("Bearer ")
        with server.changed:
            server.requests.append(Request(path=parts.path, query=query, token=token))
            self._epoch = server._epoch
            server.changed.notify_all()
        if server.is_broken:
            self._whole(200, b'[[["no pods"]]]')
        elif token != server.token:
            self._status(401, "Unauthorized")
        elif parts.path != "/api/v1/pods" or query.get("fieldSelector") != "spec.nodeName=node-1":
            self._status(403, "Forbidden")
        elif query.get("watch") == "1":
            self._watch(int(query["resourceVersion"]))
        else:
            self._list(query)

    def _list(self, query: Mapping[str, str]) -> None:
        server = self._server
        start = int(query.get("continue", "0"))
        end = start + min(server.page_pods, int(query["limit"]))
        with server.changed:
            pods = list(server.pods.values())
            metadata: Json = {"resourceVersion": str(server.version)}
        if end < len(pods):
            metadata["continue"] = str(end)
        body = {"kind": "PodList", "metadata": metadata, "items": pods[start:end]}
        self._whole(200, json.dumps(body).encode())

    def _watch(self, version: int) -> None:
        server = self._server
        if version < server.oldest_version:
            self._status(410, "Gone")
            return
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "application/json")
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()
        with server.changed:
            sent = 0
            while not server._is_closed and self._epoch == server._epoch:
                if sent > len(server.events):
                    sent = 0
                for number, event in server.events[sent:]:
                    if number > version:
                        self._chunk(json.dumps(event).encode() + b"\n")
                sent = len(server.events)
                server.changed.wait(_WAIT_SECONDS)
        self._handler.close_connection = True

    def _chunk(self, data: bytes) -> None:
        # In two pieces: a line may come in any number of them.
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def _status(self, code: int, reason: str) -> None:
        body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason}
        self._whole(code, json.dumps(body).encode())

    def _whole(self, code: int, body: bytes) -> None:
        self._handler.send_response(code)
        self._handler.send_header("Content-Type", "application/json")
        self._handler.send_header("Content-Length", str(len(body)))
        self._handler.end_headers()
        self._handler.wfile.write(body)
