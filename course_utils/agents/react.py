"""ReAct (Yao et al. 2022, arXiv 2210.03629): thought, action, observation; and no tools at all beside it."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from course_utils.agents.instructions import beginning, opening
from course_utils.agents.loop import Step, Tools, Trace, note, think, use
from course_utils.models.inputs import as_texts
from course_utils.prisma import text

if TYPE_CHECKING:
    from course_utils.models.roles import Chat


def run_react(
    chat: "Chat",
    toolbox: Tools,
    question: str,
    max_steps: int = 8,
    max_repeats: int = 3,
) -> Trace:
    """One agent: reason, act, observe, until it answers or is stopped (ReAct, arXiv 2210.03629)."""
    trace = Trace(question, opening(chat, "react", question))
    while not trace.stopped:
        [reply] = turns(chat, [trace])
        act(trace, reply, toolbox, max_steps, max_repeats)
    return trace


def act(trace: Trace, reply: str, toolbox: Tools, max_steps: int, max_repeats: int) -> None:
    """Do what the reply says, and write down what the tool answers for the next turn to read."""
    thought, kind, rest = read_reply(reply)
    if kind == "Answer":
        trace.answer, trace.stopped = text.final_answer(rest), "answered"
    elif not reply.strip():
        trace.stopped = trace.stopped or "nothing written"
    else:
        call = re.fullmatch(r"`?(\w+)\[(.*)\]`?\.?", rest) if kind == "Action" else None
        tool, argument = call.groups() if call else ("", rest)
        seen = use(toolbox, tool, argument).text if call else "error: write Action: tool[argument]"
        trace.prompt += f"{first_turn(reply)}\nObservation: {seen}\n"
        note(trace, Step(thought, tool, argument, seen), max_steps, max_repeats)


def turns(chat: "Chat", traces: Sequence[Trace]) -> list[str]:
    """What each agent writes next: a thought with an action, or an answer.

    A general model that stops after its thought is asked once more, for the action alone, as in the code of ReAct's
    authors. prisma-lm is not: it learned whole turns.
    """
    begin = beginning(chat, "react")
    replies = think(chat, traces, begin=begin)
    if not begin:
        return replies
    halves = [i for i, reply in enumerate(replies) if reply.strip() and not read_reply(reply)[1]]
    for i in halves:
        half = replies[i].rstrip()
        [whole] = think(chat, [traces[i]], begin=f"{half}\nAction:")
        replies[i] = "" if traces[i].stopped else whole or half
    return replies


def read_reply(reply: str) -> tuple[str, str, str]:
    """The thought; which line comes first, "Action" or "Answer" ("" for none); and the rest of that line."""
    thought = re.search(r"^\s*Thought:(.*)$", reply, re.M)
    line = re.search(r"^\s*(Action|Answer):(.*)$", reply, re.M)
    kind, rest = line.groups() if line else ("", reply)
    return thought.group(1).strip() if thought else "", kind, rest.strip()


def first_turn(reply: str) -> str:
    """A reply up to its first action: what a model writes after that it made up, as it had seen no result."""
    action = re.search(r"^\s*Action:.*$", reply, re.M)
    return reply[: action.end()].rstrip() if action else reply.rstrip()


def run_many(
    chat: "Chat", toolbox: Tools, questions: Sequence[str], max_steps: int = 8, max_repeats: int = 3
) -> list[Trace]:
    """`run_react` for many questions: all agents take their turns together, so the model works in batches."""
    questions = as_texts(questions, "questions")
    traces = [Trace(question, opening(chat, "react", question)) for question in questions]
    while going := [trace for trace in traces if not trace.stopped]:
        for trace, reply in zip(going, turns(chat, going), strict=True):
            act(trace, reply, toolbox, max_steps, max_repeats)
    return traces


def run_direct(chat: "Chat", questions: Sequence[str]) -> list[Trace]:
    """The same model without tools: one prompt, one answer."""
    questions = as_texts(questions, "questions")
    traces = [Trace(question, opening(chat, "direct", question)) for question in questions]
    return answer_all(chat, traces, "direct")


def answer_all(chat: "Chat", traces: list[Trace], mode: str) -> list[Trace]:
    """Let the model answer each prompt ("direct" or "solve"), and end the traces."""
    replies = think(chat, traces, stop=(), begin=beginning(chat, mode))
    for trace, reply in zip(traces, replies, strict=True):
        trace.answer = text.final_answer(reply)
        trace.stopped = trace.stopped or ("answered" if trace.answer else "nothing written")
    return traces
