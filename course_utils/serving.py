"""Serving a model yourself: start a server, ask it, measure it, and leave nothing running.

    with serve(MODELS / "prisma-lm") as server:
        server.client().chat.completions.create(model=server.model, messages=[...])

The embedded server is the one of `transformers serve`, with a `Gate` in front of every request. Run as a
program (`python -m course_utils.serving`), this file is that server.
"""

import argparse
import atexit
import hmac
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import compat
from course_utils.inputs import as_texts
from course_utils.settings import ROOT

if TYPE_CHECKING:
    from openai import OpenAI

    from course_utils.tiers import Choice

LOOPBACK = "127.0.0.1"
KEY = "COURSE_SERVER_KEY"  # in the environment, because everybody on a machine can read a command line
# What a client may ask for. `transformers serve` has more: /load_model would load any model from the hub.
PATHS = {("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/health")}
# Bytes of weights under which the threads of one answer would wait for each other longer than they work. On a busy
# two-core machine, two threads took up to a minute for 16 tokens of prisma-lm, one took 80 ms.
SMALL = 200_000_000


class ServerError(RuntimeError):
    """A server that did not start, or stopped; the message holds the end of its log."""


# --- the gate -------------------------------------------------------------------------------------------


class Gate:
    """ASGI middleware in front of a model server: key, known paths, size, rate, and a log without content.

    `most_bytes` limits a request's body, `most_tokens` the answer it may ask for, `per_minute` the requests.
    """

    def __init__(
        self,
        app: Any,
        key: str,
        model: str,
        most_bytes: int = 64_000,
        most_tokens: int = 512,
        per_minute: int = 600,
        log: Callable[[str], None] = print,
    ) -> None:
        self.app, self.key, self.model, self.log = app, key, model, log
        self.most_bytes, self.most_tokens, self.per_minute = most_bytes, most_tokens, per_minute
        self.times: deque[float] = deque()

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        seen, start = {"status": 0, "bytes_out": 0}, time.perf_counter()

        async def counted(message: dict) -> None:
            seen["status"] = message.get("status", seen["status"])
            seen["bytes_out"] += len(message.get("body", b""))
            await send(message)

        body = b""
        try:
            refusal = self.refuse(scope) or await self.too_long(scope, receive)
            if isinstance(refusal, bytes):
                body, refusal = refusal, self.bad_body(scope, refusal)
            if refusal:
                await answer(counted, *refusal)
            elif scope["path"] == "/v1/models":
                row = {"id": self.model, "object": "model", "created": 0, "owned_by": "transformers"}
                await answer(counted, 200, {"object": "list", "data": [row]})
            else:
                await self.app(scope, replay(body, receive), counted)
        finally:
            spent = round((time.perf_counter() - start) * 1000)
            line = {"path": scope["path"], "ms": spent, "bytes_in": len(body), **seen}
            self.log("usage " + json.dumps(line))

    def refuse(self, scope: dict) -> tuple[int, str] | None:
        """Status and reason if the request is turned away before its body is read."""
        if (scope["method"], scope["path"]) not in PATHS:
            return 404, f"{scope['method']} {scope['path']} is not served here."
        if scope["path"] == "/health":
            return None
        given = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ")
        if not hmac.compare_digest(given, self.key.encode()):  # takes equally long however wrong the key is
            return 401, "The key is missing or wrong: send it as `Authorization: Bearer KEY`."
        now = time.monotonic()
        while self.times and now - self.times[0] > 60:
            self.times.popleft()
        if len(self.times) >= self.per_minute:
            return 429, f"More than {self.per_minute} requests in a minute; wait and try again."
        self.times.append(now)
        return None

    async def too_long(self, scope: dict, receive: Callable) -> bytes | tuple[int, str]:
        """The body, or a refusal as soon as it passes the limit: an endless upload must not fill memory."""
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > self.most_bytes:
                return 413, f"The request is larger than {self.most_bytes} bytes."
        return body

    def bad_body(self, scope: dict, body: bytes) -> tuple[int, str] | None:
        """A refusal if a POST's body is no JSON object, or asks for too long an answer."""
        if scope["method"] != "POST":
            return None
        try:
            wanted = json.loads(body)
            asked = max(int(wanted.get(name) or 0) for name in ("max_tokens", "max_completion_tokens"))
        except (ValueError, TypeError, AttributeError):
            return 400, "The request must be a JSON object, with a whole number as max_tokens."
        if asked > self.most_tokens:
            return 422, f"max_tokens is {asked}, and at most {self.most_tokens} are allowed."
        return None


