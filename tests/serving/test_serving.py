"""Servers that the course starts: they answer, say why they do not, and none outlives its block, cell or notebook."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from course_utils import serving
from course_utils.serving import lifecycle, processes
from course_utils.settings import MODELS, ROOT

# A program that stands in for llama-server and vllm: their published API, and the ways in which they fail.
FAKE = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
mode, key = os.environ.get("FAKE", "ok"), os.environ.get("LLAMA_API_KEY") or os.environ.get("VLLM_API_KEY")
if mode == "die":
    sys.exit("error: unknown model architecture")
if mode == "hang":
    time.sleep(600)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    line = [sys.executable, "-c", "import time; time.sleep(600)"]
    print("child", subprocess.Popen(line, start_new_session=True).pid, flush=True)
asked = [0]
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked[0] += 1
        status = 401 if self.headers["authorization"] != "Bearer " + key else 200
        status = 503 if mode == "loading" and asked[0] < 3 else 400 if mode == "refuse" else status
        message = dict(role="assistant", content="hello from " + wanted["model"] + str(wanted.get("temperature")))
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
print("called with", json.dumps(sys.argv[1:]), flush=True)
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def stand_in(program):
    """Write the stand-in to `program`."""
    program.parent.mkdir(exist_ok=True, parents=True)
    program.write_text(FAKE.replace("{python}", sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """`llama-server` and `vllm` on the path, and a file to serve; set FAKE for the way to fail."""
    for name in ("llama-server", "vllm"):
        stand_in(tmp_path / "bin" / name)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = tmp_path / "toy.gguf"
    model.write_bytes(b"GGUF")
    return model


def called_with(server):
    """The arguments of a stand-in."""
    lines = server.log.read_text().splitlines()
    return json.loads(next(line for line in lines if line.startswith("called with")).removeprefix("called with "))


def ended(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


# --- starting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["llama.cpp", "vllm"])
def test_other_backends_are_started_with_a_key_and_stopped(fake, backend):
    with serving.serve(fake, backend=backend) as server:
        hello = [{"role": "user", "content": "hi"}]
        reply = server.client().chat.completions.create(model=server.model, messages=hello)
        assert reply.choices[0].message.content.startswith(f"hello from {server.model}")
        assert not serving.port_is_free(server.port) and serving.running() == [server]
        assert server.usage() == []  # no gate, no rows
        lines = [line for one in family(server) for line in one.cmdline()]
        assert server.key not in " ".join(lines) and server.key not in repr(server)
    assert serving.port_is_free(server.port) and ended(server.process.pid)
    assert not server.log.parent.exists() and serving.running() == []


def family(server):
    top = psutil.Process(server.process.pid)
    return [top, *top.children(recursive=True)]


def test_llama_cpp_gets_one_thread_for_a_small_model_only(fake, monkeypatch):
    with serving.serve(fake, backend="llama.cpp") as server:
        arguments = called_with(server)
        assert arguments[arguments.index("--threads") + 1] == "1"
    monkeypatch.setattr(lifecycle, "SMALL", 2)
    with serving.serve(fake, backend="llama.cpp") as server:
        assert "--threads" not in called_with(server)


@pytest.mark.parametrize("place", ["named", "beside the script"])
def test_vllm_is_found_in_an_environment_that_is_not_activated(fake, tmp_path, monkeypatch, place):
    """And started as a module, because the script fails with the package for CPUs."""
    if place == "named":
        (tmp_path / "bin" / "vllm").unlink()
        stand_in(tmp_path / "environment" / "bin" / "python")
        monkeypatch.setenv("COURSE_VLLM", str(tmp_path / "environment"))
    else:
        stand_in(tmp_path / "bin" / "python")
    with serving.serve(fake, backend="vllm") as server:
        called = called_with(server)
    assert called[:5] == ["-P", "-m", "vllm.entrypoints.openai.api_server", "--model", "toy.gguf"]


def test_a_failure_inside_the_block_stops_the_server_too(fake):
    with pytest.raises(ZeroDivisionError), serving.serve(fake, backend="llama.cpp") as server:
        raise ZeroDivisionError
    assert serving.port_is_free(server.port) and not serving.running()


def test_a_server_that_is_still_loading_is_waited_for_with_news(fake, monkeypatch, capsys):
    monkeypatch.setenv("FAKE", "loading")
    monkeypatch.setattr(lifecycle, "NEWS", 0.1)
    with serving.serve(fake, backend="llama.cpp", timeout=30) as server:
        assert server.model == "toy"
    assert "llama.cpp is still starting: 0 s of at most 30 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mode", "message"),
    [("die", "unknown model architecture"), ("hang", "not ready after 2 s"), ("refuse", "refuses to answer")],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(fake, tmp_path, monkeypatch, mode, message):
    monkeypatch.setenv("FAKE", mode)
    port = serving.free_port()
    with pytest.raises(serving.ServerError, match=message):
        serving.start(fake, backend="llama.cpp", port=port, timeout=2 if mode == "hang" else 30)
    assert serving.port_is_free(port) and not serving.running()
    assert not list(tmp_path.glob("course-server-*"))


def test_vllm_is_given_three_times_as_long_as_it_took(fake, monkeypatch):
    """On two busy cores it took up to 283 s."""
    assert lifecycle.TIMEOUTS["vllm"] >= 3 * 283
    monkeypatch.setitem(lifecycle.TIMEOUTS, "vllm", 1.5)
    monkeypatch.setenv("FAKE", "hang")
    with pytest.raises(serving.ServerError, match="not ready after 2 s; `timeout` allows more"):
        serving.start(fake, backend="vllm")


def test_a_port_in_use_and_a_missing_program_are_named(fake, tmp_path, monkeypatch):
    with listening() as port, pytest.raises(serving.ServerError, match=f"Port {port} is in use"):
        serving.start(fake, backend="llama.cpp", port=port)
    with pytest.raises(ValueError, match="transformers, vllm and llama.cpp"):
        serving.start(fake, backend="tgi")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(serving.ServerError, match="`vllm` is not on this machine.*COURSE_VLLM"):
        serving.start(fake, backend="vllm")
    monkeypatch.setenv("COURSE_VLLM", str(tmp_path / "nothing"))
    with pytest.raises(serving.ServerError, match="COURSE_VLLM names .*nothing, and there is no Python"):
        serving.start(fake, backend="vllm")
    monkeypatch.setattr("course_utils.models.llama_cpp.is_installed", lambda: False)
    with pytest.raises(serving.ServerError, match="`llama-server` is not on this machine, and the package xllamacpp"):
        serving.start(fake, backend="llama.cpp")


@pytest.mark.parametrize(("backend", "users"), [("llama.cpp", 0), ("llama.cpp", -3), ("transformers", 4), ("vllm", 2)])
def test_users_are_counted_for_llama_cpp_only(fake, backend, users):
    with pytest.raises(ValueError, match="only llama.cpp has to know it"):
        serving.start(fake, backend=backend, users=users)


@contextmanager
def listening():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield one.getsockname()[1]


@pytest.mark.parametrize("port", [-1, 0, 70000, "x", "8000", 8000.0, True])
def test_what_is_no_port_is_refused_in_words(fake, port):
    with pytest.raises(ValueError, match="must be a whole number from 1 to 65535"):
        serving.start(fake, backend="llama.cpp", port=port)
    with pytest.raises(ValueError, match="must be a whole number"):
        serving.port_is_free(port)


def test_a_limit_of_no_requests_is_refused():
    with pytest.raises(ValueError, match="per_minute is 0"):
        serving.start(MODELS / "prisma-lm", per_minute=0)


# --- models that cannot be served -----------------------------------------------------------------------


def saved(folder, **changes):
    """The bundled model's folder with some files changed: text or bytes, None for one that is missing."""
    folder.mkdir()
    for file in (MODELS / "prisma-lm").iterdir():
        content = changes.get(file.name, file.read_bytes())
        if content is not None:
            (folder / file.name).write_bytes(content)
    for name, content in changes.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize("backend", ["transformers", "vllm"])
