"""A real Prometheus that watches a server of ours, where the program is on this machine.

with watch(server) as prometheus:
    ...
    prometheus.ask("sum(rate(server_tokens_total[30s]))")
"""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from course_utils.serving import lifecycle
from course_utils.serving.settings import FOLDERS, LOG, LOOPBACK

PROGRAM = "prometheus"
PATIENCE = 60.0  # seconds in which it must be ready


@dataclass
class Prometheus:
    """A Prometheus that runs on loopback. `process` is its keeper."""

    url: str
    process: subprocess.Popen = field(repr=False)

    def ask(self, question: str) -> list[tuple[dict[str, str], float]]:
        """The rows that answer a question in PromQL: labels and value. ValueError if Prometheus refuses it."""
        reply = _get(f"{self.url}/api/v1/query", {"query": question})
        told = reply.json()
        if told.get("status") != "success":
            raise ValueError(f"Prometheus refuses {question!r}: {told.get('error')}")
        return [(row["metric"], float(row["value"][1])) for row in told["data"]["result"]]

    def scrapes(self) -> int:
        """How often it has read the server's metrics so far."""
        rows = self.ask("count_over_time(up[1h])")
        return round(sum(value for _, value in rows))

    def wait_for_scrapes(self, more: int = 2, timeout: float = 60.0) -> None:
        """Return when it has read the metrics `more` times more. TimeoutError after `timeout` seconds."""
        wanted = self.scrapes() + more
        deadline = time.monotonic() + timeout
        while self.scrapes() < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Prometheus has not read the metrics {more} times in {timeout:g} s.")
            time.sleep(0.2)


def is_installed() -> bool:
    """Whether the program `prometheus` is on this machine."""
    return shutil.which(PROGRAM) is not None


def configuration(server: lifecycle.Server, key_file: Path, every: int = 1) -> str:
    """What Prometheus reads at its start: whom to ask, how often (seconds), with which key. JSON is YAML."""
    access = {"type": "Bearer", "credentials_file": str(key_file)}
    target = {"targets": [f"{LOOPBACK}:{server.port}"]}
    job = {"job_name": server.model, "authorization": access, "static_configs": [target]}
    times = {"scrape_interval": f"{every}s", "scrape_timeout": f"{every}s"}
    return json.dumps({"global": times, "scrape_configs": [job]}, indent=2)


@contextmanager
def watch(server: lifecycle.Server, every: int = 1) -> Iterator[Prometheus]:
    """Let Prometheus read the server's metrics every few seconds until the end of the block; it ends with this process.

    FileNotFoundError if it is not installed, TimeoutError if it does not become ready.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise FileNotFoundError("Prometheus is not on this machine; on Debian and Ubuntu its package is `prometheus`.")
    folder = Path(tempfile.mkdtemp(prefix=FOLDERS))  # nobody else may look into it
    key_file, settings = folder / "key", folder / "prometheus.yml"
    key_file.write_text(server.key, "utf-8")
    settings.write_text(configuration(server, key_file, every), "utf-8")
    port = lifecycle.free_port()
    named = {"config.file": settings, "storage.tsdb.path": folder / "data", "web.listen-address": f"{LOOPBACK}:{port}"}
    line = [program, *[f"--{name}={value}" for name, value in named.items()]]
    with lifecycle.kept(folder, line) as process:
        prometheus = Prometheus(f"http://{LOOPBACK}:{port}", process)
        _wait(prometheus, folder / LOG)
        yield prometheus


def _wait(prometheus: Prometheus, log: Path) -> None:
    """Return when Prometheus says that it is ready. TimeoutError with its last words if it never is."""
    import httpx

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and prometheus.process.poll() is None:
        try:
            if _get(f"{prometheus.url}/-/ready", {}).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"Prometheus did not become ready. {lifecycle.tail(log)}")


def _get(url: str, parameters: dict[str, str]):
    import httpx

    return httpx.get(url, params=parameters, trust_env=False, timeout=10)