async def answer(send: Callable, status: int, content: str | dict) -> None:
    """Send `content` as JSON, a reason in the form of OpenAI's errors."""
    body = json.dumps(content if isinstance(content, dict) else {"error": {"message": content}}).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


def replay(body: bytes, receive: Callable) -> Callable:
    """A `receive` that first hands out a body that was read already."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> dict:
        return waiting.pop() if waiting else await receive()

    return again


def main(arguments: Sequence[str] | None = None) -> None:
    """The program that `start` runs: `transformers serve` behind a gate, until its standard input closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batching", action="store_true")
    parser.add_argument("--nf4", action="store_true")
    parser.add_argument("--per-minute", type=int, required=True)
    asked, key = parser.parse_args(arguments), os.environ[KEY]
    threading.Thread(target=_end_with_parent, daemon=True).start()

    from transformers.cli.serving import server as factory

    build = factory.build_server

    def build_behind_gate(*parts: Any, **named: Any) -> Any:
        app = build(*parts, **named)
        app.add_middleware(Gate, key=key, model=asked.model, per_minute=asked.per_minute, log=_print)
        return app

    factory.build_server = build_behind_gate
    compat.serve(asked.model, LOOPBACK, asked.port, asked.nf4, asked.batching)


def _print(line: str) -> None:
    print(line, flush=True)


def _end_with_parent() -> None:
    """End this process when the notebook's is gone, however it went: the pipe between them closes then."""
    sys.stdin.buffer.read()
    os._exit(0)


# --- starting and stopping ------------------------------------------------------------------------------


