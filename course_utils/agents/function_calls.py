"""Function calling: calls written as JSON, found in a reply, checked and run."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from course_utils.agents.instructions import INSTRUCTIONS
from course_utils.agents.loop import Step, Tools, Trace, note, think, use, without_thoughts
from course_utils.models.inputs import as_texts
from course_utils.prisma import text
from course_utils.prisma.tools import schemas

if TYPE_CHECKING:
    from course_utils.models.roles import Chat


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
