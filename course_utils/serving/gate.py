"""The gate in front of a model server: who may ask, what, how much, and a log that keeps no content."""

import asyncio
import json
import os
import time
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from course_utils.serving import bodies
from course_utils.serving.bodies import Refused
from course_utils.serving.clients import Turns, hashed

if TYPE_CHECKING:
    from course_utils.serving.metrics import Answer, Metrics

# What a client may ask for. `transformers serve` has more: /load_model would load any model from the hub.
PATHS = {("POST", bodies.CHAT), ("POST", bodies.TEXT), ("GET", "/v1/models"), ("GET", "/health")}
METRICS = ("GET", "/metrics")  # served where the gate measures
LOOPBACK_NAMES = {"127.0.0.1", "localhost", "::1"}
MINUTE = 60.0

Receive = Callable[[], Awaitable[dict]]
Send = Callable[[dict], Awaitable[None]]


class Left(Exception):
    """The client has closed its connection."""


class Reply:
    """What goes back to the client, counted on its way."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.status = 0
        self.bytes_out = 0
        self.complete = False
        self.watch: Callable[[bytes], None] = lambda body: None

    async def __call__(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            self.bytes_out += len(body)
            self.complete = not message.get("more_body", False)
            self.watch(body)
        await self.send(message)


class Quota:
    """How many requests each client may make in a minute. A client is a name, or else an address."""

    def __init__(self, per_minute: int, most_clients: int = 1000) -> None:
        self.per_minute, self.most_clients = per_minute, most_clients
        self.times: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Count one request. Refused (429) with the seconds after which there is room again."""
        now = time.monotonic()
        times = self.times.setdefault(client, deque())
        self.times.move_to_end(client)
        if len(self.times) > self.most_clients:
            self.times.popitem(last=False)
        while times and now - times[0] > MINUTE:
            times.popleft()
        if len(times) >= self.per_minute:
            wait = int(MINUTE - (now - times[0])) + 1
            raise Refused(429, f"More than {self.per_minute} requests in a minute: try again in {wait} s.", wait)
        times.append(now)


