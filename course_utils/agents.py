"""Unit 7.2: agents that use the shop's tools, through ReAct, ReWOO or function calling, and their measure.

A toolbox is anything that is called as `toolbox(name, argument)` and returns a `tools.Result`. `Flaky` and
`Guarded` are toolboxes around another one.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from course_utils.inputs import as_texts
from course_utils.prisma import text
from course_utils.prisma.shop import TOPICS
from course_utils.prisma.tools import SIGNATURES, Result, failed, schemas
from course_utils.prisma.training import Measure, share

if TYPE_CHECKING:
    from course_utils.loaders import Chat

Tools = Callable[[str, str], Result]

WRITE = 96  # tokens that the model may write in one turn
STOP = ["Observation:"]  # what follows is for the tool to say, not for the model

# What models that were not trained on Prisma are told. prisma-lm knows its formats from training.
_FORMAT = "Give the shortest answer, in the form '36 euros', '14 days', 'shipped', 'Ada' or 'small red cube'."
_EXAMPLE = """Example:
Question: What does order 1234 cost?
Thought: I look up order 1234.
Action: orders[1234]
Observation: order 1234: 3 small red cube for Ada, shipped
Thought: It is 3 small red cube, I need the price.
Action: catalogue[small red cube]
Observation: small red cube: 12 euros, 40 in stock
Thought: One costs 12, so I multiply by 3.
Action: calculator[3 * 12]
Observation: 36
Thought: I know the answer.
Answer: 36 euros"""
_PLAN_EXAMPLE = """Example:
Question: What does order 1234 cost?
#E1 = orders[1234]
#E2 = catalogue[#E1.product]
#E3 = calculator[#E1.quantity * #E2.price]"""
_TOOLS = "\n".join(f"- {name}[{argument}]: {what}" for name, (argument, _, what) in SIGNATURES.items())
INSTRUCTIONS = {
    "react": f"""You answer questions about the toy shop Prisma with tools:
{_TOOLS}
The policy topics are {", ".join(TOPICS)}.
Write one Thought line and one Action line, then wait for the Observation line. Repeat as often as you need.
When you know the answer, write an Answer line. {_FORMAT}
{_EXAMPLE}""",
    "plan": f"""You plan all tool calls that answer a question about the toy shop Prisma:
{_TOOLS}
The policy topics are {", ".join(TOPICS)}.
Write one line for each call and nothing else. A later call can use what an earlier one found: orders gives
product, quantity, customer, status; catalogue gives price, stock; customer and policy give number;
calculator gives value.
{_PLAN_EXAMPLE}""",
    "solve": f"Answer the question from the evidence. Write one line: 'Answer: ...'. {_FORMAT}",
    "direct": "Answer the question about the toy shop Prisma at once; guess if you have to. "
    f"Write one line: 'Answer: ...'. {_FORMAT}",
    "calls": f"You answer questions about the toy shop Prisma by calling functions, one at a time. {_FORMAT}",
}


def opening(chat: "Chat", mode: str, question: str) -> str:
    """The prompt that starts an agent: Prisma's own format, or instructions for a general chat model."""
    if chat.tier == "bundled":
        return text.prompt(mode, question)
    return chat.prompt([{"role": "system", "content": INSTRUCTIONS[mode]}, {"role": "user", "content": question}])


# ---------------------------------------------------------------- what an agent leaves behind


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
    counts = [count(chat, part) for turn in trace.log for part in turn]
    return sum(counts[0::2]), sum(counts[1::2])


def count(chat: "Chat", words: str) -> int:
    """The number of tokens in a text."""
    return len(chat.tokenizer(words)["input_ids"])


def fits(chat: "Chat", prompt: str) -> bool:
    """Whether a prompt leaves the model room for a turn in its window."""
    return count(chat, prompt) + WRITE <= chat.model.config.max_position_embeddings


def think(chat: "Chat", traces: Sequence[Trace], stop: Sequence[str] = STOP) -> list[str]:
    """What the model writes next in each trace, without its <think> blocks; all in one batch.

    The logs keep it whole. A trace whose prompt fills the model's window is stopped, and gets an empty reply.
    """
    for trace in traces:
        trace.stopped = "" if fits(chat, trace.prompt) else "window full"
    prompts = [trace.prompt for trace in traces if not trace.stopped]
    written = iter(chat.complete_many(prompts, max_new_tokens=WRITE, stop=stop))
    replies = ["" if trace.stopped else next(written) for trace in traces]
    for trace, reply in zip(traces, replies, strict=True):
        trace.log += [] if trace.stopped else [(trace.prompt, reply)]
    return [without_thoughts(reply) for reply in replies]


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


# ---------------------------------------------------------------- ReAct


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
        reply = think(chat, [trace])[0]
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
        for trace, reply in zip(going, think(chat, going), strict=True):
            act(trace, reply, toolbox, max_steps, max_repeats)
    return traces


def run_direct(chat: "Chat", questions: Sequence[str]) -> list[Trace]:
    """The same model without tools: one prompt, one answer."""
    questions = as_texts(questions, "questions")
    traces = [Trace(question, opening(chat, "direct", question)) for question in questions]
    return _answer(chat, traces)


