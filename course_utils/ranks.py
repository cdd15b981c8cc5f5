"""Several processes that compute together on this machine: starting, meeting, ending. Loopback only.

    reports = ranks.launch("course_utils.research.sharding", ["zero-1"])   # here
    with ranks.meeting() as (rank, processes): ...                         # in the module's `main`

A process tells its result as JSON in the last line that it prints.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from course_utils.models.hardware import loopback
from course_utils.settings import search_path

TIMEOUT = 300  # seconds for all of them


class RanksError(RuntimeError):
    """A process failed or hung; the message holds the end of its log."""


def launch(
    module: str,
    arguments: Sequence[str],
    processes: int = 2,
    timeout: float = TIMEOUT,
    environment: Mapping[str, str] | None = None,
) -> list[Any]:
    """Run `python -m module arguments` in several processes that know of each other; what each reports, by rank.

    The usual way is `torchrun --nproc_per_node 2 ...`: it sets the same two numbers, RANK and WORLD_SIZE. It also
    opens a port for everybody on the network, and this does not. `environment` is added to what they are given.
    RanksError if one fails or the time is over. No process is left, whatever happens here: they are ended after an
    interrupt, and end by themselves if this process is gone.
    """
    if processes < 1:
        raise ValueError(f"at least one process is needed, not {processes}")
    with tempfile.TemporaryDirectory(prefix="course-ranks-") as name, ExitStack() as stack:
        folder, line = Path(name), [sys.executable, "-m", module, *arguments]
        running: list[subprocess.Popen] = []
        stack.callback(_end, running)
        for rank in range(processes):
            running.append(_start(line, rank, processes, folder, environment or {}))
        _wait(running, folder, time.monotonic() + timeout)
        return [_report(folder, rank) for rank in range(processes)]


def _start(
    line: list[str], rank: int, processes: int, folder: Path, environment: Mapping[str, str]
) -> subprocess.Popen:
    settings = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    settings |= {"COURSE_MEETING": (folder / "meeting").as_uri(), "PYTHONPATH": search_path()}
    settings |= {"GLOO_SOCKET_IFNAME": loopback(), "HF_HUB_OFFLINE": "1", **environment}
    with (folder / f"{rank}.out").open("wb") as out, (folder / f"{rank}.log").open("wb") as log:
        # Nothing is written to its input. It ends when this process does, however that ends.
        return subprocess.Popen(line, env=os.environ | settings, stdin=subprocess.PIPE, stdout=out, stderr=log)


def _end(running: Sequence[subprocess.Popen]) -> None:
    for process in running:
        process.kill()
    for process in running:
        process.wait()
        process.stdin.close()


def _wait(running: Sequence[subprocess.Popen], folder: Path, end: float) -> None:
    """Return when all have ended well. If one fails, the others would wait for it for ever: do not."""
    while True:
        states = [process.poll() for process in running]
        failed = [rank for rank, state in enumerate(states) if state]
        waiting = [rank for rank, state in enumerate(states) if state is None]
        if failed:
            raise RanksError(_last_words(folder, failed[0], len(running), "failed"))
        if not waiting:
            return
        if time.monotonic() > end:
            raise RanksError(_last_words(folder, waiting[0], len(running), "was not ready in time"))
        time.sleep(0.05)


def _last_words(folder: Path, rank: int, processes: int, what: str) -> str:
    log = (folder / f"{rank}.log").read_text("utf-8", errors="replace")
    tail = log.strip().splitlines()[-8:]
    return f"Process {rank} of {processes} {what}. Its last words:\n" + "\n".join(tail)


def _report(folder: Path, rank: int) -> Any:
    lines = (folder / f"{rank}.out").read_text("utf-8").splitlines()
    if not lines:
        raise RanksError(f"Process {rank} ended without a report.")
    return json.loads(lines[-1])


# ---------------------------------------------------------------- in such a process


@contextmanager
def meeting(backend: str = "gloo") -> Iterator[tuple[int, int]]:
    """Inside, torch.distributed works. Gives this process's rank, and how many there are.

    They find each other through a file: no port is open beyond loopback.
    """
    import torch.distributed as dist

    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = os.environ["COURSE_MEETING"]
    dist.init_process_group(backend, place, timedelta(seconds=120), processes, rank)
    try:
        yield rank, processes
    finally:
        dist.destroy_process_group()


def _end_with_the_parent() -> None:
    """Wait until nobody holds the other end of the input any more."""
    while os.read(0, 1):  # not by sys.stdin, whose lock a thread may not hold when Python ends
        pass
    os._exit(3)
