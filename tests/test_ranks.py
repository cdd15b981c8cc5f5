"""Processes that compute together: they report, they fail aloud, and none outlives whoever started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from course_utils import ranks
from course_utils.settings import search_path

ADDING = """
import json
import psutil
import torch, torch.distributed as dist
from course_utils import ranks
with ranks.meeting() as (rank, processes):
    number = torch.tensor([rank + 1.0])
    dist.all_reduce(number)
    own = psutil.Process()
    connections = getattr(own, "net_connections", None) or own.connections
    mine = [c.laddr.ip for c in connections() if c.status == "LISTEN"]
print(json.dumps([rank, processes, number.item(), mine]))
"""
WAITING = """
import time
from course_utils import ranks
with ranks.meeting():
    time.sleep(120)
"""
# A job in the background of a shell is born deaf to Ctrl-C: so the parent listens anew.
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
STARTING = f"{LISTENING}; from course_utils import ranks; ranks.launch('program', [])"


@pytest.fixture
def program(tmp_path: Path, monkeypatch):
    """Writes the module that the processes run."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    def write(code: str) -> None:
        (tmp_path / "program.py").write_text(code)

    return write


def test_they_meet_on_loopback_and_report_by_rank(program) -> None:
    program(ADDING)
    reports = ranks.launch("program", [], processes=2)
    assert [report[:3] for report in reports] == [[0, 2, 3.0], [1, 2, 3.0]]
    listening = {place for report in reports for place in report[3]}
    assert listening <= {"127.0.0.1", "::1"}


def test_a_failure_brings_its_last_words(program) -> None:
    program("import os, time\nif os.environ['RANK'] == '1': raise SystemExit('no bread today')\ntime.sleep(60)\n")
    began = time.monotonic()
    with pytest.raises(ranks.RanksError, match=r"Process 1 of 2 failed(.|\n)*no bread today"):
        ranks.launch("program", [])
    assert time.monotonic() - began < 30


def test_time_is_limited_and_a_missing_report_is_named(program) -> None:
    program("import time\ntime.sleep(60)\n")
    with pytest.raises(ranks.RanksError, match="not ready in time"):
        ranks.launch("program", [], timeout=0.5)
    program("pass\n")
    with pytest.raises(ranks.RanksError, match="without a report"):
        ranks.launch("program", [])
    with pytest.raises(ValueError, match="at least one process"):
        ranks.launch("program", [], processes=0)


def children_of(pid: int, wanted: int) -> list[psutil.Process]:
    """The processes that `pid` started, once there are so many and they have had time to meet."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        children = psutil.Process(pid).children()
        if len(children) == wanted and all(len(child.threads()) > 2 for child in children):
            return children
        time.sleep(0.2)
    raise AssertionError("the processes did not start")


@pytest.mark.skipif(os.name == "nt", reason="signals of this kind are not Windows'")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_none_outlives_an_interrupt_or_the_death_of_the_parent(program, how: int) -> None:
    program(WAITING)
    settings = os.environ | {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], search_path()])}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    parent = subprocess.Popen([sys.executable, "-c", STARTING], env=settings, **quiet)
    children = []
    try:
        children = children_of(parent.pid, 2)
        parent.send_signal(how)
        parent.wait(30)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
    finally:
        parent.kill()
        for child in children:
            if child.is_running():
                child.kill()
