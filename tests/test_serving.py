"""Servers: the gate refuses what it should, real ones answer, and none outlives its block, cell or notebook."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from course_utils import serving
from course_utils.settings import ROOT

# A program that stands in for llama-server and vllm: their published API, and the ways in which they fail.
FAKE = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
mode, key = os.environ.get("FAKE", "ok"), os.environ.get("LLAMA_API_KEY") or os.environ.get("VLLM_API_KEY")
if mode == "die":
    sys.exit("error: unknown model architecture")
if mode == "hang":
    time.sleep(600)
asked = [0]
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked[0] += 1
        status = 401 if self.headers["authorization"] != "Bearer " + key else 200
        status = 503 if mode == "loading" and asked[0] < 3 else 400 if mode == "refuse" else status
        message = dict(role="assistant", content="hello from " + wanted["model"])
        choice = dict(index=0, finish_reason="stop", message=message)
        body = dict(id="1", object="chat.completion", created=1, model=wanted["model"], choices=[choice])
        text = json.dumps(body if status == 200 else dict(error=dict(message="no"))).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *parts):
        pass
print("listening", flush=True)
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A Llama with random weights, in a folder with a space."""
    from course_utils.prisma import lm

    folder = tmp_path_factory.mktemp("models") / "tiny lm"
    tokenizer = lm.build_tokenizer()
    lm.save(lm.build(tokenizer), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def real(tiny):
    """A real server with continuous batching, shared by the tests that ask it something."""
    with serving.serve(tiny, batching=True) as server:
        yield server


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """`llama-server` and `vllm` on the path, and a file to serve; set FAKE for the way to fail."""
    for name in ("llama-server", "vllm"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(FAKE.replace("{python}", sys.executable))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(serving, "_servers", {})  # the shared real server is none of these tests' business
    model = tmp_path / "toy.gguf"
    model.write_bytes(b"GGUF")
    return model


# --- the gate -------------------------------------------------------------------------------------------


def through(gate, method="POST", path="/v1/completions", key="right", chunks=(b"{}",)):
    """Send one request through the gate; the status, the body, and what reached the server behind it."""
    headers = [(b"authorization", b"Bearer " + key.encode())] if key else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    waiting = [{"type": "http.request", "body": c, "more_body": i + 1 < len(chunks)} for i, c in enumerate(chunks)]
    sent = []

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def behind(lines=None, **limits):
    """A gate with a server behind it that echoes the body."""

    async def app(scope, receive, send):
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"echo " + body})

    log = (lines if lines is not None else []).append
    return serving.Gate(app, key="right", model="prisma-lm", log=log, **limits)


def test_the_gate_lets_a_good_request_through_unchanged():
    body = [b'{"prompt": "hello', b'", "max_tokens": 5}']
    assert through(behind(), chunks=body) == (200, b"echo " + b"".join(body))


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (401, {"key": ""}),
        (401, {"key": "wrong"}),
        (404, {"path": "/load_model"}),
        (404, {"path": "/reset"}),
        (404, {"method": "GET"}),
        (413, {"chunks": [b"x" * 600] * 3}),
        (400, {"chunks": [b"not json"]}),
        (400, {"chunks": [b"[1]"]}),
        (400, {"chunks": [b'{"max_tokens": "many"}']}),
        (422, {"chunks": [b'{"max_tokens": 100000}']}),
        (422, {"chunks": [b'{"max_completion_tokens": 100000}']}),
    ],
)
def test_the_gate_refuses_with_a_reason(status, request_):
    got, body = through(behind(most_bytes=1000), **request_)
    assert got == status
    assert len(json.loads(body)["error"]["message"]) > 20


def test_the_gate_limits_the_rate():
    gate = behind(per_minute=3)
    assert [through(gate)[0] for _ in range(5)] == [200, 200, 200, 429, 429]
    gate.times = type(gate.times)(t - 61 for t in gate.times)
    assert through(gate)[0] == 200