@dataclass
class Server:
    """A running model server on loopback. `model` is the name to ask for, `log` the file of its output."""

    backend: str
    url: str
    model: str
    key: str = field(repr=False)
    log: Path = field(repr=False)
    process: subprocess.Popen = field(repr=False)

    def client(self, **options: Any) -> "OpenAI":
        """An `openai` client of this server; `options` (`timeout`, `max_retries`) go to it."""
        return client(self.url, self.key, **options)

    def usage(self) -> list[dict]:
        """The gate's log: one row for each request, without what was asked or answered."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [json.loads(line.removeprefix("usage ")) for line in lines if line.startswith("usage ")]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def stop(self) -> None:
        """End the server and all that it started; harmless if it has ended already."""
        end_tree(self.process)
        shutil.rmtree(self.log.parent, ignore_errors=True)
        _servers.pop(id(self), None)


_servers: dict[int, Server] = {}


def client(url: str, key: str, **options: Any) -> "OpenAI":
    """An `openai` client for a server on this machine: no proxy in between, no silent second try."""
    from openai import DefaultHttpxClient, OpenAI

    chosen = {"timeout": 60.0, "max_retries": 0} | options
    return OpenAI(base_url=f"{url}/v1", api_key=key, http_client=DefaultHttpxClient(trust_env=False), **chosen)


def free_port() -> int:
    """A port on loopback that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def port_is_free(port: int) -> bool:
    """Whether nobody listens on `port` of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) != 0


def command(backend: str, model: Path, port: int, options: Sequence[str] = ()) -> tuple[list[str], str, str]:
    """How to start `backend` for `model` on `port`: the command, the model's name, the key's variable."""
    if backend == "transformers":
        line = [sys.executable, "-m", "course_utils.serving", model.name, "--port", str(port)]
        return [*line, *options], model.name, KEY
    place = ["--host", LOOPBACK, "--port", str(port)]
    if backend == "vllm":
        return ["vllm", "serve", model.name, *place], model.name, "VLLM_API_KEY"
    if backend == "llama.cpp":
        return ["llama-server", "-m", model.name, "--alias", model.stem, *place], model.stem, "LLAMA_API_KEY"
    raise ValueError(f"no backend {backend!r} to start; there are transformers, vllm and llama.cpp")


def start(
    model: Path,
    backend: str = "transformers",
    port: int | None = None,
    timeout: float = 300,
    batching: bool = False,
    nf4: bool = False,
    per_minute: int = 600,
) -> Server:
    """Start a server for the folder (or GGUF file) `model`; it has answered once when this returns.

    For transformers only: `batching` turns on continuous batching, `nf4` quantises to 4 bits while loading,
    `per_minute` limits the requests.
    ServerError if the program is missing, ends, finds its port in use, or is not ready after `timeout`
    seconds; nothing is left behind then. In a notebook, a failing cell stops all servers too.
    """
    model = Path(model).resolve()
    if not model.exists():
        raise ServerError(f"There is no model at {model}.")
    port = port or free_port()
    if not port_is_free(port):
        raise ServerError(f"Port {port} is in use: stop what listens there, or leave the port out.")
    options = ["--per-minute", str(per_minute), *["--batching"] * batching, *["--nf4"] * nf4]
    line, name, variable = command(backend, model, port, options)
    if backend != "transformers" and not shutil.which(line[0]):
        raise ServerError(f"The program `{line[0]}` is not on this machine; transformers is always there.")
    server = _launch(line, name, variable, backend, port, model)
    try:
        _wait(server, timeout)
    except BaseException:
        server.stop()
        raise
    return server


def _launch(line: list[str], name: str, variable: str, backend: str, port: int, model: Path) -> Server:
    key, log = secrets.token_urlsafe(24), Path(tempfile.mkdtemp(prefix="course-server-")) / "server.log"
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # The model's name is a path to these servers: from its own folder, the short name is enough.
    settings = {"env": os.environ | {variable: key, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}, "cwd": model.parent}
    if sum(file.stat().st_size for file in model.glob("*.safetensors")) < SMALL:
        settings["env"]["OMP_NUM_THREADS"] = "1"
    with log.open("wb") as output:
        pipes = {"stdin": subprocess.PIPE, "stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(line, **pipes, **settings)
    server = Server(backend, f"http://{LOOPBACK}:{port}", name, key, log, process)
    _servers[id(server)] = server
    _watch_cells()
    return server


def _wait(server: Server, timeout: float) -> None:
    """Return once the server has answered a real question: one that listens may still be loading."""
    end, ask = time.monotonic() + timeout, server.client(timeout=timeout)
    while True:
        if server.process.poll() is not None:
            raise ServerError(f"The server ended while starting. {_tail(server)}")
        if time.monotonic() > end:
            raise ServerError(f"The server was not ready after {timeout:.0f} s; `timeout` allows more. {_tail(server)}")
        if not port_is_free(server.port):
            try:
                hello = [{"role": "user", "content": "hello"}]
                ask.chat.completions.create(model=server.model, messages=hello, max_tokens=1)
                return
            except Exception as error:  # loading answers 503, a half-open port resets
                problem = error
                if getattr(problem, "status_code", 503) not in (500, 502, 503):
                    raise ServerError(f"The server refuses to answer: {problem}. {_tail(server)}") from problem
        time.sleep(0.1)


def _tail(server: Server, lines: int = 8) -> str:
    text = server.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "Its last words:\n" + "\n".join(text[-lines:]) if text else "It said nothing."


@contextmanager
def serve(model: Path, **options: Any) -> Iterator[Server]:
    """`start`, and `stop` at the end of the block, whatever happens inside."""
    server = start(model, **options)
    try:
        yield server
    finally:
        server.stop()


def end_tree(process: subprocess.Popen, patience: float = 5) -> None:
    """End a process and its descendants: ask first, and make them after `patience` seconds."""
    import psutil

    try:
        top = psutil.Process(process.pid)
        tree = [*top.children(recursive=True), top]
    except psutil.NoSuchProcess:
        tree = []
    for one in tree:
        _quietly(one.terminate)
    _, stubborn = psutil.wait_procs(tree, timeout=patience)
    for one in stubborn:
        _quietly(one.kill)
    if process.stdin:
        process.stdin.close()
    process.wait()


def _quietly(act: Callable[[], None]) -> None:
    import psutil

    with suppress(psutil.NoSuchProcess):
        act()


def stop_all() -> int:
    """Stop every server that this process started; how many there were."""
    running = list(_servers.values())
    for server in running:
        server.stop()
    return len(running)


atexit.register(stop_all)


def _watch_cells() -> None:
    """In a notebook: when a cell fails, stop the servers, because the cell that stops them may never run."""
    if "IPython" not in sys.modules:
        return
    shell = sys.modules["IPython"].get_ipython()
    if shell is not None and _after_cell not in shell.events.callbacks["post_run_cell"]:
        shell.events.register("post_run_cell", _after_cell)


def _after_cell(result: Any) -> None:
    if not result.success and (count := stop_all()):
        print(f"The cell failed, so {count} server(s) were stopped. Run the cell that starts one again.")


def choose_folder(choice: "Choice", say: Callable[[str], None] = print) -> tuple[Path, bool]:
    """The folder of a chosen chat model, and whether it should be loaded in NF4.

    Downloads it first if needed. If that fails, says so and gives the bundled model's folder.
    """
    from course_utils import bundled, downloads

    if choice.tier != "bundled":
        try:
            return downloads.fetch(choice.model, say), choice.model.quantise == "nf4"
        except downloads.DownloadError as error:
            say(f"{choice.model.id} is not available, because {error.problem}.")
            say(f"  Served instead: prisma-lm, which knows Prisma only. To get the better one: {error.cure}")
    return bundled.verify("prisma-lm"), False


# --- other servers --------------------------------------------------------------------------------------

# The ports that these programs use unless told otherwise.
PORTS = {"Ollama": 11434, "vLLM": 8000, "llama.cpp": 8080}
OWNERS = {"library": "Ollama", "vllm": "vLLM", "llamacpp": "llama.cpp"}  # as they sign their list of models
PROGRAMS = {"Ollama": "ollama", "vLLM": "vllm", "llama.cpp": "llama-server"}


@dataclass(frozen=True)
class Backend:
    """A model server that was found: running (with its address and models), or installed only."""

    name: str
    url: str | None
    models: tuple[str, ...] = ()
    note: str = ""


def find_backends(ports: dict[str, int] = PORTS, timeout: float = 0.5) -> list[Backend]:
    """Servers that answer on the usual ports of this machine, then programs that could be started."""
    running = [found for name, port in ports.items() if (found := knock(name, port, timeout))]
    names = {found.name for found in running}
    installed = [name for name, program in PROGRAMS.items() if name not in names and shutil.which(program)]
    return running + [Backend(name, None, note=f"installed as `{PROGRAMS[name]}`, not running") for name in installed]


def knock(name: str, port: int, timeout: float = 0.5) -> Backend | None:
    """What answers `GET /v1/models` on a port of this machine; `name` is the guess, its signature decides."""
    import httpx

    url = f"http://{LOOPBACK}:{port}"
    try:
        reply = httpx.get(f"{url}/v1/models", timeout=timeout, trust_env=False)
        if reply.status_code in (401, 403):
            return Backend(name, url, note="needs a key")
        rows = reply.raise_for_status().json()["data"] or []  # Ollama without a model says null
        owner = rows[0].get("owned_by", "") if rows else ""
        models = tuple(row["id"] for row in rows)
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
    return Backend(OWNERS.get(owner, name), url, models, "" if models else "has no model yet")


# --- measuring ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """One burst of requests: how many at once, tokens a second of all together, seconds each one took."""

    at_once: int
    rate: float
    seconds: tuple[float, ...]


def burst(server: Server, prompts: Sequence[str], at_once: int, max_tokens: int = 24) -> Load:
    """Send the prompts, `at_once` at a time, and count the tokens that come back."""
    prompts = as_texts(prompts, "prompts")
    ask = server.client(timeout=300)

    def one(prompt: str) -> tuple[int, float]:
        began = time.perf_counter()
        reply = ask.completions.create(model=server.model, prompt=prompt, max_tokens=max_tokens)
        return reply.usage.completion_tokens, time.perf_counter() - began

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as crowd:
        replies = list(crowd.map(one, prompts))
    total = sum(tokens for tokens, _ in replies)
    return Load(at_once, total / (time.perf_counter() - began), tuple(seconds for _, seconds in replies))


if __name__ == "__main__":
    main()
