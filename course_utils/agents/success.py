"""How often an agent is right."""

from collections.abc import Sequence

from course_utils.agents.loop import Trace
from course_utils.measures import Measure, share
from course_utils.prisma import text


def success(tasks: Sequence[text.Episode], traces: Sequence[Trace]) -> Measure:
    """The share of tasks whose answer is exactly right, with Wilson's 95 % interval."""
    return share(outcomes(tasks, traces))


def outcomes(tasks: Sequence[text.Episode], traces: Sequence[Trace]) -> list[bool]:
    """For each task whether its trace ends with the right answer."""
    return [text.correct(task.answer, trace.answer) for task, trace in zip(tasks, traces, strict=True)]


def by_kind(tasks: Sequence[text.Episode], runs: dict[str, Sequence[Trace]]) -> list[dict]:
    """Rows of a table: for each kind of task how many there are and how many each run got right."""
    right = {name: outcomes(tasks, traces) for name, traces in runs.items()}
    kinds = dict.fromkeys(task.kind for task in tasks)
    rows = []
    for kind in kinds:
        places = [i for i, task in enumerate(tasks) if task.kind == kind]
        row = {"kind": kind, "tasks": len(places)}
        for name, marks in right.items():
            row[name] = sum(marks[i] for i in places)
        rows.append(row)
    return rows
