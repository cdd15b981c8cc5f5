"""How often an agent is right."""

from collections import Counter
from collections.abc import Sequence

from course_utils.agents.instructions import EXAMPLE_CALLS
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


def fault(task: text.Episode, trace: Trace) -> str:
    """What went wrong in a trace, in a few words: its first cause. "" for the right answer.

    The task's own calls are the measure. Another way to the answer is no fault, as long as the answer is right.
    """
    if text.correct(task.answer, trace.answer):
        return ""
    called = [(step.tool, step.argument.strip()) for step in trace.steps if step.tool]
    if not called:
        return "no call that could be run" if trace.steps else "answered without a tool"
    wanted = [(step.tool, step.argument) for step in task.steps]
    if EXAMPLE_CALLS.intersection(called).difference(wanted):
        return "copied the example"
    if called[0] != wanted[0]:
        return "wrong argument" if called[0][0] == wanted[0][0] else "wrong tool"
    if not trace.answer:
        return f"no answer: {trace.stopped}"
    early = len(called) < len(wanted)
    return "answered too early" if early else "wrong answer from right calls"


def faults(tasks: Sequence[text.Episode], traces: Sequence[Trace]) -> dict[str, int]:
    """How often each fault occurs, most frequent first; right answers are not counted."""
    found = [fault(task, trace) for task, trace in zip(tasks, traces, strict=True)]
    return dict(Counter(name for name in found if name).most_common())