def _answer(chat: "Chat", traces: list[Trace]) -> list[Trace]:
    """Let the model answer each prompt, and end the traces."""
    for trace, reply in zip(traces, think(chat, traces, stop=()), strict=True):
        trace.answer = text.final_answer(reply)
        trace.stopped = trace.stopped or ("answered" if trace.answer else "nothing written")
    return traces


# ---------------------------------------------------------------- ReWOO


def run_rewoo(chat: "Chat", toolbox: Tools, questions: Sequence[str], max_steps: int = 8) -> list[Trace]:
    """Plan every call at once, run the plan, answer from the evidence (ReWOO, arXiv 2305.18323)."""
    questions = as_texts(questions, "questions")
    traces = [Trace(question, opening(chat, "plan", question)) for question in questions]
    for trace, plan in zip(traces, think(chat, traces, stop=()), strict=True):
        trace.steps = execute(plan, toolbox, max_steps)
        lines = [f"\n#E{i} = {s.tool}[{s.argument}]: {s.observation}" for i, s in enumerate(trace.steps, 1)]
        trace.prompt = opening(chat, "solve", trace.question + "".join(lines))
    return _answer(chat, traces)


def execute(plan: str, toolbox: Tools, max_steps: int) -> list[Step]:
    """Run the lines of a plan in order. `#E1.price` stands for the field `price` of the first result."""
    results: dict[str, Result] = {}
    steps = []
    for name, tool, planned in re.findall(r"^\s*#(E\d+) *= *(\w+)\[(.*)\]\s*$", plan, re.M)[:max_steps]:
        argument = re.sub(r"#(E\d+)\.(\w+)", lambda m: _field(results, *m.groups()), planned)
        missing = re.search(r"#E\d+", argument)
        results[name] = failed(f"no {missing.group()}") if missing else use(toolbox, tool, argument)
        steps.append(Step("", "" if missing else tool, argument, results[name].text))
    return steps


def _field(results: dict[str, Result], name: str, key: str) -> str:
    found = results[name].fields.get(key) if name in results else None
    return f"#{name}.{key}" if found is None else found


# ---------------------------------------------------------------- function calling

# Types that JSON becomes. type() is asked and not isinstance(): in Python True is an int, in JSON it is not.
PYTHON = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


NAMED = re.compile(r'\{\s*"name"')
OPENING = re.compile(r"\n\s*\{")


class CallError(ValueError):
    """A function call that can't be run. The message is what the model gets to read."""


def is_call(reply: str) -> bool:
    """Whether a reply holds a function call in JSON, in whatever the model wrapped it."""
    return bool(written_calls(reply))


def unwrap(reply: str) -> str:
    """A reply without what models write around a call: thoughts, markers, the fences of Markdown."""
    return re.sub(r"<\|call\|>|</?tool_call>|```\w*", "\n", without_thoughts(reply)).strip()


def written_calls(reply: str) -> list[str]:
    """The function calls in a reply, each as the model wrote it, in that order; broken ones, too.

    They may stand alone, after a sentence, behind a marker, in a fence or in a list, several in one reply. JSON
    that names nothing is a call only if the reply begins with it: anywhere else it belongs to an answer.
    """
    plain, found, at = unwrap(reply), [], 0
    while (start := plain.find("{", at)) >= 0:
        call, end = _object(plain, start)
        named = NAMED.match(plain, start) if call is None else "name" in call
        if named or start == 0:
            end = end or _next_line(plain, start)
            found.append(plain[start:end].strip())
        # What is broken and no call may be a brace in a sentence: the next one may open a call.
        at = end or start + 1
    return found


def _object(plain: str, start: int) -> tuple[dict | None, int]:
    """The JSON object that begins at `start` and where it ends; None and 0 for a broken one."""
    try:
        return json.JSONDecoder().raw_decode(plain, start)
    except RecursionError:
        return {}, len(plain)  # nothing behind it is looked at: it would take hours
    except ValueError:
        return None, 0


def _next_line(plain: str, start: int) -> int:
    """Where the next line begins that opens an object: a broken one ends there at the latest."""
    following = OPENING.search(plain, start + 1)
    return following.start() if following else len(plain)


def parse_call(reply: str) -> tuple[str, dict]:
    """The name and arguments of the first function call in a reply. It is read as JSON, never run as code.

    CallError if the JSON is broken or of another form.
    """
    written = written_calls(reply)
    try:
        call = json.loads(written[0] if written else unwrap(reply))
    except RecursionError as error:
        raise CallError("bad JSON: nested too deeply") from error
    except ValueError as error:  # also a number of more than 4,300 digits, which Python does not read
        raise CallError(f"bad JSON: {getattr(error, 'msg', 'a number is too long')}") from error
    if not isinstance(call, dict):
        raise CallError("write name and arguments")
    name, arguments = call.get("name"), call.get("arguments", call.get("parameters"))  # Llama says parameters
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise CallError("write name and arguments")
    return name, arguments


