"""A task queue that prompts itself, after BabyAGI and AutoGPT (both 2023): execute a task, write new ones, sort them.

prisma-lm plays two parts, both of which it was trained for: as a planner it writes the tasks that a question needs, as
an executor it does one task with one tool. Sorting and stopping are a program's work here.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from course_utils.agents.loop import WRITE, Step, Tools, Trace, fits, note, use
from course_utils.prisma import text

if TYPE_CHECKING:
    from course_utils.models.roles import Chat

LAST = "Answer."  # the executor's last task


@dataclass
class Project(Trace):
    """A Trace with the tasks that wait, those that are done (with their results), and the queue's length over time."""

    queue: list[str] = field(default_factory=list)
    done: list[tuple[str, str]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    @property
    def fresh(self) -> int:
        """How many of its calls it had not made before."""
        return len({(step.tool, step.argument) for step in self.steps if step.tool})


# What the planner reads after a task, made of the objective and the last result. "" asks for no new tasks.
Creator = Callable[[str, str], str]


def plan_once(objective: str, result: str) -> str:
    """No new tasks: the first plan has to do."""
    return ""


def from_both(objective: str, result: str) -> str:
    """The objective and the last result, as in BabyAGI."""
    return f"{objective}\n{result}"


def from_result(objective: str, result: str) -> str:
    """The last result alone: the objective is forgotten."""
    return result


def ask(chat: "Chat", project: Trace, prompt: str) -> str:
    """The model's reply, noted in the project's log; "" and the end of the project if its window is full."""
    if not fits(chat, prompt):
        project.stopped = "window full"
        return ""
    reply = chat.complete(prompt, max_new_tokens=WRITE)
    project.log.append((prompt, reply))
    return reply


def plan(chat: "Chat", project: Trace, words: str) -> list[str]:
    """The tasks that the model writes for `words`; lines that are no numbered task are left out."""
    reply = ask(chat, project, text.prompt("planner", words))
    return tasks_in(reply)


def tasks_in(reply: str) -> list[str]:
    """The numbered tasks in a planner's reply."""
    return re.findall(r"^\d+\. (.+)$", reply, re.M)


def call_in(reply: str) -> tuple[str, str] | None:
    """Tool and argument, if an executor's reply is a call and nothing else."""
    call = re.fullmatch(r"Action: (\w+)\[(.*)\]", reply.strip())
    return (call[1], call[2]) if call else None


def execute(chat: "Chat", project: Trace, toolbox: Tools, done: Sequence[tuple[str, str]], task: str) -> Step:
    """Do one task: one call of a tool. An answer comes back as a step without a tool."""
    reply = ask(chat, project, text.executor_prompt(project.question, list(done), task))
    call = call_in(reply)
    if not call:
        return Step(task, "", reply, text.final_answer(reply))
    return Step(task, *call, use(toolbox, *call).text)


def without_repeats(new: Sequence[str], project: Project) -> list[str]:
    """The new tasks that neither wait nor are done, each once."""
    known = {*project.queue, *(task for task, _ in project.done)}
    return [task for task in dict.fromkeys(new) if task not in known]


def run_queue(
    chat: "Chat",
    toolbox: Tools,
    objective: str,
    creator: Creator = plan_once,
    unique: bool = True,
    max_tasks: int = 12,
    max_repeats: int = 1000,
) -> Project:
    """Plan, then do task after task and let the model write new ones, until none is left.

    `unique` refuses tasks that are known already; `max_repeats` equal steps count as a loop
    (`loop.note`).
    """
    project = Project(objective)
    project.queue = plan(chat, project, objective)
    while project.queue and not project.stopped:
        task = project.queue.pop(0)
        step = execute(chat, project, toolbox, project.done, task)
        note(project, step, max_tasks, max_repeats)
        project.done.append((task, step.observation))
        words = creator(objective, step.observation)
        new = plan(chat, project, words) if words and not project.stopped else []
        project.queue += without_repeats(new, project) if unique else new
        project.lengths.append(len(project.queue))
    if not project.stopped:
        project.answer = execute(chat, project, toolbox, project.done, LAST).observation
        project.stopped = project.stopped or "answered"
    return project
