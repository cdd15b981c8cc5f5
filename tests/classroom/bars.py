"""Grade a class of thirty: all exercises of all units, at most 90 s and 2 GiB on two cores. Run by hand:

    python tests/classroom/bars.py [SUBMISSIONS]

The answers are the right ones in other styles and the planted mistakes of tests/exercises, each in a notebook of its
own; thirty students have nearly all of them. It says how long it took, how much memory all processes had together at
most, and what was judged otherwise than it should be.
"""

import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import handed_in
import psutil

from course_utils.classroom.grading import grading
from course_utils.classroom.grading.results import Result
from course_utils.exercises import registry
from course_utils.models import offline

SEED = 7
JOBS = 2


def main(students: int) -> None:
    """Grade a class, and print what it took."""
    offline.close_sockets()
    with tempfile.TemporaryDirectory(prefix="course-bars-") as folder:
        source, out = Path(folder) / "class", Path(folder) / "graded"
        wanted = hand_in(source, students)
        watch = Watch()
        start = time.monotonic()
        results = grading.grade(source, out, JOBS, SEED, lambda line: print(f"\r{line:60}", end="", flush=True))
        seconds = time.monotonic() - start
        watch.ended = True
    used = sum(os.times()[:4])
    memory = f"{watch.most / 2**30:.2f} GiB at most"
    print(f"\n{students} submissions, {JOBS} at a time: {seconds:.0f} s, {used:.0f} s of CPU, {memory}")
    for line in faults(results, wanted):
        print(line)


def hand_in(folder: Path, students: int) -> dict[tuple[str, str], str]:
    """Write the notebooks of a class. What is wanted by student and exercise: words of a diagnosis, "" for a pass."""
    answers = defaultdict(list)
    for name, cells in handed_in.right_answers():
        answers[name].append((cells, ""))
    for name, cells, words in handed_in.planted_mistakes():
        answers[name].append((cells, words))
    wanted = {}
    for number in range(students):
        student = f"student{number:03}"
        for name in registry.exercises():
            cells, words = answers[name][number % len(answers[name])]
            wanted[student, name] = words
            handed_in.save(folder / student / f"{name}.ipynb", cells)
    return wanted


def faults(results: list[Result], wanted: dict[tuple[str, str], str]) -> list[str]:
    """A line for each verdict that is another than it should be, and the numbers."""
    lines, diagnosed, mistakes = [], 0, 0
    for result in results:
        for name, verdict in result.verdicts.items():
            words = wanted[result.student, name]
            mistakes += bool(words)
            diagnosed += bool(words) and words in " ".join(verdict.words.split())
            if verdict.status != ("not yet" if words else "passed"):
                lines.append(f"{result.student} {name}: {verdict.status}, wanted {words or 'passed'}: {verdict.words}")
    return [*lines, f"{len(lines)} wrong verdicts; {diagnosed} of {mistakes} mistakes with the diagnosis wanted"]


class Watch(threading.Thread):
    """Looks at the memory of this process and all below it; `most` is in bytes, shared pages counted once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.ended = 0, False
        self.start()

    def run(self) -> None:
        own = psutil.Process()
        while not self.ended:
            self.most = max(self.most, sum(map(_memory, [own, *own.children(recursive=True)])))
            time.sleep(0.5)


def _memory(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.Error:  # it has ended
        return 0
    return getattr(memory, "pss", memory.rss)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
