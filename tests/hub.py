"""A model hub on loopback that serves small files under real names, takes uploads, and misbehaves on demand."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from course_utils.models import catalogue
from course_utils.models.catalogue import File, Model


def pins(files: dict[str, bytes]) -> tuple[File, ...]:
    """What a catalogue says of these contents."""
    return tuple(File(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items())


def pinned(contents: dict[str, dict[str, bytes]]) -> tuple[Model, ...]:
    """The course's catalogue as it would be if the hub's files were these: the same names, other checksums."""
    return tuple(_pinned(model, contents.get(model.id, {})) for model in catalogue.models())


def _pinned(model: Model, content: dict[str, bytes]) -> Model:
    return replace(model, files=pins({file.name: content.get(file.name, b"") for file in model.files}))


def use(folder: Path) -> None:
    """In a process of its own: take the contents of `folder`/MODEL ID/ for what the hub has."""
    contents = {}
    for file in folder.glob("*/*/*"):
        model = file.parent.relative_to(folder).as_posix()
        contents.setdefault(model, {})[file.name] = file.read_bytes()
    made = pinned(contents)
    catalogue.models = lambda: made


@dataclass
class Hub:
    """What the server has and how it behaves. Addresses are those of the real hub."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # model id -> name -> content
    requests: list[str] = field(default_factory=list)  # "GET name", in order
    authorizations: list[str] = field(default_factory=list)  # what came with each
    refuse: tuple[int, dict] | None = None  # answer every request with this status and these headers
    refusals: int = 10**6  # how many requests are refused before it recovers
    served: int = 0  # how many requests are answered before the first is refused
    cut: bool = False  # send half of what is asked for of a weights file, then hang up
    ranges: bool = True  # go on from where a request says
    corrupt: bool = False  # flip a bit in weights files
    lies: dict[str, str] = field(default_factory=dict)  # headers in the place of the right ones
    status: int = 0  # in the place of 200 and 206
    instead: Callable[[bytes], bytes] | None = None  # what is sent in the place of a weights file
    silence: threading.Event | None = None  # nothing is sent before this is set
    drip: threading.Event | None = None  # byte by byte, slowly, until this is set
    slow_headers: bool = False  # the headers, too
    token: str = ""  # who may upload; nobody while it is empty
    visibility: dict[str, str] = field(default_factory=dict)  # model id -> as asked for when it was made
    blobs: dict[str, bytes] = field(default_factory=dict)  # large files by SHA-256, uploaded before their commit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):  # noqa: N802
        self._answer(body=False)

    def do_GET(self):  # noqa: N802
        self._answer(body=True)

    def do_POST(self):  # noqa: N802
        self._take()

    def do_PUT(self):  # noqa: N802
        self._take()

    def _take(self) -> None:
        """The calls of an upload, as huggingface_hub makes them: create, check, large files, commit."""
        hub: Hub = self.server.hub
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.requests.append(f"{self.command} {self.path}")
        # Large files go to a signed address, without the token.
        if self.command == "PUT":
            hub.blobs[hashlib.sha256(body).hexdigest()] = body
            return self._send(200, {"Content-Length": "0"}, b"")
        if not hub.token or self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._send(401, {"Content-Length": "0"}, b"")
        self._json(self._record(hub, body))

    def _record(self, hub: Hub, body: bytes) -> dict:
        path = self.path.removeprefix("/api/models/")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            hub.files.setdefault(name, {})  # one that is there keeps who may see it, as on the hub
            hub.visibility.setdefault(name, asked["visibility"])
            return {"url": f"{hub.address}/{name}", "name": name}
        if "/preupload/" in path:
            modes = [
                (f["path"], "lfs" if f["path"].endswith(".safetensors") else "regular")
                for f in json.loads(body)["files"]
            ]
            return {"files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes]}
        if path.endswith("/objects/batch"):
            upload = {"upload": {"href": f"{hub.address}/upload"}}
            return {"transfer": "basic", "objects": [one | {"actions": upload} for one in json.loads(body)["objects"]]}
        if "/commit/" in path:
            name = path.partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[name][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[name][value["path"]] = hub.blobs[value["oid"]]
            return {"commitOid": "0" * 40, "commitUrl": f"{hub.address}/{name}/commit/{'0' * 40}"}
        return {"errors": [], "warnings": []}  # /api/validate-yaml

    def _json(self, content: dict | list) -> None:
        text = json.dumps(content).encode()
        self._send(200, {"Content-Type": "application/json", "Content-Length": str(len(text))}, text)

    def _answer(self, body: bool) -> None:
        hub: Hub = self.server.hub
        name = self.path.rsplit("/", 1)[-1]
        hub.requests.append(f"{self.command} {name}")
        hub.authorizations.append(self.headers.get("Authorization", ""))
        hub.served -= 1
        if hub.refuse and hub.refusals > 0 and hub.served < 0:
            hub.refusals -= 1
            return self._send(hub.refuse[0], {**hub.refuse[1], "Content-Length": "0"}, b"")
        if self.path.startswith("/api/models/"):  # what is in a repository
            place = self.path.removeprefix("/api/models/").partition("?")[0]
            model, tree, _ = place.partition("/tree/")
            model = model.partition("/revision/")[0]
            if model not in hub.files:
                return self._send(404, {"X-Error-Code": "RepoNotFound", "Content-Length": "0"}, b"")
            if tree:
                files = hub.files[model].items()
                return self._json([{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in files])
            listed = [{"rfilename": name} for name in hub.files[model]]
            private = hub.visibility.get(model, "public") == "private"
            return self._json({"id": model, "sha": "0" * 40, "siblings": listed, "private": private})
        model, _, rest = self.path.lstrip("/").partition("/resolve/")
        content = hub.files.get(model, {}).get(name)
        if content is None:
            return self._send(404, {"X-Error-Code": "EntryNotFound", "Content-Length": "0"}, b"")
        weights = name.endswith(".safetensors")
        if hub.corrupt and weights:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if hub.instead and weights:
            content = hub.instead(content)
        self._file(hub, content, rest.split("/")[0], weights, body)

    def _file(self, hub: Hub, content: bytes, revision: str, weights: bool, body: bool) -> None:
        asked = self.headers.get("Range") if hub.ranges else None
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        headers = self._headers(content, revision, weights)
        if asked and start >= len(content):
            return self._send(416, {"Content-Length": "0"}, b"")
        sent = content[start:]
        headers["Content-Length"] = str(len(sent))
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if hub.cut and weights:
            sent, self.close_connection = sent[: len(sent) // 2], True
        if hub.silence:
            hub.silence.wait(10)
        with suppress(OSError):  # the client may have had enough
            self._send(hub.status or (206 if asked else 200), headers | hub.lies, sent if body else b"")

    @staticmethod
    def _headers(content: bytes, revision: str, weights: bool) -> dict[str, str]:
        """Weights carry their SHA-256 as ETag, small files a git hash, as on the hub."""
        size = str(len(content))
        tag = hashlib.sha256(content).hexdigest() if weights else hashlib.sha1(content).hexdigest()
        linked = {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": size} if weights else {}
        return {"X-Repo-Commit": revision, "ETag": f'"{tag}"', "Content-Length": size, **linked}

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        hub: Hub = self.server.hub
        while hub.slow_headers and not hub.drip.wait(0.05):
            self.wfile.write(b"H")
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if hub.drip is None:
            self.wfile.write(content)
            return
        for byte in content:
            self.wfile.write(bytes([byte]))
            if hub.drip.wait(0.05):
                return


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""


@contextmanager
def serving():
    """A running `Hub`, stopped afterwards."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
