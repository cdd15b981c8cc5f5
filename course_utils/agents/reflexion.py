"""Reflexion (Shinn et al. 2023, arXiv 2303.11366): act, evaluate, reflect, retry.

The actor is a ReAct agent. The evaluator is a function that says whether a task is solved. The reflector reads a
failed trace and says what to do next time. Where its words are put for the actor to read is a choice of its own.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from course_utils.agents.loop import Tools, Trace
from course_utils.agents.react import run_many
from course_utils.models.inputs import as_texts
from course_utils.prisma import text

if TYPE_CHECKING:
    from course_utils.models.roles import Chat

MISSING = re.compile(r"error: no order (\d{4})$")


@dataclass(frozen=True)
class Reflection:
    """What to do next time, in words; and which order number to use instead of which, where that is known."""

    words: str
    wrong: str = ""
    instead: str = ""


@dataclass
class Attempts:
    """All trials at one question: the memory of Reflexion is the list of reflections."""

    question: str
    traces: list[Trace] = field(default_factory=list)
    reflections: list[Reflection] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)

    @property
    def solved(self) -> bool:
        return any(self.right)


Evaluate = Callable[[int, Trace], bool]  # of which task, and the trial
Reflect = Callable[[Trace, Sequence[Reflection]], Reflection | None]  # the failed trial, what was said earlier
Retell = Callable[[str, Sequence[Reflection]], str]  # the question as the next trial reads it


def run_reflexion(
    chat: "Chat",
    toolbox: Tools,
    questions: Sequence[str],
    evaluate: Evaluate,
    reflect: Reflect,
    retell: Retell,
    trials: int = 3,
    first: Sequence[Trace] = (),
    max_repeats: int = 3,
) -> list[Attempts]:
    """ReAct agents that try again after a failure, at most `trials` times; all of one trial work together.

    `first` holds the traces of a first trial that has run already, one for each question. ValueError if it holds
    fewer or more, or if there is no trial.
    """
    questions = as_texts(questions, "questions")
    if trials < 1:
        raise ValueError(f"{trials} trials: an agent needs one at least")
    if first and len(first) != len(questions):
        raise ValueError(f"{len(first)} first traces for {len(questions)} questions: one each is needed")
    attempts = [Attempts(question) for question in questions]
    traces = list(first) or run_many(chat, toolbox, questions, max_repeats=max_repeats)
    _judge(attempts, range(len(attempts)), traces, evaluate)
    for _ in range(trials - 1):
        failed = [i for i, attempt in enumerate(attempts) if not attempt.solved]
        if not failed:
            break
        asked = []
        for i in failed:
            _look_back(attempts[i], reflect)
            asked.append(retell(attempts[i].question, attempts[i].reflections))
        traces = run_many(chat, toolbox, asked, max_repeats=max_repeats)
        _judge(attempts, failed, traces, evaluate)
    return attempts


def _judge(attempts: list[Attempts], places: Sequence[int], traces: Sequence[Trace], evaluate: Evaluate) -> None:
    """Keep the traces of one trial with the evaluator's verdict on each."""
    for i, trace in zip(places, traces, strict=True):
        attempts[i].traces.append(trace)
        attempts[i].right.append(evaluate(i, trace))


def _look_back(attempt: Attempts, reflect: Reflect) -> None:
    """Add what the reflector says about the last trial, if it has something to say."""
    said = reflect(attempt.traces[-1], attempt.reflections)
    if said:
        attempt.reflections.append(said)


def solved_within(attempts: Sequence[Attempts], trials: int) -> list[bool]:
    """For each question whether one of its first `trials` trials was right."""
    return [any(attempt.right[:trials]) for attempt in attempts]


# ---------------------------------------------------------------- who reflects


class NearMisses:
    """A reflector of rules. For an order that does not exist it names one whose number differs in one digit.

    It knows the shop's order `numbers`, and tries the lowest first. What it has named before, it does not name again:
    that is what the memory is for.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = sorted(str(number) for number in numbers)

    def __call__(self, trace: Trace, earlier: Sequence[Reflection]) -> Reflection | None:
        """What to do after this failed trial; None where the rules know nothing better."""
        seen = trace.steps[-1].observation if trace.steps else ""
        if seen == "error: timeout":
            return Reflection("The tool failed. Next time I try again.")
        wrong = next((said.wrong for said in earlier if said.wrong), "") or _missing(trace)
        tried = {said.instead for said in earlier}
        left = [number for number in self.numbers if number not in tried and digits_apart(number, wrong) == 1]
        if not left:
            return None
        return Reflection(f"I asked for {wrong}, not for {left[0]}. Next time I use {left[0]}.", wrong, left[0])


def _missing(trace: Trace) -> str:
    """The number of the order that a trace did not find; "" if it found all."""
    found = [MISSING.match(step.observation) for step in trace.steps]
    return next((match.group(1) for match in found if match), "")


def digits_apart(one: str, other: str) -> int:
    """In how many places two numbers of equal length differ; one more than there are places for other lengths."""
    if len(one) != len(other):
        return 1 + max(len(one), len(other))
    return sum(a != b for a, b in zip(one, other, strict=True))


def own_words(chat: "Chat", traces: Sequence[Trace]) -> list[str]:
    """What the model itself says about failed trials, in the form that prisma-lm learned."""
    prompts = []
    for trace in traces:
        calls = [(f"{step.tool}[{step.argument}]", step.observation) for step in trace.steps]
        prompts.append(text.reflect_prompt(trace.question, calls[:1], trace.answer or "unknown"))
    replies = chat.complete_many(prompts, max_new_tokens=48)
    return [reply.strip().removeprefix("Reflection:").strip() for reply in replies]


# ---------------------------------------------------------------- where the actor finds the reflection


def as_before(question: str, reflections: Sequence[Reflection]) -> str:
    """The question again, without a word: the control."""
    return question


def below(question: str, reflections: Sequence[Reflection]) -> str:
    """The question with the last reflection under it: in the actor's prompt, as in the paper."""
    return f"{question}\nReflection: {reflections[-1].words}" if reflections else question


def rewritten(question: str, reflections: Sequence[Reflection]) -> str:
    """The question with what the last reflection corrects: for an actor that acts on the question alone."""
    known = [said for said in reflections if said.wrong]
    return question.replace(known[-1].wrong, known[-1].instead) if known else question


# ---------------------------------------------------------------- tasks that fail at first


def mistyped(task: text.Episode, numbers: Sequence[int], seed: int) -> text.Episode:
    """The task as a customer asks who got one digit of the order's number wrong. No order has the wrong number.

    ValueError for a question without an order number.
    """
    found = re.search(r"\b\d{4}\b", task.question)
    if not found:
        raise ValueError(f"no order number in {task.question!r}: choose a question about an order")
    number = found.group()
    rng = random.Random(f"{seed} {number}")
    taken = {str(one) for one in numbers}
    others = [str(n) for n in range(1000, 10000) if digits_apart(str(n), number) == 1]
    free = [other for other in others if other not in taken]
    return replace(task, question=task.question.replace(number, rng.choice(free)))
