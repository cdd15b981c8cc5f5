"""Starting a model server, and leaving nothing of it behind."""

import atexit
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from course_utils.serving import processes, programs
from course_utils.serving.gate import read_usage
from course_utils.serving.settings import FOLDERS, LOG, LOOPBACK, USAGE
from course_utils.settings import search_path

if TYPE_CHECKING:
    from openai import OpenAI

    from course_utils.models.tiers import Choice

# Bytes of weights under which the threads of one answer would wait for each other longer than they work. On a busy
# two-core machine, two threads took up to a minute for 16 tokens of prisma-lm, one took 80 ms.
SMALL = 200_000_000
TIMEOUTS = {"vllm": 900.0}  # seconds; on two busy cores vLLM took up to 283
TIMEOUT = 300.0
KEEPER = "course_utils.serving.keeper"
SHORTEST_KEY = 16  # characters
NEWS = 60.0  # seconds between two lines about a start that takes long


class ServerError(RuntimeError):
    """A server that did not start, or stopped; the message holds the end of its log."""


@dataclass
class Server:
    """A running model server on loopback. `model` is the name to ask for, `log` the file of its output.

    `process` is its keeper, which has the server as its child.
    """

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
        """The gate's log, oldest first: a row for each answer, without what was asked or answered.

        Refused requests of a kind share a row a second; `count` says how many it stands for.
        """
        return read_usage(self.log.with_name(USAGE))

    def memory(self) -> int:
        """Bytes of memory that the engine and all its processes hold now (resident), without the keeper."""
        keeper = psutil.Process(self.process.pid)
        return sum(process.memory_info().rss for process in keeper.children(recursive=True))

    def metrics(self) -> str:
        """What the server measures of itself at this moment, in Prometheus's text format."""
        import httpx

        headers = {"Authorization": f"Bearer {self.key}"}
        reply = httpx.get(f"{self.url}/metrics", headers=headers, trust_env=False, timeout=30)
        return reply.raise_for_status().text

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def crash(self) -> None:
        """Kill the server at once, as a crash would, without a goodbye; `stop` is needed all the same."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            process.kill()

    def stop(self) -> None:
        """End the server and all that it started; harmless if it has ended already."""
        end_tree(self.process)
        processes.end_engine(self.log.parent)
        shutil.rmtree(self.log.parent, ignore_errors=True)
        _servers.pop(id(self), None)


_servers: dict[int, Server] = {}
_owner = os.getpid()


def running() -> list[Server]:
    """The servers that this process started and has not stopped."""
    # A forked worker inherits the list, and must not end its parent's servers.
    return list(_servers.values()) if os.getpid() == _owner else []


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
    """Whether nobody listens on `port` of this machine. ValueError if it is no port."""
    check_port(port)
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) != 0


def check_port(port: Any) -> None:
    """ValueError unless `port` is one."""
    whole = isinstance(port, int) and not isinstance(port, bool)
    if not whole or not 1 <= port <= 65535:
        raise ValueError(f"port is {port!r}, and must be a whole number from 1 to 65535. Leave it out for a free one.")


def check_key(key: str) -> None:
    """ValueError unless `key` can travel in a header and is not guessed in a moment."""
    plain = key.isascii() and key.isprintable() and " " not in key
    if not plain or len(key) < SHORTEST_KEY:
        raise ValueError(
            f"A key has at least {SHORTEST_KEY} letters, digits or signs and no spaces: `secrets.token_urlsafe(24)` "
            "makes one."
        )


def start(
    model: Path,
    *,
    backend: str = "transformers",
    port: int | None = None,
    timeout: float | None = None,
    batching: bool = False,
    nf4: bool = False,
    per_minute: int = 600,
    users: int = 1,
    key: str | None = None,
) -> Server:
    """Start a server for the folder (or GGUF file) `model`; it has answered once when this returns.

    Its key is a random one, or `key`: replicas behind a balancer share one.

    For transformers only: `batching` turns on continuous batching, `nf4` quantises to 4 bits while loading,
    `per_minute` limits the requests. For llama.cpp only: so many `users` are answered at once, and memory for a
    whole conversation of each is set aside; others wait.
    ServerError if the model cannot be served, the program is missing, ends, finds its port in use, or is not ready
    after `timeout` seconds (300; for vLLM 900); nothing is left behind then. In a notebook, a failing cell stops
    all servers too. ValueError for a port or a limit that is none.
    """
    model = Path(model).resolve()
    processes.sweep()
    if port is not None:
        check_port(port)
    if per_minute < 1:
        raise ValueError(f"per_minute is {per_minute}, and must be 1 or more.")
    if users != 1 and (backend != "llama.cpp" or users < 1):
        raise ValueError(f"users is {users}, and must be 1 or more, and only llama.cpp has to know it beforehand.")
    if key is not None:
        check_key(key)
    program = programs.find(backend)
    try:
        programs.check_model(model, backend)
    except programs.Unservable as error:
        raise ServerError(str(error)) from None
    if program is None:
        raise ServerError(f"{programs.missing(backend)} The backend transformers is always there.")
    port = port or free_port()
    if not port_is_free(port):
        raise ServerError(f"Port {port} is in use: stop what listens there, or leave the port out.")
    options = ["--per-minute", str(per_minute), *["--batching"] * batching, *["--nf4"] * nf4]
    server = _launch(program, backend, port, model, options, users, key or secrets.token_urlsafe(24))
    try:
        _wait(server, timeout or TIMEOUTS.get(backend, TIMEOUT))
    except BaseException:
        server.stop()
        raise
    return server


def _launch(
    program: list[str], backend: str, port: int, model: Path, options: list[str], users: int, key: str
) -> Server:
    """Start a keeper, which starts the server."""
    folder = Path(tempfile.mkdtemp(prefix=FOLDERS))
    small = _weight_bytes(model) < SMALL
    line, name, variable = programs.command(backend, program, model, port, small, users)
    if backend == "transformers":
        # 16-bit sums would turn a close choice of a small model; in 32 bits it answers as in llama.cpp, no slower.
        line += [*options, *["--exact"] * small, "--usage", str(folder / USAGE)]
    environment = surroundings(small) | {variable: key}
    # The model's name is a path to these servers: from its own folder, the short name is enough.
    process = keep(folder, line, environment, model.parent)
    server = Server(backend, f"http://{LOOPBACK}:{port}", name, key, folder / LOG, process)
    _servers[id(server)] = server
    _watch_cells()
    return server


def keep(folder: Path, line: list[str], environment: dict[str, str], place: Path) -> subprocess.Popen:
    """Start a program in the folder `place`, under a keeper that ends it when this process has ended.

    `folder` is the program's own, and goes with it; what it says is there, in LOG.
    """
    me = psutil.Process()
    # -P: the folder of models, which the server starts in, is no place to import from.
    keeping = [sys.executable, "-P", "-m", KEEPER, str(folder), str(me.pid), str(me.create_time())]
    try:
        return _in_background([*keeping, *line], folder / LOG, environment, place)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def kept(
    folder: Path, line: list[str], environment: dict[str, str] | None = None, place: Path | None = None
) -> Iterator[subprocess.Popen]:
    """A program under a keeper until the end of the block; then it is ended, and its `folder` removed.

    It starts in `place` (None: in its folder) with `environment` (None: `surroundings`).
    """
    process = keep(folder, line, environment or surroundings(small=False), place or folder)
    try:
        yield process
    finally:
        end_tree(process)
        shutil.rmtree(folder, ignore_errors=True)


def _in_background(line: list[str], log: Path, environment: dict[str, str], place: Path) -> subprocess.Popen:
    """Start a program in the folder `place`; what it says goes to `log`."""
    with log.open("wb") as output:
        return subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=place,
            **_apart(),
        )


def _apart() -> dict[str, Any]:
    """What keeps a terminal's Ctrl-C and hang-up from the keeper, which ends in its own order."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def surroundings(small: bool) -> dict[str, str]:
    """The environment of a server; a `small` model gets one thread."""
    environment = programs.DEFAULTS | os.environ | {"PYTHONPATH": search_path(), "HF_HUB_OFFLINE": "1"}
    if small:
        environment["OMP_NUM_THREADS"] = "1"
    return environment