def test_the_gate_names_its_one_model_and_health_needs_no_key():
    status, body = through(behind(), method="GET", path="/v1/models")
    assert status == 200 and [row["id"] for row in json.loads(body)["data"]] == ["prisma-lm"]
    assert through(behind(), method="GET", path="/health", key="")[0] == 200


def test_the_log_counts_and_keeps_no_content():
    lines = []
    through(behind(lines), chunks=[b'{"prompt": "my secret"}'])
    through(behind(lines), key="wrong", chunks=[b'{"prompt": "my secret"}'])
    rows = [json.loads(line.removeprefix("usage ")) for line in lines]
    assert [row["status"] for row in rows] == [200, 401]
    assert rows[0]["bytes_in"] == 23 and rows[0]["bytes_out"] == 28
    assert "secret" not in "".join(lines) and "right" not in "".join(lines)


# --- a real server --------------------------------------------------------------------------------------


def test_a_real_server_answers_and_streams(real):
    ask, hello = real.client(), [{"role": "user", "content": "hello"}]
    reply = ask.chat.completions.create(model=real.model, messages=hello, max_tokens=6)
    assert 1 <= reply.usage.completion_tokens <= 6
    pieces = list(ask.chat.completions.create(model=real.model, messages=hello, max_tokens=6, stream=True))
    assert sum(bool(piece.choices[0].delta.content) for piece in pieces) >= 1
    assert [model.id for model in ask.models.list()] == [real.model] == ["tiny lm"]


def test_a_real_server_listens_on_loopback_only_and_wants_its_key(real):
    import httpx
    import openai

    listening = [c for c in psutil.Process(real.process.pid).net_connections() if c.status == "LISTEN"]
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
    with pytest.raises(openai.AuthenticationError):
        serving.client(real.url, "wrong").models.list()
    reply = httpx.post(f"{real.url}/load_model", json={"model": "any/model"}, trust_env=False)
    assert reply.status_code == 404
    assert real.key not in " ".join(psutil.Process(real.process.pid).cmdline()) and real.key not in repr(real)


def test_a_burst_counts_tokens_and_the_log_has_a_row_for_each_request(real):
    before = len(real.usage())
    load = serving.burst(real, ["show me the red cube"] * 4, at_once=4, max_tokens=5)
    assert load.at_once == 4 and len(load.seconds) == 4 and load.rate > 0
    rows = real.usage()[before:]
    assert len(rows) == 4 and all(row["status"] == 200 for row in rows)
    assert "red cube" not in json.dumps(rows)


# --- starting, failing, stopping ------------------------------------------------------------------------


