"""What every agent shares: a trace of steps, the question to the model, the use of a tool.

A toolbox is anything that is called as `toolbox(name, argument)` and returns a `tools.Result`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from course_utils.prisma.tools import Result, failed

if TYPE_CHECKING:
    from course_utils.models.roles import Chat


Tools = Callable[[str, str], Result]
WRITE = 96  # tokens that the model may write in one turn
STOP = ["Observation:", "Question:"]  # what follows is for the tool or the customer to say, not for the model


@dataclass(frozen=True)
class Step:
    """One turn of an agent. `tool` is empty where the model named none. Steps that do the same are equal."""

    thought: str = field(compare=False)
    tool: str
    argument: str
    observation: str


@dataclass
class Trace:
    """All that an agent did for one question. `stopped` says why it ended and is empty while it runs."""

    question: str
    prompt: str = ""
    steps: list[Step] = field(default_factory=list)
    answer: str = ""
    stopped: str = ""
    messages: list[dict] = field(default_factory=list)  # of an agent that speaks in chat messages
    log: list[tuple[str, str]] = field(default_factory=list)  # every prompt with its reply

    @property
    def tool_calls(self) -> int:
        return sum(bool(step.tool) for step in self.steps)

    def rows(self) -> list[dict]:
        """The trace as rows of a table, the answer or the reason to stop in the last one."""
        steps = [(s.thought, f"{s.tool}[{s.argument}]", s.observation) for s in self.steps]
        last = ("", f"Answer: {self.answer}", "") if self.answer else ("", f"stopped: {self.stopped}", "")
        names = ("turn", "thought", "action", "observation")
        return [dict(zip(names, (n, *row), strict=True)) for n, row in enumerate([*steps, last], 1)]


def tokens(chat: "Chat", trace: Trace) -> tuple[int, int]:
    """Tokens that the model read and wrote for a trace. Each turn reads the whole prompt again."""
    read, written = 0, 0
    for prompt, reply in trace.log:
        read += count(chat, prompt)
        written += count(chat, reply)
    return read, written


def count(chat: "Chat", words: str) -> int:
    """The number of tokens in a text."""
    return len(chat.tokenizer(words)["input_ids"])


def fits(chat: "Chat", prompt: str) -> bool:
    """Whether a prompt leaves the model room for a turn in its window."""
    return count(chat, prompt) + WRITE <= chat.model.config.max_position_embeddings


def think(chat: "Chat", traces: Sequence[Trace], stop: Sequence[str] = STOP, begin: str = "") -> list[str]:
    """What the model writes next in each trace, without its <think> blocks; all in one batch.

    Each reply begins with `begin`, which the model finds written. The logs keep its own words whole. A trace whose
    prompt fills the model's window is stopped, and gets an empty reply.
    """
    for trace in traces:
        trace.stopped = "" if fits(chat, trace.prompt + begin) else "window full"
    prompts = [trace.prompt + begin for trace in traces if not trace.stopped]
    written = iter(chat.complete_many(prompts, max_new_tokens=WRITE, stop=stop))
    replies = ["" if trace.stopped else next(written) for trace in traces]
    for trace, reply in zip(traces, replies, strict=True):
        trace.log += [] if trace.stopped else [(trace.prompt + begin, reply)]
    said = [without_thoughts(reply) for reply in replies]
    return [begin + reply if reply.strip() else reply for reply in said]


def without_thoughts(reply: str) -> str:
    """A reply without what a reasoning model writes for itself: <think> blocks, closed or cut off by the limit.

    Some chat templates open the block in the prompt, so that the reply holds its end alone.
    """
    said = re.sub(r"<think(ing)?>.*?(</think(ing)?>|\Z)", "", reply, flags=re.S)
    return re.sub(r"\A.*</think(ing)?>", "", said, flags=re.S)


def use(toolbox: Tools, tool: str, argument: str) -> Result:
    """What a tool says. One that raises says its error: the model reads it and may go on, the loop does not end."""
    try:
        result = toolbox(tool, argument)
    except Exception as error:
        return failed(f"{type(error).__name__}: {error}")
    if not isinstance(result, Result):
        return failed(f"the tool returned {type(result).__name__} where a tools.Result belongs")
    return result


def note(trace: Trace, step: Step, max_steps: int, max_repeats: int) -> None:
    """Add a step, and stop an agent that goes round in circles or has spent its steps."""
    trace.steps.append(step)
    if trace.steps.count(step) >= max_repeats:
        trace.stopped = "loop"
    elif len(trace.steps) >= max_steps:
        trace.stopped = "step budget spent"