def _weight_bytes(model: Path) -> int:
    files = model.glob("*.safetensors") if model.is_dir() else [model]
    return sum(file.stat().st_size for file in files)


def _wait(server: Server, timeout: float) -> None:
    """Return once the server has answered a real question: one that listens may still be loading."""
    began, ask = time.monotonic(), server.client(timeout=timeout)
    told = began
    while True:
        if server.process.poll() is not None:
            raise ServerError(f"The server ended while starting. {tail(server.log)}")
        now = time.monotonic()
        if now - began > timeout:
            words = tail(server.log)
            raise ServerError(f"The server was not ready after {timeout:.0f} s; `timeout` allows more. {words}")
        if now - told > NEWS:
            told = now
            print(f"{server.backend} is still starting: {now - began:.0f} s of at most {timeout:.0f} s.")
        if not port_is_free(server.port) and _answers(server, ask):
            return
        time.sleep(0.1)


def _answers(server: Server, ask: "OpenAI") -> bool:
    """Whether the server answers a question. ServerError if it never will."""
    from openai import OpenAIError

    hello = [{"role": "user", "content": "hello"}]
    try:
        ask.chat.completions.create(model=server.model, messages=hello, max_tokens=1, temperature=0)
        return True
    except OpenAIError as error:  # loading answers 503, a half-open port resets
        status = getattr(error, "status_code", 503)
        # The gate's 500 is the model's own failure, which another question does not mend.
        waits = {502, 503} if server.backend == "transformers" else {500, 502, 503}
        if status not in waits:
            raise ServerError(f"The server refuses to answer: {error}. {tail(server.log)}") from error
    return False


def tail(log: Path, lines: int = 8) -> str:
    """The end of what a program said, as a sentence for an error."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    last = text.strip().splitlines()[-lines:]
    return "Its last words:\n" + "\n".join(last) if last else "It said nothing."


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
    if process.poll() is None:  # once it was collected, its number may be another's
        with suppress(psutil.NoSuchProcess):
            processes.end(processes.family_of(psutil.Process(process.pid)), patience)
    if process.stdin:
        process.stdin.close()
    process.wait()


def stop_all() -> int:
    """Stop every server that this process started; how many there were."""
    servers = running()
    for server in servers:
        server.stop()
    return len(servers)


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
    from course_utils.models import bundled, downloads

    if choice.tier != "bundled":
        try:
            return downloads.fetch(choice.model, say), choice.model.quantise == "nf4"
        except downloads.DownloadError as error:
            say(f"{choice.model.id} is not available, because {error.problem}.")
            say(f"  Served instead: prisma-lm, which knows Prisma only. To get the better one: {error.cure}")
    return bundled.verify("prisma-lm"), False