class Gate:
    """ASGI middleware in front of a model server: key, known paths, fields, lengths, rate, and a log.

    `count` gives the tokens of the prompt in a request for the server (ValueError if its messages cannot be put
    together); `window` is how many tokens prompt and answer may have together. `most_bytes` limits a request's
    body, `most_tokens` an answer, `per_minute` the requests of one client, `at_once` those in work. A body must be
    there after `body_seconds`, an answer after `answer_seconds`. With `batching`, every answer is greedy and there
    are no stop marks. `log` takes a row for each request; `report` takes what the server raised. With `metrics`,
    the gate measures, and gives them at /metrics to whoever has the key.

    `key` is one that all clients share, who are told apart by their addresses; or it gives the name of each client
    by the hash of its key, and then each may have `each_at_once` requests in work. With `turns`, those in work wait
    until it is their turn.
    """

    def __init__(
        self,
        app: Any,
        key: str | Mapping[str, str],
        model: str,
        *,
        count: Callable[[dict], int] | None = None,
        window: int | None = None,
        most_bytes: int = 64_000,
        most_tokens: int = 512,
        per_minute: int = 600,
        at_once: int = 64,
        each_at_once: int | None = None,
        turns: Turns | None = None,
        body_seconds: float = 10,
        answer_seconds: float = 300,
        batching: bool = False,
        log: Callable[[dict], None] = lambda row: None,
        report: Callable[[Exception], None] = lambda error: None,
        metrics: "Metrics | None" = None,
    ) -> None:
        self.app, self.model = app, model
        self.names = {hashed(key.encode()): ""} if isinstance(key, str) else key
        self.count, self.window = count, window
        self.most_bytes, self.most_tokens = most_bytes, most_tokens
        self.at_once, self.in_work = at_once, 0
        self.each_at_once, self.in_work_of = each_at_once, Counter()
        self.turns = turns
        self.body_seconds, self.answer_seconds = body_seconds, answer_seconds
        self.batching = batching
        self.quota = Quota(per_minute)
        self.log, self.report = log, report
        self.paths = PATHS | {METRICS} if metrics else PATHS
        self.metrics = metrics
        if metrics:
            metrics.in_work.set_function(lambda: self.in_work)

    async def __call__(self, scope: dict, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self.answer(scope, receive, Reply(send))
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def answer(self, scope: dict, receive: Receive, reply: Reply) -> None:
        """Let one request through or refuse it, and log a row about it."""
        start, row = time.perf_counter(), {"bytes_in": 0}
        watching = self.watch(reply)
        try:
            await self.admit(scope, receive, reply, row)
        except Refused as refusal:
            await refuse(reply, refusal)
        except Left:
            row["left"] = True
        except Exception as error:
            # Raised further, the web server would print it, and with it what was asked.
            row["error"] = type(error).__name__
            self.report(error)
            await refuse(reply, Refused(500, f"The model server failed ({row['error']}). Ask again, or start it anew."))
        finally:
            known = (scope["method"], scope["path"]) in self.paths
            path = scope["path"] if known else "other"
            spent = round((time.perf_counter() - start) * 1000)
            sent = {"status": reply.status, "bytes_out": reply.bytes_out}
            self.log({"path": path, "ms": spent} | row | sent)
            if watching:
                self.metrics.ended(path, 0 if row.get("left") else reply.status, watching)

    def watch(self, reply: Reply) -> "Answer | None":
        """What measures one answer, where the gate measures."""
        if not self.metrics:
            return None
        reply.watch = self.metrics.watch()
        return reply.watch

    async def admit(self, scope: dict, receive: Receive, reply: Reply, row: dict) -> None:
        """The rules in their order: the cheapest first."""
        check_host(scope)
        method, path = scope["method"], scope["path"]
        if (method, path) not in self.paths:
            raise Refused(404, "This path is not served here.")
        if path == "/health":
            return await self.forward(scope, b"", receive, reply)
        client = self.client(scope, row)
        if (method, path) == METRICS:  # outside the quota: who watches must see a server at its limits, too
            return await reply_metrics(reply, self.metrics.text())
        if path == "/v1/models":
            self.quota.take(client)
            return await reply_json(reply, 200, self.models())
        with self.work(client):
            body = await self.read(scope, receive)
            row["bytes_in"] = len(body)
            asked = bodies.check(path, bodies.parse(body))
            # After the cheap checks: what is refused there takes nothing from anybody's quota.
            self.quota.take(client)
            wanted = self.rebuild(asked)
            await self.forward(scope, json.dumps(wanted).encode(), receive, reply, client)

    def models(self) -> dict:
        row = {"id": self.model, "object": "model", "created": 0, "owned_by": "transformers"}
        return {"object": "list", "data": [row]}

    def client(self, scope: dict, row: dict) -> str:
        """Who asks: the name that the key belongs to, or the address where all share a key."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        sent = given[0].removeprefix(b"Bearer ") if len(given) == 1 else b""
        name = self.names.get(hashed(sent))  # of hashes, the time of a comparison betrays nothing
        if name is None:
            raise Refused(401, "The key is missing or wrong: send it as `Authorization: Bearer KEY`.")
        if name:
            row["client"] = name
        return name or (scope.get("client") or ["unknown"])[0]

    @contextmanager
    def work(self, client: str) -> Iterator[None]:
        """A place among the requests in work."""
        own = self.in_work_of[client]
        if self.each_at_once and own >= self.each_at_once:
            raise Refused(429, f"{own} requests of yours are in work: wait for an answer, then ask again.", wait=1)
        if self.in_work >= self.at_once:
            raise Refused(429, f"{self.at_once} requests are in work: try again in a second.", wait=1)
        if self.metrics:
            self.metrics.ahead.observe(self.in_work)
        self.in_work += 1
        self.in_work_of[client] += 1
        try:
            yield
        finally:
            self.in_work -= 1
            self.in_work_of[client] -= 1
            if not self.in_work_of[client]:
                del self.in_work_of[client]

    async def read(self, scope: dict, receive: Receive) -> bytes:
        """The body. Refused as soon as it passes the limit, or does not arrive: neither may fill the server."""
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refused(415, "Send the request as plain JSON, not compressed.")
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and len(declared) < 20 and int(declared) > self.most_bytes:
            raise Refused(413, f"The request is larger than {self.most_bytes} bytes.")
        try:
            async with asyncio.timeout(self.body_seconds):
                return await self.collect(receive)
        except TimeoutError:
            raise Refused(408, f"The request did not arrive within {self.body_seconds:g} s.") from None

    async def collect(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Left
            body += message.get("body", b"")
            if len(body) > self.most_bytes:
                raise Refused(413, f"The request is larger than {self.most_bytes} bytes.")
            if not message.get("more_body", False):
                return bytes(body)

    def rebuild(self, asked: bodies.Asked) -> dict:
        """The request for the server: checked fields only, and always a length. Refused if it asks for too much."""
        if asked.model not in (None, self.model):
            raise Refused(404, f"There is one model here, {self.model!r}: name it, or leave `model` out.")
        if self.batching and asked.stop is not None:
            raise Refused(422, "stop: a server with continuous batching has no stop marks. Start one without.")
        if self.batching and asked.temperature:
            raise Refused(
                422, "temperature: a server with continuous batching always takes the likeliest token; send 0."
            )
        wanted = bodies.forwarded(asked) | {"model": self.model}
        return wanted | {"max_tokens": self.length(asked, wanted)}

    def length(self, asked: bodies.Asked, wanted: dict) -> int:
        """How many tokens the answer may have: what was asked for, or else as many as are allowed and fit."""
        named = [asked.max_tokens, getattr(asked, "max_completion_tokens", None)]
        longest = min([number for number in named if number is not None], default=None)
        if longest is not None and longest > self.most_tokens:
            raise Refused(422, f"max_tokens is {longest}, and at most {self.most_tokens} are allowed.")
        room = self.room(wanted)
        if longest is not None and longest > room:
            held = f"The prompt leaves room for {room} tokens in the model's window of {self.window}"
            raise Refused(422, f"{held}, and max_tokens is {longest}. Shorten one of them.")
        return longest or min(room, self.most_tokens)

    def room(self, wanted: dict) -> int:
        """Tokens that are left for the answer when the model has read the prompt."""
        if self.count is None or self.window is None:
            return self.most_tokens
        try:
            read = self.count(wanted)
        except ValueError as error:
            raise Refused(422, f"The model's chat template does not take these messages: {error}") from None
        if read == 0:
            raise Refused(422, "The prompt is empty for this model: no token is left of it.")
        if read >= self.window:
            raise Refused(422, f"The prompt has {read} tokens, and the model's window has {self.window}. Shorten it.")
        return self.window - read

    async def forward(self, scope: dict, body: bytes, receive: Receive, reply: Reply, client: str = "") -> None:
        """Hand the request on. What nobody waits for any more, or for too long, is cancelled."""
        work = asyncio.create_task(self.in_turn(client, onward(scope, body), replay(body), reply))
        leaving = asyncio.create_task(until_gone(receive))
        try:
            waited = {work, leaving}
            await asyncio.wait(waited, timeout=self.answer_seconds, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and reply.complete:  # the web server says so after the last byte, too
                await asyncio.wait({work}, timeout=1)
            if work.done():
                return work.result()
            if leaving.done():
                raise Left
            raise Refused(503, f"There is no answer after {self.answer_seconds:g} s.", wait=1)
        finally:
            leaving.cancel()
            work.cancel()
            await asyncio.wait({work, leaving}, timeout=5)
            if work.done() and not work.cancelled():
                work.exception()  # looked at, or asyncio prints it

    async def in_turn(self, client: str, scope: dict, receive: Receive, reply: Reply) -> None:
        """Ask the server, when it is the client's turn. What comes from no client (/health) does not wait."""
        waits = self.turns and client
        async with self.turns.turn(client) if waits else nullcontext():
            await self.app(scope, receive, reply)


def check_host(scope: dict) -> None:
    """Refuse a name that is not this machine's own: a web page can point one of its names at 127.0.0.1."""
    for name, value in scope["headers"]:
        if name != b"host":
            continue
        try:
            host = urlsplit("//" + value.decode("ascii")).hostname
        except ValueError:
            host = None
        if host not in LOOPBACK_NAMES:
            raise Refused(403, "Ask this server as 127.0.0.1 or localhost: it serves this machine only.")


def onward(scope: dict, body: bytes) -> dict:
    """The scope for the server: our headers, none of the client's, and no query."""
    length = str(len(body)).encode()
    # A name of our own for each request: two of the same name would get each other's answers.
    name = uuid.uuid4().hex.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"x-request-id", name)]
    return scope | {"headers": [(b"host", b"127.0.0.1"), *headers], "query_string": b""}