@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("has no config.json", {"config.json": None}),
        ("config.json cannot be read", {"config.json": b"{"}),
        ("config.json cannot be read", {"config.json": b"\xff\xfe"}),
        ("config.json is no JSON object", {"config.json": b"[]"}),
        ("names no model_type", {"config.json": b"{}"}),
        ("has no tokenizer", {"tokenizer.json": None}),
        ("has no weights", {WEIGHTS: None}),
        ("model.safetensors is not whole", {WEIGHTS: b"version https://git-lfs.github.com/spec/v1\n"}),
        ("model.safetensors is not whole", {WEIGHTS: b""}),
        ("model.safetensors is not whole", {WEIGHTS: (MODELS / "prisma-lm" / WEIGHTS).read_bytes()[:100_000]}),
        (
            "part-2.safetensors is missing",
            {INDEX: b'{"weight_map": {"a": "model.safetensors", "b": "part-2.safetensors"}}'},
        ),
        ("names no weights", {INDEX: b"{}"}),
    ],
)
def test_a_folder_that_cannot_be_served_is_known_at_once(fake, tmp_path, backend, message, changes):
    model = saved(tmp_path / "model", **changes)
    began = time.process_time()  # of this process alone: a crowded machine is not the folder's fault
    with pytest.raises(serving.ServerError, match=message) as error:
        serving.start(model, backend=backend)
    assert time.process_time() - began < 1
    assert len(str(error.value)) < 250 and not list(tmp_path.glob("course-server-*"))