def ended(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("backend", ["llama.cpp", "vllm"])
def test_other_backends_are_started_with_a_key_and_stopped(fake, backend):
    with serving.serve(fake, backend=backend) as server:
        hello = [{"role": "user", "content": "hi"}]
        reply = server.client().chat.completions.create(model=server.model, messages=hello)
        assert reply.choices[0].message.content == f"hello from {server.model}"
        assert not serving.port_is_free(server.port)
    assert serving.port_is_free(server.port) and ended(server.process.pid)
    assert not server.log.parent.exists()


def test_a_failure_inside_the_block_stops_the_server_too(fake):
    with pytest.raises(ZeroDivisionError), serving.serve(fake, backend="llama.cpp") as server:
        raise ZeroDivisionError
    assert serving.port_is_free(server.port) and not serving._servers


def test_a_server_that_is_still_loading_is_waited_for(fake, monkeypatch):
    monkeypatch.setenv("FAKE", "loading")
    with serving.serve(fake, backend="llama.cpp", timeout=30) as server:
        assert server.model == "toy"


@pytest.mark.parametrize(
    ("mode", "message"),
    [("die", "unknown model architecture"), ("hang", "not ready after 2 s"), ("refuse", "refuses to answer")],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(fake, monkeypatch, mode, message):
    monkeypatch.setenv("FAKE", mode)
    port = serving.free_port()
    with pytest.raises(serving.ServerError, match=message):
        serving.start(fake, backend="llama.cpp", port=port, timeout=2 if mode == "hang" else 30)
    assert serving.port_is_free(port) and not serving._servers


def test_a_port_in_use_a_missing_model_and_a_missing_program_are_named(fake, tmp_path, monkeypatch):
    with answering({"data": []}) as port, pytest.raises(serving.ServerError, match=f"Port {port} is in use"):
        serving.start(fake, port=port)
    with pytest.raises(serving.ServerError, match="no model"):
        serving.start(tmp_path / "nothing")
    with pytest.raises(ValueError, match="transformers, vllm and llama.cpp"):
        serving.start(fake, backend="tgi")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(serving.ServerError, match="`vllm` is not on this machine"):
        serving.start(fake, backend="vllm")


def test_a_failing_cell_stops_the_servers_and_says_so(fake, monkeypatch, capsys):
    import IPython
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    shell.user_ns["model"] = fake
    shell.run_cell("from course_utils import serving; server = serving.start(model, backend='llama.cpp')")
    server = shell.user_ns["server"]
    shell.run_cell("2 + 2")
    assert not serving.port_is_free(server.port)
    shell.run_cell("1 / 0")
    assert serving.port_is_free(server.port)
    assert "1 server(s) were stopped" in capsys.readouterr().out


def test_a_server_ends_with_the_notebook_however_that_ends():
    """The real program watches a pipe; killing the process at its other end must be enough."""
    watcher = "import threading, time; from course_utils import serving; threading.Thread("
    watcher += "target=serving._end_with_parent, daemon=True).start(); print(1, flush=True); time.sleep(60)"
    notebook = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
    notebook += "stdin=subprocess.PIPE, stdout=subprocess.PIPE); p.stdout.readline(); print(p.pid, flush=True); "
    notebook += "time.sleep(60)"
    line = [sys.executable, "-c", notebook, watcher]
    with subprocess.Popen(line, stdout=subprocess.PIPE, cwd=ROOT) as parent:
        pid = int(parent.stdout.readline())
        assert not ended(pid)
        parent.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    deadline = time.monotonic() + 10
    while not ended(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ended(pid)


def test_children_of_a_server_end_with_it():
    nest = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    nest += "print(p.pid, flush=True); p.wait()"
    process = subprocess.Popen([sys.executable, "-c", nest], stdout=subprocess.PIPE)
    with process.stdout:
        pid = int(process.stdout.readline())
    serving.end_tree(process)
    assert ended(pid) and process.poll() is not None
    serving.end_tree(process)  # a second time does no harm


# --- finding others -------------------------------------------------------------------------------------


@contextmanager
def answering(reply, status=200):
    """A server on loopback that answers every GET with `reply`; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(reply).encode() if not isinstance(reply, bytes) else reply
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *parts):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def models(owner, *names):
    return {"object": "list", "data": [{"id": n, "object": "model", "created": 1, "owned_by": owner} for n in names]}


@pytest.mark.parametrize(
    ("owner", "name"), [("library", "Ollama"), ("vllm", "vLLM"), ("llamacpp", "llama.cpp"), ("someone", "guess")]
)
def test_a_server_is_known_by_how_it_signs_its_models(owner, name):
    with answering(models(owner, "qwen2.5:0.5b", "mistral")) as port:
        found = serving.knock("guess", port)
    assert (found.name, found.models, found.note) == (name, ("qwen2.5:0.5b", "mistral"), "")


def test_empty_closed_and_strange_servers_are_told_apart(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # no program is installed
    with answering({"object": "list", "data": None}) as empty, answering({}, status=401) as locked:
        found = serving.find_backends({"Ollama": empty, "vLLM": locked, "llama.cpp": serving.free_port()})
    assert [(one.name, one.note) for one in found] == [("Ollama", "has no model yet"), ("vLLM", "needs a key")]
    with answering(b"<html>a web page</html>") as page:
        assert serving.knock("vLLM", page) is None


def test_installed_programs_are_found_when_nothing_runs(fake):
    found = serving.find_backends({"vLLM": serving.free_port(), "llama.cpp": serving.free_port()})
    assert [(one.name, one.url) for one in found] == [("vLLM", None), ("llama.cpp", None)]
    assert Path(found[0].note.split("`")[1]).name == "vllm"
