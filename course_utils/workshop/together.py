"""Several notebooks at once, each watched by a process of its own: `course run --jobs 2`.

A kernel's family is told from other processes by whose child an orphan becomes (`processes.Family`), so one process
can watch one kernel only. This module is both sides: `run` hands notebooks out, and `python -m` of it runs one.

What is to be done goes through the child's standard input, as one line of JSON, and what happens comes back through
its standard output, a line each. When its input ends, the child stops its kernel and ends: so nothing is left running
when Ctrl-C comes, nor when the process that hands out is killed.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

from course_utils import settings
from course_utils.workshop import runner

# What these notebooks show is time: they run alone, or they would measure their neighbour.
MEASURE_TIME = {
    "7.1_lab_generative_families",
    "7.2_agents_in_production",
    "7.2_lab_protocols",
    "7.2_lab_retrieval",
    "7.2_lab_tools_with_hands",
    "7.3_efficiency",
    "7.3_lab_faster_and_larger",
    "7.3_lab_other_architectures",
    "7.3_research_directions",
    "7.4_in_production",
    "7.4_lab_hosted_apis",
    "7.4_lab_larger_than_memory",
    "7.4_lab_replicas",
    "7.4_self_hosting",
    "7.5_finetuning_choices",
    "7.5_lab_other_peft",
    "7.5_lab_reinforcement_learning",
    "7.5_lab_scale_out",
    "7.5_lab_share_and_serve",
}
SECONDS_TO_STOP = 60  # a child kills its kernel and what that has started

Told = Callable[[int, int], None]  # (cells done, cells in all)
Place = tuple[str, Path, float, Path]  # tier, folder of the pages, limit in seconds, scratch folder of the run


@dataclass(frozen=True)
class Errand:
    """One notebook to run, where its page goes, and the scratch folder of the whole run."""

    path: str
    tier: str
    out: str
    limit: float
    space: str


def rounds(paths: Sequence[Path], jobs: int) -> Iterator[tuple[list[Path], int]]:
    """What runs at once: first those that may, `jobs` at a time; then each that measures time, alone."""
    side_by_side = [path for path in paths if path.stem not in MEASURE_TIME]
    yield side_by_side, jobs
    for path in paths:
        if path.stem in MEASURE_TIME:
            yield [path], 1


class Crew:
    """The children that run notebooks now; `stop` ends all of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen] = set()
        self._stopping = False

    def work(self, errand: Errand, jobs: int, told: Told) -> runner.Result:
        """Runs one notebook in a child and waits for its result; `told` hears of each cell."""
        log = Path(errand.space) / f"{Path(errand.path).stem}.log"
        with log.open("w", encoding="utf-8") as said:
            child = self._start(errand, jobs, said)
            try:
                result = _listen(child.stdout, told)
            finally:
                self._end(child)
        if result is not None:
            return result
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
        cause = f"its process ended without a result (exit code {child.returncode}). {' '.join(last)}".strip()
        return runner.Result(Path(errand.path).stem, errand.tier, failure=runner.Failure(0, "", cause))

    def _start(self, errand: Errand, jobs: int, said: object) -> subprocess.Popen:
        """A child with its errand. Ctrl-C in the terminal does not reach it: its input ends instead."""
        apart = {"start_new_session": True}
        if os.name == "nt":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        command = [sys.executable, "-m", "course_utils.workshop.together"]
        with self._lock:
            if self._stopping:
                raise KeyboardInterrupt
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                encoding="utf-8",
                cwd=settings.ROOT,
                env=os.environ | _threads(jobs),
                **apart,
            )
            self._children.add(child)
        child.stdin.write(json.dumps(asdict(errand)) + "\n")
        child.stdin.flush()
        return child

    def _end(self, child: subprocess.Popen) -> None:
        """Lets go of a child, and waits until it has tidied up."""
        _close(child)
        try:
            child.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()
        with self._lock:
            self._children.discard(child)

    def stop(self) -> None:
        """Every child stops its kernel and ends; no other is started."""
        with self._lock:
            self._stopping = True
            children = list(self._children)
        for child in children:
            _close(child)


def _close(child: subprocess.Popen) -> None:
    """Ends a child's input."""
    try:
        child.stdin.close()
    except OSError:  # the child is gone
        return


def _threads(jobs: int) -> dict[str, str]:
    """The kernels share the cores: more threads than cores make all of them slower."""
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}


def _listen(lines: Iterable[str], told: Told) -> runner.Result | None:
    """Passes on what a child says until it ends; its result, None if it gave none."""
    result = None
    for line in lines:
        news = json.loads(line)
        if "cells" in news:
            told(*news["cells"])
        else:
            result = runner.Result(**news["result"])
    if result is not None and result.failure:
        result.failure = runner.Failure(**result.failure)
    return result


def run(paths: Sequence[Path], jobs: int, place: Place, told: Callable[[Path], Told]) -> Iterator[runner.Result]:
    """Runs `paths`, `jobs` at a time, and yields each result as it comes. `told(path)` hears of its cells.

    Ctrl-C stops all that run, waits until they have ended, and is passed on.
    """
    crew = Crew()
    pool = ThreadPoolExecutor(jobs)
    pending = {pool.submit(crew.work, _errand(path, place), jobs, told(path)) for path in paths}
    try:
        while pending:
            # A wait without an end would not hear Ctrl-C on Windows.
            finished, pending = wait(pending, runner.SAMPLE_EVERY, FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        with runner.deaf_to_interrupts():
            crew.stop()
            pool.shutdown(cancel_futures=True)


def _errand(path: Path, place: Place) -> Errand:
    tier, out, limit, space = place
    return Errand(str(path.resolve()), tier, str(out.resolve()), limit, str(space))


# ---------------------------------------------------------------- in the child


def main() -> None:
    """Runs the notebook that standard input names; says on standard output what happens."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background makes its children deaf to it
    errand = Errand(**json.loads(sys.stdin.readline()))
    news = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no news

    def tell(**what: object) -> None:
        print(json.dumps(what), file=news, flush=True)

    def told(begun: int, cells: int) -> None:
        tell(cells=(begun, cells))

    threading.Thread(target=_until_input_ends, daemon=True).start()
    place = (errand.tier, Path(errand.out), errand.limit, Path(errand.space))
    result = runner.run_one(Path(errand.path), *place, told)
    tell(result=asdict(result))


def _until_input_ends() -> None:
    """Ctrl-C for this process, as soon as nobody holds the other end of its input."""
    while os.read(sys.stdin.fileno(), 1):  # not through sys.stdin, whose lock Python wants when it ends
        pass
    _thread.interrupt_main()


if __name__ == "__main__":
    main()