def test_a_wrong_kind_of_model_is_known_at_once(fake, tmp_path):
    with pytest.raises(serving.ServerError, match="no model at"):
        serving.start(tmp_path / "nothing")
    with pytest.raises(serving.ServerError, match="transformers serves the folder"):
        serving.start(fake)
    with pytest.raises(serving.ServerError, match="llama.cpp serves a GGUF file"):
        serving.start(MODELS / "prisma-lm", backend="llama.cpp")
    with pytest.raises(serving.ServerError, match="no GGUF file"):
        serving.start(MODELS / "prisma-lm" / "config.json", backend="llama.cpp")


# --- stopping -------------------------------------------------------------------------------------------


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


# A notebook with a server, and with a worker that it forked and that lives on.
NOTEBOOK = """
import os, signal, sys, time
from pathlib import Path
from course_utils import serving
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
server = serving.start(Path(sys.argv[1]), backend=sys.argv[2])
worker = os.fork()
if not worker:
    time.sleep(200)
    os._exit(0)
print(worker, server.port, server.log.parent, flush=True)
time.sleep(200)
"""


@pytest.mark.parametrize(
    ("way", "mode", "backend"),
    [
        ("SIGKILL", "stubborn", "llama.cpp"),
        ("SIGTERM", "ok", "llama.cpp"),
        ("SIGHUP", "ok", "llama.cpp"),
        ("SIGKILL", "ok", "vllm"),
    ],
)
def test_a_server_ends_with_the_notebook_however_that_ends(fake, monkeypatch, way, mode, backend):
    """Also one that takes no notice of a signal, and what it started, while a worker of the notebook lives on."""
    monkeypatch.setenv("FAKE", mode)
    monkeypatch.setenv("TMPDIR", str(fake.parent))
    line = [sys.executable, "-c", NOTEBOOK, str(fake), backend]
    with subprocess.Popen(line, stdout=subprocess.PIPE, cwd=ROOT, text=True) as notebook:
        worker, port, folder = notebook.stdout.readline().split()
        tree = psutil.Process(notebook.pid).children(recursive=True)
        servers = [one.pid for one in tree if one.pid != int(worker)]
        assert len(servers) == (3 if mode == "stubborn" else 2)
        notebook.send_signal(getattr(signal, way))
    try:
        assert wait_until(lambda: all(ended(pid) for pid in servers))
        assert wait_until(lambda: not Path(folder).exists())
        assert serving.port_is_free(int(port)) and not ended(int(worker))
    finally:
        os.kill(int(worker), signal.SIGKILL)


def test_a_stubborn_server_is_stopped_and_so_is_one_whose_keeper_was_killed(fake, monkeypatch):
    monkeypatch.setenv("FAKE", "stubborn")
    with serving.serve(fake, backend="llama.cpp") as server:
        pids = [one.pid for one in family(server)]
    assert all(map(ended, pids)) and len(pids) == 3
    monkeypatch.setenv("FAKE", "ok")
    with serving.serve(fake, backend="llama.cpp") as server:
        keeper, engine = family(server)
        keeper.kill()
        keeper.wait()
        assert not ended(engine.pid)
    assert ended(engine.pid) and serving.port_is_free(server.port)


def test_folders_of_dead_notebooks_are_removed_at_the_next_start_and_no_others(fake, tmp_path):
    def folder(name, **pids):
        made = tmp_path / f"course-server-{name}"
        made.mkdir()
        marks = {who: [one.pid, one.create_time()] for who, one in pids.items()}
        if marks:
            (made / "owner.json").write_text(json.dumps(marks))
        return made

    me, sleeper = psutil.Process(), psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    dead = psutil.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = folder("gone", notebook=dead, engine=sleeper)
    dead.communicate(b"\n")
    alive, starting = folder("alive", notebook=me, engine=me), folder("starting")
    strange = folder("strange")
    (strange / "owner.json").write_text('{"notebook": "x"}')
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "course-server-link").symlink_to(elsewhere)
    with serving.serve(fake, backend="llama.cpp"):
        left = {path.name for path in tmp_path.glob("course-server-*")}
        assert left >= {alive.name, starting.name, "course-server-link"}
        assert not left & {gone.name, strange.name}
    assert elsewhere.exists() and ended(sleeper.pid)


def test_a_process_of_the_same_number_is_not_the_same_process():
    me = psutil.Process()
    assert processes.find(me.pid, me.create_time()) == me
    assert processes.find(me.pid, me.create_time() - 100) is None


def test_a_forked_worker_does_not_stop_its_parents_servers(fake):
    with serving.serve(fake, backend="llama.cpp") as server:
        worker = os.fork()
        if not worker:
            os._exit(serving.stop_all())
        assert os.waitpid(worker, 0)[1] == 0
        assert not serving.port_is_free(server.port)


def test_children_of_a_server_end_with_it():
    nest = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    nest += "print(p.pid, flush=True); p.wait()"
    process = subprocess.Popen([sys.executable, "-c", nest], stdout=subprocess.PIPE)
    with process.stdout:
        pid = int(process.stdout.readline())
    serving.end_tree(process)
    assert ended(pid) and process.poll() is not None
    serving.end_tree(process)  # a second time does no harm