def replay(body: bytes) -> Receive:
    """A `receive` that hands out a body that was read already, and then waits until it is cancelled."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> dict:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop()

    return again


async def until_gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def refuse(reply: Reply, refusal: Refused) -> None:
    """Send the reason, unless an answer is under way: then the connection ends in its middle."""
    if reply.status:
        return
    headers = [(b"retry-after", str(refusal.wait).encode())] if refusal.wait else []
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await reply_json(reply, refusal.status, {"error": {"message": refusal.reason}}, headers)


async def reply_json(reply: Reply, status: int, content: dict, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Send `content` as JSON."""
    await reply_body(reply, status, b"application/json", json.dumps(content).encode(), headers)


async def reply_metrics(reply: Reply, body: bytes) -> None:
    """Send metrics in Prometheus's text format."""
    await reply_body(reply, 200, b"text/plain; version=0.0.4; charset=utf-8", body)


async def reply_body(
    reply: Reply, status: int, kind: bytes, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Send a whole answer of a kind (its media type)."""
    own = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await reply({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await reply({"type": "http.response.body", "body": body})


class UsageFile:
    """The usage log: a row for each answered request; refused ones of a kind share a row a second.

    Only this class writes to the file, so that nothing that the model server prints can look like a row. It and the
    one before it, which ends in `.1`, are at most `most_bytes` long.
    """

    def __init__(self, path: Path, most_bytes: int = 1_000_000) -> None:
        self.path, self.most_bytes = path, most_bytes
        self.written: dict[tuple, float] = {}
        self.waiting: Counter[tuple] = Counter()

    def __call__(self, row: dict) -> None:
        if row["status"] in range(200, 400):
            return self.write(row | {"count": 1})
        kind = (row["path"], row["status"])
        if time.monotonic() - self.written.get(kind, -MINUTE) < 1:
            self.waiting[kind] += 1
            if self.waiting[kind] == 1:
                asyncio.get_running_loop().call_later(1, self.flush, kind)
            return
        self.written[kind] = time.monotonic()
        self.write(row | {"count": 1})

    def flush(self, kind: tuple) -> None:
        """Write the row of those that were refused since the last one."""
        path, status = kind
        self.written[kind] = time.monotonic()
        self.write({"path": path, "status": status, "count": self.waiting.pop(kind)})

    def write(self, row: dict) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            size = file.tell()
        if size > self.most_bytes // 2:
            with suppress(OSError):  # on Windows, while somebody reads it: the next row tries again
                os.replace(self.path, before(self.path))


def before(path: Path) -> Path:
    """Where the rows before those of the usage file `path` are."""
    return path.with_name(path.name + ".1")


def read_usage(path: Path) -> list[dict]:
    """The rows of a usage file and of the one before it, oldest first; a row that is being written is left out."""
    lines = []
    for part in (before(path), path):
        if part.exists():
            lines += part.read_text("utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
