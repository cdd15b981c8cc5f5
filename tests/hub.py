"""A model hub on loopback that serves small files under real names, and misbehaves on demand."""

import hashlib
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    """What the server has and how it behaves. Addresses are those of the real hub."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # model id -> name -> content
    requests: list[str] = field(default_factory=list)  # "GET name", in order
    refuse: tuple[int, dict] | None = None  # answer every request with this status and these headers
    refusals: int = 10**6  # how many requests are refused before it recovers
    cut: bool = False  # send half of each weights file, then hang up; refuse to go on from there
    corrupt: bool = False  # flip a bit in weights files


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):  # noqa: N802
        self._answer(body=False)

    def do_GET(self):  # noqa: N802
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub: Hub = self.server.hub
        name = self.path.rsplit("/", 1)[-1]
        hub.requests.append(f"{self.command} {name}")
        if hub.refuse and hub.refusals > 0:
            hub.refusals -= 1
            return self._send(hub.refuse[0], {**hub.refuse[1], "Content-Length": "0"}, b"")
        model, _, rest = self.path.lstrip("/").partition("/resolve/")
        content = hub.files.get(model, {}).get(name)
        if content is None:
            return self._send(404, {"X-Error-Code": "EntryNotFound", "Content-Length": "0"}, b"")
        weights = name.endswith(".safetensors")
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if hub.cut and weights and start:
            self.close_connection = True
            return self.connection.close()
        headers = self._headers(content, rest.split("/")[0], weights)
        sent = content[:-1] + bytes([content[-1] ^ 1]) if hub.corrupt and weights else content
        if hub.cut and weights:
            sent, self.close_connection = sent[: len(sent) // 2], True
        return self._send(200, headers, sent if body else b"")

    @staticmethod
    def _headers(content: bytes, revision: str, weights: bool) -> dict[str, str]:
        """Weights carry their SHA-256 as ETag, small files a git hash, as on the hub."""
        size = str(len(content))
        tag = hashlib.sha256(content).hexdigest() if weights else hashlib.sha1(content).hexdigest()
        linked = {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": size} if weights else {}
        return {"X-Repo-Commit": revision, "ETag": f'"{tag}"', "Content-Length": size, **linked}

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving():
    """A running `Hub`, stopped afterwards."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
