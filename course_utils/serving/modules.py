"""Starting a module of the course as a server in a process of its own, which ends with the notebook at the latest."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from course_utils.serving.lifecycle import ServerError, kept, port_is_free, surroundings, tail
from course_utils.serving.settings import FOLDERS, LOG
from course_utils.settings import ROOT

TIMEOUT = 240.0  # seconds until it listens


@contextmanager
def running(module: str, arguments: Sequence[str], port: int, environment: dict[str, str]) -> Iterator[None]:
    """`python -m module arguments`, listening on `port` of this machine; it ends with the block.

    `environment` is added to ours: keys belong there, because everybody on a machine can read a command line.
    ServerError if it ends or does not listen.
    """
    folder = Path(tempfile.mkdtemp(prefix=FOLDERS))
    line = [sys.executable, "-m", module, *arguments]
    with kept(folder, line, surroundings(small=True) | environment, ROOT) as process:
        _wait(process, port, folder / LOG)
        yield


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    began = time.monotonic()
    while port_is_free(port):
        waited = time.monotonic() - began
        if process.poll() is not None or waited > TIMEOUT:
            raise ServerError(f"Nobody listens on port {port} after {waited:.0f} s. {tail(log)}")
        time.sleep(0.1)