def check_call(name: str, arguments: dict, tools: Sequence[dict]) -> None:
    """Hold a call against the tools' JSON schemas. CallError if the tool or an argument does not fit."""
    known = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
    if name not in known:
        raise CallError(f"no tool {name}")
    wanted = known[name].get("properties", {})
    if missing := [key for key in known[name].get("required", ()) if key not in arguments]:
        raise CallError(f"{missing[0]} is missing")
    if extra := [key for key in arguments if key not in wanted]:
        raise CallError(f"no argument {extra[0]}")
    for key, value in arguments.items():
        kind = wanted[key].get("type")
        if kind in PYTHON and type(value) not in PYTHON[kind]:
            raise CallError(f"{key} must be of type {kind}")


def run_calls(
    chat: "Chat", toolbox: Tools, questions: Sequence[str], max_steps: int = 8, max_repeats: int = 3
) -> list[Trace]:
    """Agents that call functions in JSON, through the model's own chat template; all take turns together."""
    tools, system = schemas(), {"role": "system", "content": INSTRUCTIONS["calls"]}
    questions = as_texts(questions, "questions")
    traces = [Trace(q, messages=[system, {"role": "user", "content": q}]) for q in questions]
    while going := [trace for trace in traces if not trace.stopped]:
        for trace in going:
            trace.prompt = chat.prompt(trace.messages, tools)
        for trace, reply in zip(going, think(chat, going, stop=()), strict=True):
            act_on_call(trace, reply, toolbox, tools, max_steps, max_repeats)
    return traces


def act_on_call(
    trace: Trace, reply: str, toolbox: Tools, tools: Sequence[dict], max_steps: int, max_repeats: int
) -> None:
    """Run the calls in a reply, in their order, or end with its answer. A call that does not fit gets an error to read.

    Several calls of one reply are kept as turns of their own, so the model reads each result below its call.
    """
    calls = written_calls(reply)
    if not calls:
        trace.answer = text.final_answer(without_thoughts(reply))
        trace.stopped = trace.stopped or ("answered" if trace.answer else "nothing written")
    # One call alone is kept as the model wrote it, with its marker.
    for written in calls if len(calls) > 1 else [reply] * len(calls):
        if not trace.stopped:
            note(trace, _call(trace, written, toolbox, tools), max_steps, max_repeats)


def _call(trace: Trace, written: str, toolbox: Tools, tools: Sequence[dict]) -> Step:
    """Run one call, and put it and its result into the conversation."""
    said = {"role": "assistant", "content": written}
    name, argument = "", written
    try:
        name, arguments = parse_call(written)
        check_call(name, arguments, tools)
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        said = {"role": "assistant", "content": "", "tool_calls": [call]}
        argument = str(next(iter(arguments.values()), ""))
        seen = use(toolbox, name, argument).text
    except CallError as error:
        name, seen = "", f"error: {error}"
    trace.messages += [said, {"role": "tool", "content": seen}]
    return Step("", name, argument, seen)


# ---------------------------------------------------------------- toolboxes around toolboxes


class Flaky:
    """A toolbox whose calls fail with a time-out now and then: `failing` is the share, from 0 to 1."""

    def __init__(self, toolbox: Tools, failing: float, seed: int = 0) -> None:
        self.toolbox, self.failing, self.rng = toolbox, failing, random.Random(seed)

    def __call__(self, name: str, argument: str) -> Result:
        return failed("timeout") if self.rng.random() < self.failing else self.toolbox(name, argument)


class Guarded:
    """A toolbox whose results can't pass for the model's lines: no breaks, markers, keywords."""

    def __init__(self, toolbox: Tools) -> None:
        self.toolbox = toolbox

    def __call__(self, name: str, argument: str) -> Result:
        result = self.toolbox(name, argument)
        plain = re.sub(r"<\|\w*\|>|\b(Thought|Action|Observation|Answer):", " ", result.text)
        return replace(result, text=" ".join(plain.split()))


# ---------------------------------------------------------------- measuring


def success(tasks: Sequence[text.Episode], traces: Sequence[Trace]) -> Measure:
    """The share of tasks whose answer is exactly right, with Wilson's 95 % interval."""
    return share(outcomes(tasks, traces))


def outcomes(tasks: Sequence[text.Episode], traces: Sequence[Trace]) -> list[bool]:
    """For each task whether its trace ends with the right answer."""
    return [text.correct(task.answer, trace.answer) for task, trace in zip(tasks, traces, strict=True)]


def by_kind(tasks: Sequence[text.Episode], runs: dict[str, Sequence[Trace]]) -> list[dict]:
    """Rows of a table: for each kind of task how many there are and how many each run got right."""
    right = {name: outcomes(tasks, traces) for name, traces in runs.items()}
    rows = []
    for kind in dict.fromkeys(task.kind for task in tasks):
        at = [i for i, task in enumerate(tasks) if task.kind == kind]
        rows.append({"kind": kind, "tasks": len(at)} | {n: sum(r[i] for i in at) for n, r in right.items()})
    return rows
