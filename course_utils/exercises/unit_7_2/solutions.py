"""Unit 7.2's exercises: the course's own solutions, and tests that tell known mistakes apart.

A test compares with the result of every mistake it knows. Small inputs come first, so that a message can show
them and a student can follow by hand. Tools, people and counters stand in inputs.py.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, zip_longest
from typing import Any

from course_utils.exercises.diagnosis import Attempt
from course_utils.exercises.unit_7_2.inputs import Desk, Scripted, clock, count_words, orders, stock

# --- act ------------------------------------------------------------------------------------------------


def observation(action: str, tools: dict[str, Callable[[str], str]]) -> str:
    """What a tool says to an action such as `orders[4821]`, or what is wrong, in words for the model."""
    call = re.fullmatch(r"(\w+)\[(.*)\]", action.strip())
    if not call:
        return "error: write Action: tool[argument]"
    tool, argument = call.groups()
    if tool not in tools:
        return f"error: no tool {tool}"
    try:
        return tools[tool](argument)
    except Exception as error:
        return f"error: {error}"


def act(prompt: str, reply: str, tools: dict[str, Callable[[str], str]]) -> tuple[str, str]:
    """The prompt after one step, and the answer or "" (ReAct, arXiv 2210.03629)."""
    line = re.search(r"^(Action|Answer):(.*)$", reply, re.M)
    if line and line.group(1) == "Answer":
        return prompt, line.group(2).strip()
    action = line.group(2) if line else ""
    said = reply[: line.end()] if line else reply
    seen = observation(action, tools)
    return f"{prompt}{said}\nObservation: {seen}\n", ""


TOOLS = {"orders": orders, "clock": clock, "stock": stock}
PROMPT = "Question: Where is order 4821?\n"
GOOD = "Thought: I look it up.\nAction: orders[4821]"
SEEN = "\nObservation: order 4821: 3 cubes, shipped\n"
FORM = "error: write Action: tool[argument]"


def examine_act(yours: Attempt) -> None:
    """A good step; one with an invented ending; an answer; then what models do wrong."""
    for reply, mistakes in (
        (GOOD, step_mistakes()),
        (f"{GOOD}\nObservation: lost\nThought: So it is lost.\nAnswer: lost", ending_mistakes()),
        ("Thought: I know the answer.\nAnswer:  shipped \nAction: orders[4821]", answer_mistakes()),
        ("Action: clock[]", argument_mistakes()),
        ("Thought: Money back.\nAction: refund[4821]", unknown_mistakes()),
        ("Thought: How many?\nAction: stock[cube]", raising_mistakes()),
    ):
        inputs = (PROMPT, reply, dict(TOOLS))
        yours.compare(inputs, act(*inputs), mistakes)
    _examine_forms(yours)


def _step(reply: str, seen: str) -> tuple[str, str]:
    """The result for a step whose observation is `seen`."""
    return f"{PROMPT}{reply}\nObservation: {seen}\n", ""


def step_mistakes() -> dict[str, Any]:
    """What known mistakes give for a step as it should be."""
    whole = PROMPT + GOOD + SEEN
    seen = "order 4821: 3 cubes, shipped"
    return {
        "Your prompt loses the reply. The model has to read its own thought and action again.": (
            PROMPT + SEEN.lstrip("\n"),
            "",
        ),
        "Your prompt loses what stood there before. It grows: the old prompt, the reply, the observation.": (
            GOOD + SEEN,
            "",
        ),
        "Your prompt loses the thought. Keep the whole reply up to the end of the action's line.": (
            f"{PROMPT}Action: orders[4821]{SEEN}",
            "",
        ),
        'Your prompt lacks "Observation: " before what the tool says: the model knows results by this word.': (
            f"{PROMPT}{GOOD}\n{seen}\n",
            "",
        ),
        "Your prompt lacks the line break at its end. The model would go on in the line of the observation.": (
            whole.rstrip("\n"),
            "",
        ),
        'Your prompt lacks the line break before "Observation:".': (f"{PROMPT}{GOOD}Observation: {seen}\n", ""),
        "What the tool says is your answer. It is an observation: the model decides what to do with it.": (whole, seen),
        'Your answer is None as long as there is none. Return "".': (whole, None),
        "Your results are the other way round: (new prompt, answer).": ("", whole),
        "Your function returns a list. A pair is wanted: `return prompt, answer`.": [whole, ""],
        "Your function returns the prompt alone. Return the prompt and the answer.": whole,
        "Your tool gets the argument with its brackets.": _step(GOOD, "error: no order [4821]"),
        "Your tool gets a number. Arguments are texts.": _step(GOOD, "error: no order 4821"),
        "You put the tool's name into the prompt for its result. Call it: `tools[tool](argument)`.": (
            _step(GOOD, "orders")
        ),
        "You do not call the tool. `tools[tool](argument)` gives the observation.": (PROMPT + GOOD + "\n", ""),
    }


def ending_mistakes() -> dict[str, Any]:
    """What known mistakes give for a reply that goes on after its action."""
    invented = "\nObservation: lost\nThought: So it is lost.\nAnswer: lost"
    return {
        "You look for an answer first. The first line that begins with one of the two words decides: what follows an "
        "action was written before anything was observed.": (PROMPT, "lost"),
        "Your prompt keeps what the model wrote after its action. It had seen nothing yet: cut the reply there.": (
            PROMPT + GOOD + invented + SEEN,
            "",
        ),
        "You run the action and take the invented answer, too.": (PROMPT + GOOD + SEEN, "lost"),
    }


def answer_mistakes() -> dict[str, Any]:
    """What known mistakes give for a reply with an answer, and an action after it."""
    reply = "Thought: I know the answer.\nAnswer:  shipped \nAction: orders[4821]"
    return {
        "You look for an action first. The first line that begins with one of the two words decides.": (
            PROMPT + reply + SEEN,
            "",
        ),
        "Your prompt grows with the answer. The run is over: return the prompt as it is.": (PROMPT + reply, "shipped"),
        "Your answer keeps the blanks around it. `strip()` removes them.": (PROMPT, "  shipped "),
        "Your answer is all that follows. It ends with its line.": (PROMPT, "shipped \nAction: orders[4821]"),
        'Your answer still begins with "Answer:".': (PROMPT, "Answer:  shipped"),
        'Your answer is the whole reply. It is what stands behind "Answer:" in that line.': (PROMPT, reply),
        "With an answer your prompt is empty. Return it as it is.": ("", "shipped"),
    }


def argument_mistakes() -> dict[str, Any]:
    """What known mistakes give for an action without an argument."""
    return {
        "An empty argument is a mistake with you. Some tools need none: `(.*)` fits nothing, too.": (
            _step("Action: clock[]", FORM)
        ),
        "An empty argument is passed on as something else with you.": (
            _step("Action: clock[]", "error: no argument is taken")
        ),
    }


def unknown_mistakes() -> dict[str, Any]:
    """What known mistakes give for a tool that is not there."""
    reply = "Thought: Money back.\nAction: refund[4821]"
    return {
        "An unknown tool becomes the text of Python's KeyError with you. Look whether it is there, and say which is "
        "not: error: no tool refund.": _step(reply, "error: 'refund'"),
        "An unknown tool becomes a complaint about the form. The form is right: say which tool is not there.": (
            _step(reply, FORM)
        ),
        'Your message lacks "error: ". By this word the model tells a refusal from a result.': (
            _step(reply, "no tool refund")
        ),
        "Your message does not say which tool is not there.": _step(reply, "error: no tool"),
        "Your message names the argument, too. Say the tool alone.": _step(reply, "error: no tool refund[4821]"),
        "An unknown tool ends the run with you. The model should read its mistake and choose another.": (
            PROMPT,
            "error: no tool refund",
        ),
        "You say nothing about an unknown tool. The model should read its mistake.": _step(reply, ""),
    }


def raising_mistakes() -> dict[str, Any]:
    """What known mistakes give for a tool that raises an exception."""
    reply = "Thought: How many?\nAction: stock[cube]"
    told = "the database is locked"
    return {
        'Your message lacks "error: ".': _step(reply, told),
        "Your message shows the exception as Python code: `repr`. Take its text: `str`.": (
            _step(reply, f"error: RuntimeError('{told}')")
        ),
        "Your message names the kind of the exception, too. Its text is enough.": (
            _step(reply, f"error: RuntimeError: {told}")
        ),
        "A tool that fails is unknown to you. It is there: pass on what the exception says.": (
            _step(reply, "error: no tool stock")
        ),
        "A tool that fails becomes a complaint about the form. Pass on what the exception says.": _step(reply, FORM),
        "A tool that fails ends the run with you. The model may try something else.": (PROMPT, f"error: {told}"),
    }


def _examine_forms(yours: Attempt) -> None:
    """Actions of another form, and no action at all."""
    run = "You run an action of another form. Only tool[argument], with nothing else in its line, is one."
    late = "You run an action in the middle of a line. Its line begins with it."
    ends = "A reply without action and answer ends the run with you. Observe how to write one, so it can go on."
    silent = "A reply without action and answer leaves the prompt as it was with you. The next turn would be the same."
    seen = "order 4821: 3 cubes, shipped"
    for reply, mistakes in (
        ("Action: orders[4821] and then I wait", {run: _step("Action: orders[4821] and then I wait", seen)}),
        ("Action: orders 4821", {run: _step("Action: orders 4821", seen)}),
        ("I could write Action: orders[4821]", {late: _step("I could write Action: orders[4821]", seen)}),
        ("It was shipped.", {ends: (PROMPT, "It was shipped."), silent: (PROMPT, "")}),
    ):
        inputs = (PROMPT, reply, dict(TOOLS))
        yours.compare(inputs, act(*inputs), mistakes)


# --- find_calls -----------------------------------------------------------------------------------------


def without_thoughts(reply: str) -> str:
    """A reply without its <think> blocks, be they closed, cut off, or opened in the prompt."""
    said = re.sub(r"<think>.*?(</think>|\Z)", "", reply, flags=re.S)
    return said.rpartition("</think>")[2]


def is_call(value: dict) -> bool:
    """Whether a JSON object has a name and arguments of the right kinds."""
    named = isinstance(value.get("name"), str)
    return named and isinstance(value.get("arguments"), dict)


def find_calls(reply: str) -> list[tuple[str, dict]]:
    """The calls in a reply, outside of thoughts, wherever a JSON object begins."""
    said = without_thoughts(reply)
    decoder = json.JSONDecoder()
    calls = []
    start = said.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(said, start)
        except ValueError:  # a brace in a sentence, or broken JSON: the next brace may be a call
            value, end = {}, start + 1
        if is_call(value):
            calls.append((value["name"], value["arguments"]))
        start = said.find("{", end)
    return calls


ORDER = ("orders", {"number": 4821})
FEE = ("policy", {"topic": "fee"})
REFUND = ("refund", {"number": 1})


def written(call: tuple[str, dict]) -> str:
    """A call as a model writes it."""
    name, arguments = call
    return json.dumps({"name": name, "arguments": arguments})


def examine_find_calls(yours: Attempt) -> None:
    """A call alone, then every wrapping, then thoughts, then what is no call."""
    cases = chain(alone_cases(), wrapped_cases(), thought_cases(), no_call_cases(), broken_cases())
    for reply, wanted, mistakes in cases:
        yours.compare((reply,), wanted, mistakes)


Case = tuple[str, list, dict[str, Any]]


def alone_cases() -> Iterator[Case]:
    """One call and nothing else, and no call."""
    name, arguments = ORDER
    yield (
        written(ORDER),
        [ORDER],
        {
            "Your calls are dicts. Each is a tuple (name, arguments).": [{"name": name, "arguments": arguments}],
            "Your calls are lists. Each is a tuple (name, arguments).": [list(ORDER)],
            "Your function returns names alone.": [name],
            "Your function returns arguments alone.": [arguments],
            "Your arguments are a text. Read them as JSON: a dict is wanted.": [(name, json.dumps(arguments))],
            "Your arguments are the values alone. A dict is wanted.": [(name, [4821])],
            "Your calls are the wrong way round: (name, arguments).": [(arguments, name)],
            "Your calls are the texts that the model wrote. Read them.": [written(ORDER)],
            "Your function returns the call itself. A list of calls is wanted, also of one.": ORDER,
            "A call that stands alone is not found.": [],
        },
    )
    yield "It costs 36 euros.", [], {"Your function returns None if there is no call. An empty list is wanted.": None}


def wrapped_cases() -> Iterator[Case]:
    """What real models write around a call."""
    both = [ORDER, FEE]
    several = {
        "You find the first call only. There may be several.": [ORDER],
        "You find the last call only. There may be several.": [FEE],
        "Your calls are in the wrong order: first comes what was written first.": [FEE, ORDER],
        "You find nothing if there are several calls. Read one JSON value after the other: `raw_decode`.": [],
    }
    yield f"I look the order up.\n{written(ORDER)}", [ORDER], {"A call after a sentence is not found.": []}
    yield f"{written(ORDER)}\nI wait for the result.", [ORDER], {"A call before a sentence is not found.": []}
    yield f"```json\n{written(ORDER)}\n```", [ORDER], {"A call in a fence is not found.": []}
    yield f"<tool_call>\n{written(ORDER)}\n</tool_call>", [ORDER], {"A call between <tool_call> tags is not found.": []}
    spread = json.dumps({"name": ORDER[0], "arguments": ORDER[1]}, indent=2)
    yield spread, [ORDER], {"A call over several lines is not found: do not read line by line.": []}
    yield f"{written(ORDER)}\n{written(FEE)}", both, several
    yield (
        f"[{written(ORDER)}, {written(FEE)}]",
        both,
        {"Calls in a list are not found.": []} | dict([*several.items()][:3]),
    )
    odd = ("policy", {"topic": "a } is no end"})
    yield written(odd), [odd], {"A brace inside of a text leads you astray. Do not count braces: `raw_decode`.": []}
    sentence = f"A set {{1, 2}} is no call, but {written(FEE)} is."
    yield sentence, [FEE], {"A brace in a sentence stops you. Go on behind it.": []}


def thought_cases() -> Iterator[Case]:
    """Calls that a model only thinks of."""
    think = f"<think>I could {written(REFUND)}\nor not.</think>"
    counted = "Calls inside of thoughts count with you. The model only thinks of them."
    yield (
        f"{think}\n{written(ORDER)}",
        [ORDER],
        {
            counted: [REFUND, ORDER],
            "You find only what the model thought of.": [REFUND],
            "Behind a thought you find nothing.": [],
        },
    )
    yield (
        f"{think}{written(ORDER)}{think}{written(FEE)}",
        [ORDER, FEE],
        {
            "You leave out everything from the first <think> to the last </think>. Each ends at the next one: `.*?`.": (
                [FEE]
            ),
            "You leave out the first thought only. There may be several.": [ORDER, REFUND, FEE],
        },
    )
    yield (
        f"{written(ORDER)}\n<think>Or {written(REFUND)}",
        [ORDER],
        {
            "A thought without an end counts with you. The model was cut off while it thought.": [ORDER, REFUND],
            "A thought without an end takes everything with it. Leave out from <think> on.": [],
        },
    )
    yield (
        f"Perhaps {written(REFUND)}? No.</think>\n{written(ORDER)}",
        [ORDER],
        {
            "A thought whose <think> stood in the prompt counts with you. Leave out all before </think>.": [
                REFUND,
                ORDER,
            ]
        },
    )


def no_call_cases() -> Iterator[Case]:
    """Objects that are no calls, and calls in calls."""
    task = ("remember", {"call": {"name": REFUND[0], "arguments": REFUND[1]}})
    yield (
        written(task),
        [task],
        {
            "A call in another one's arguments counts with you. It is only passed on.": [task, REFUND],
            "You find the inner object in place of the call: a pattern without braces can't read JSON.": [REFUND],
            "A call whose arguments hold an object is not found.": [],
        },
    )
    yield '{"price": 36}', [], {'An object without "name" counts with you.': [(None, None)]}
    yield '{"name": "Ada"}', [], {
        'An object without "arguments" counts with you. An answer may hold a name.': [("Ada", {})],
        'An object without "arguments" counts with you, with None. An answer may hold a name.': [("Ada", None)],
    }  # fmt: skip
    yield '{"name": 7, "arguments": {}}', [], {"A name that is no text counts with you.": [(7, {})]}
    yield '{"name": "orders", "arguments": "4821"}', [], {
        "Arguments that are a text count with you. They have to be an object.": [("orders", "4821")],
        "You read arguments that are a text as JSON. They have to be an object.": [("orders", 4821)],
    }  # fmt: skip
    yield '{"name": "orders", "arguments": [4821]}', [], {
        "Arguments that are a list count with you. They have to be an object.": [("orders", [4821])]
    }  # fmt: skip
    yield '{"name": "clock", "arguments": {}}', [("clock", {})], {
        "A call without any argument is not found: {} is an object, too. Ask for its type, not whether it is true.": []
    }  # fmt: skip


def broken_cases() -> Iterator[Case]:
    """Broken JSON before a good call."""
    comma = '{"name": "refund", "arguments": {"number": 1},}'
    nothing = '{"name": "refund", "arguments": {"number": None}}'
    cut = '{"name": "refund", "argum'
    repaired = "You repair broken JSON. It is passed over: nobody knows what the model meant."
    stops = "Broken JSON stops you: the good call behind it is not found."
    yield f"{comma}\n{written(FEE)}", [FEE], {repaired: [REFUND, FEE], stops: []}
    python = "You read a call as Python. It is JSON: None is broken there (and never use `eval`)."
    yield f"{nothing}\n{written(FEE)}", [FEE], {python: [("refund", {"number": None}), FEE], stops: []}
    yield f"{cut}\n{written(FEE)}", [FEE], {stops: []}


# --- loop_detector --------------------------------------------------------------------------------------


def loop_detector(steps: Sequence[tuple[str, str]], repeats: int) -> int:
    """The number of steps after which the last ones are a circle of one or two, `repeats` times; 0 for never."""
    for n in range(1, len(steps) + 1):
        for length in (1, 2):
            circle = length * repeats
            tail = list(steps[max(0, n - circle) : n])
            if len(tail) == circle and tail == tail[:length] * repeats:
                return n
    return 0


STEPS = {
    "a": ("orders[1]", "error: timeout"),
    "A": ("orders[1]", "order 1: shipped"),
    "b": ("policy[fee]", "error: timeout"),
    "c": ("customer[Ada]", "Ada: last order 1"),
}


def steps_of(letters: str) -> list[tuple[str, str]]:
    """The steps that these letters stand for; a and A do the same and see something else."""
    return [STEPS[letter] for letter in letters]


def examine_loop_detector(yours: Attempt) -> None:
    """One step again and again; two in turn; both with another tolerance; a run that makes progress."""
    inputs = (steps_of("AAabaaaab"), 3)
    yours.compare(inputs, loop_detector(*inputs), one_mistakes(*inputs))
    inputs = (steps_of("baaAcAcAcAcAc"), 3)
    yours.compare(inputs, loop_detector(*inputs), two_mistakes(*inputs))
    inputs = (steps_of("aAabcc"), 2)
    yours.compare(inputs, loop_detector(*inputs), {"You always ask for three. `repeats` says how often.": 0})
    inputs = (steps_of("caAacbbAc"), 3)
    never = {"You stop an agent that never goes round in circles.": len(inputs[0])}
    never["Your function returns None for an agent that is never stopped. 0 is wanted."] = None
    yours.compare(inputs, 0, never)
    yours.compare(([], 2), 0)


def one_mistakes(steps: list, repeats: int) -> dict[str, Any]:
    """What known mistakes give for a step that comes `repeats` times in a row."""
    right = loop_detector(steps, repeats)
    return {
        "You count all equal steps. They have to come in a row: an agent may look at the same thing again later.": (
            _counted(steps, repeats)
        ),
        "You stop one step too early: the step has to come `repeats` times.": loop_detector(steps, repeats - 1),
        "You stop one step too late: the step that makes it `repeats` times in a row ends the run.": right + 1,
        "You compare actions alone. The same question with a new answer is no circle.": (
            loop_detector([action for action, _ in steps], repeats)
        ),
        "You compare observations alone. Two tools may say the same.": (
            loop_detector([seen for _, seen in steps], repeats)
        ),
        "Your function returns where the circle begins. Return the number of steps up to its end.": right - repeats,
        "Your function returns the number of all steps. Return that of the first ones that end in a circle.": (
            len(steps)
        ),
        "Your function returns True or False. Return the number of steps, or 0.": True,
        "You see no circle of one step.": 0,
    }


def two_mistakes(steps: list, repeats: int) -> dict[str, Any]:
    """What known mistakes give for two steps in turn."""
    right = loop_detector(steps, repeats)
    return {
        "You see no circle of two steps: A B A B A B.": 0,
        "You stop a circle of two too early: both steps have to come `repeats` times.": _circle(steps, 2 * repeats - 1),
        "You stop a circle of two after `repeats` steps. Both come `repeats` times: twice as many steps.": (
            _circle(steps, repeats)
        ),
        "You stop a circle of two one round too late.": right + 2,
        "You stop a circle of two one step too late. (Do you cut the run into pairs from its beginning? A circle may "
        "begin anywhere.)": right + 1,
        "You compare actions alone. The same question with a new answer is no circle.": (
            loop_detector([action for action, _ in steps], repeats)
        ),
    }


def _counted(steps: Sequence, repeats: int) -> int:
    """Stopped when any step was there `repeats` times, in a row or not."""
    for n in range(1, len(steps) + 1):
        if steps[:n].count(steps[n - 1]) == repeats:
            return n
    return 0


def _circle(steps: Sequence, most: int) -> int:
    """Stopped after `most` steps of which each equals the one before the last."""
    for n in range(most, len(steps) + 1):
        tail = steps[n - most : n]
        if all(tail[i] == tail[i - 2] for i in range(2, most)):
            return n
    return 0


# --- retrying_toolbox -----------------------------------------------------------------------------------


def retrying_toolbox(
    toolbox: Callable[[str, str], str], tool: str, argument: str, read_only: Sequence[str], tries: int
) -> str:
    """What a tool says; one that only reads is tried again after a time-out."""
    harmless = tool in read_only
    for _ in range(tries if harmless else 1):
        try:
            return toolbox(tool, argument)
        except TimeoutError:
            continue
        except Exception as error:
            return f"error: {error}"
    return "error: timeout" if harmless else "error: timeout, it may have been done"


READ_ONLY = ("orders", "policy")
LATE = TimeoutError()
UNSURE = "error: timeout, it may have been done"


def examine_retrying_toolbox(yours: Attempt) -> None:
    """A tool that reads, then one that writes, then errors that are no time-outs."""
    for outcomes, tool, mistakes in (*reading_cases(), *writing_cases(), *failing_cases()):
        inputs = (Scripted(*outcomes), tool, "4821", list(READ_ONLY), 3)
        wanted = retrying_toolbox(copy.deepcopy(inputs[0]), *inputs[1:])
        yours.compare(inputs, wanted, mistakes)


ToolCase = tuple[tuple[str | Exception, ...], str, dict[str, str]]


def reading_cases() -> Iterator[ToolCase]:
    """A tool that changes nothing, and time-outs."""
    yield ("shipped", "shipped again", LATE, "shipped at last"), "orders", {
        "You call a tool again that has answered.": "orders[4821]: shipped again",
        "You call the tool three times whatever it says. The first answer counts.": "orders[4821]: shipped at last",
    }  # fmt: skip
    yield (LATE, "shipped", "shipped again"), "orders", {
        "You give up after the first time-out. A tool that changes nothing is tried again.": "error: timeout",
        "You treat a tool in `read_only` as one that writes. It changes nothing: try it again.": UNSURE,
        "You call a tool again that has answered.": "orders[4821]: shipped again",
        "A time-out is an error like all others with you: TimeoutError is an Exception. Its `except` comes first.": (
            "error: "
        ),
    }  # fmt: skip
    yield (LATE, LATE, "shipped", "shipped again"), "orders", {
        "You try once less than `tries`. They are all calls, the first one included.": "error: timeout",
    }  # fmt: skip
    yield (LATE, LATE, LATE, "shipped"), "policy", {
        "You try once more than `tries`. They are all calls, the first one included.": "policy[4821]: shipped",
        "A look-up may have been done with you. It changes nothing: say error: timeout.": UNSURE,
        "You pass on the text of the TimeoutError, which is empty. Say error: timeout.": "error: ",
        'Your message lacks "error: ".': "timeout",
    }  # fmt: skip


def writing_cases() -> Iterator[ToolCase]:
    """A tool that changes something."""
    yield ("36 euros paid", "36 euros paid twice"), "refund", {
        "You refuse tools that are not in `read_only`. They run, but once.": "error: no tool refund",
        "You call a tool again that has answered, and it pays twice.": "refund[4821]: 36 euros paid twice",
    }  # fmt: skip
    yield (LATE, "36 euros paid", "36 euros paid twice"), "refund", {
        "You repeat a call that changes something. The first one may have arrived, and then it is done twice.": (
            "refund[4821]: 36 euros paid"
        ),
        "Your message does not tell that a refund may have been done. The model would try it again.": "error: timeout",
        "You pass on the text of the TimeoutError, which is empty.": "error: ",
    }  # fmt: skip


def failing_cases() -> Iterator[ToolCase]:
    """Errors that would come again."""
    told = "no order 4821"
    yield (ValueError(told), "shipped"), "orders", {
        "You try again after every error. Only a time-out may pass: no order 4821 would come again.": (
            "orders[4821]: shipped"
        ),
        "Every error is a time-out with you. Pass on what the exception says.": "error: timeout",
        'Your message lacks "error: ".': told,
        "Your message names the kind of the exception, too. Its text is enough.": f"error: ValueError: {told}",
        "Your message shows the exception as Python code: `repr`. Take its text.": f"error: ValueError('{told}')",
    }  # fmt: skip
    yield (LATE, RuntimeError("the database is locked"), "shipped"), "orders", {
        "You try again after an error that is no time-out.": "orders[4821]: shipped",
        "After a time-out you no longer hear what else goes wrong.": "error: timeout",
    }  # fmt: skip
    yield (ConnectionError("over the limit"), "36 euros paid"), "refund", {
        "You repeat a call that changes something.": "refund[4821]: 36 euros paid",
        "Every error of a tool that writes is a time-out with you. Here it is known that it was refused.": UNSURE,
    }  # fmt: skip


# --- approval_gate --------------------------------------------------------------------------------------


def approval_gate(
    calls: Sequence[tuple[str, str]],
    harmless: Sequence[str],
    ask: Callable[[str, str], tuple[str, str]],
    run: Callable[[str, str], str],
) -> list[str]:
    """The answers to `calls`: first all questions, then all that may run."""
    granted: list[str | None] = []  # with which argument each call runs
    for tool, argument in calls:
        decision, new = ("approve", "") if tool in harmless else ask(tool, argument)
        allowed = {"approve": argument, "edit": new}
        granted.append(allowed.get(decision))
    answers = []
    for (tool, _), argument in zip(calls, granted, strict=True):
        answers.append("error: a person said no" if argument is None else run(tool, argument))
    return answers


NO = "error: a person said no"


CALLS = (
    ("orders", "4821"),
    ("refund", "4821"),
    ("mail", "Ada: sorry"),
    ("policy", "fee"),
    ("refund", "4822"),
    ("orders_delete", "4823"),
    ("refund", "4821"),
    ("policy", "delivery"),
)
HARMLESS = ("orders", "policy")
DECISIONS = {
    ("refund", "4821"): [("approve", "4800"), ("reject", "once is enough")],
    ("mail", "Ada: sorry"): [("edit", "Ada: we are sorry")],
    ("refund", "4822"): [("reject", "4821")],
    ("orders_delete", "4823"): [("later", "4823")],
}


def examine_approval_gate(yours: Attempt) -> None:
    """Eight calls of one reply where every known mistake shows; only harmless ones; none; an edit to nothing."""
    desk = Desk(DECISIONS)
    inputs = (list(CALLS), list(HARMLESS), desk.ask, desk.run)
    yours.compare(inputs, _gated(), gate_mistakes())
    desk = Desk({})
    inputs = ([("policy", "fee"), ("orders", "7")], list(HARMLESS), desk.ask, desk.run)
    asks = "You ask about harmless calls, too. Who is asked all the time no longer reads."
    asked = [
        f"{tool}[{argument}] ran, the {n}. call, after 2 questions" for n, (tool, argument) in enumerate(inputs[0], 1)
    ]
    yours.compare(inputs, _gated(inputs[0], {}), {asks: [NO, NO], f"{asks} (And then you run them.)": asked})
    empty = {("mail", "Ada: hello"): [("edit", "")], ("mail", "Bo: hello"): [("", "Bo: hello")]}
    desk = Desk(empty)
    inputs = ([("mail", "Ada: hello"), ("mail", "Bo: hello")], [], desk.ask, desk.run)
    yours.compare(inputs, _gated(inputs[0], empty), empty_mistakes())
    yours.compare(([], list(HARMLESS), desk.ask, desk.run), [])


def _gated(
    calls: Sequence[tuple[str, str]] = CALLS,
    decisions: dict = DECISIONS,
    harmless: Sequence[str] = HARMLESS,
    gate: Callable = approval_gate,
) -> list[str]:
    """What a gate gives with a desk of its own."""
    desk = Desk(decisions)
    return gate(calls, harmless, desk.ask, desk.run)


def empty_mistakes() -> dict[str, list]:
    """What known mistakes give for an edit to nothing, and for an empty decision."""
    sent = "mail[] ran, the 1. call, after 2 questions"
    return {
        'An edit to an empty argument is a no with you. Compare with None: "" is an argument, too.': [NO, NO],
        "An empty decision is a yes with you. Whatever is neither approve nor edit is a no.": (
            [sent, "mail[Bo: hello] ran, the 2. call, after 2 questions"]
        ),
        "With an empty argument you run the old one. The person has changed it.": (
            ["mail[Ada: hello] ran, the 1. call, after 2 questions", NO]
        ),
    }


def gate_mistakes() -> dict[str, list]:
    """What known mistakes give for eight calls, of which a person approves, edits and refuses some."""
    right = _gated()
    ran = [answer for answer in right if answer != NO]
    refused = dict(zip(CALLS, right, strict=True))
    return {
        "You run each call before the next question is asked. The person may stop the whole reply at the third: ask "
        "everything first.": _gated(gate=_one_by_one),
        "Your harmless calls run before the questions are answered. Nothing runs before.": _gated(gate=_harmless_first),
        "You ask about nothing: everything runs.": _gated(harmless=[tool for tool, _ in CALLS]),
        "You ask about harmless calls, too. Who is asked all the time no longer reads.": _gated(harmless=()),
        "An edited call runs with the old argument with you.": _decided({"edit": 0, "approve": 0}),
        "An edit counts as a no with you. The call runs, with the person's argument.": _decided({"approve": 0}),
        "An approved call runs with the new argument with you. It runs as it is; only an edit changes it.": (
            _decided({"approve": 1, "edit": 1})
        ),
        "A decision that is neither approve nor edit nor reject is a yes with you. Whatever is not clearly a yes is a "
        "no.": _decided({"approve": 0, "edit": 1, "later": 0}),
        "A rejected call runs with you.": _decided({"approve": 0, "edit": 1, "reject": 0}),
        "Calls that were refused have no answer with you. There is one for each call: the model waits for it.": ran,
        "One no stops all calls with you. The others run.": [NO for _ in CALLS],
        "After the first no you run nothing. Each call has its own decision.": [*right[:4], NO, NO, NO, NO],
        "You ask once about equal calls. A person who approves one refund has not approved two.": _asked_once(),
        "You compare the beginning of a tool's name: `orders_delete` passes as `orders`.": (
            _gated(harmless=(*HARMLESS, "orders_delete"))
        ),
        "You ask again about an edited call. The person has just written it.": _gated(gate=_asked_again),
        "Your answer to a refused call is what the person said. It is the fixed text.": _reasons(right),
        "Your answers are sorted: first those that ran. Keep the order of `calls`.": [
            *ran,
            *[NO] * (len(right) - len(ran)),
        ],
        "Your function returns the decisions. Run what may run, and return the answers.": _verdicts(),
        "You keep answers by call in a dict, so that equal calls get one answer.": [refused[call] for call in CALLS],
    }


def _decided(parts: dict[str, int]) -> list[str]:
    """The answers if each decision in `parts` runs with the old (0) or the new (1) argument, and no other runs."""

    def gate(calls: Sequence, harmless: Sequence, ask: Callable, run: Callable) -> list[str]:
        def judge(tool: str, argument: str) -> tuple[str, str]:
            decision, new = ask(tool, argument)
            return ("edit", (argument, new)[parts[decision]]) if decision in parts else ("reject", "")

        return approval_gate(calls, harmless, judge, run)

    return _gated(gate=gate)


def _one_by_one(calls: Sequence, harmless: Sequence, ask: Callable, run: Callable) -> list[str]:
    """Ask and run in one loop."""
    return [approval_gate([call], harmless, ask, run)[0] for call in calls]


def _harmless_first(calls: Sequence, harmless: Sequence, ask: Callable, run: Callable) -> list[str]:
    """Run what is harmless, then ask, then run the rest."""
    done = {i: run(*call) for i, call in enumerate(calls) if call[0] in harmless}
    rest = [call for i, call in enumerate(calls) if i not in done]
    later = iter(approval_gate(rest, harmless, ask, run))
    return [done[i] if i in done else next(later) for i in range(len(calls))]


def _asked_again(calls: Sequence, harmless: Sequence, ask: Callable, run: Callable) -> list[str]:
    """An edited call is put to the person once more."""

    def twice(tool: str, argument: str) -> tuple[str, str]:
        decision, new = ask(tool, argument)
        return ask(tool, new) if decision == "edit" else (decision, new)

    return approval_gate(calls, harmless, twice, run)


def _asked_once() -> list[str]:
    """A decision is remembered for equal calls."""

    def gate(calls: Sequence, harmless: Sequence, ask: Callable, run: Callable) -> list[str]:
        known: dict[tuple[str, str], tuple[str, str]] = {}

        def remembered(tool: str, argument: str) -> tuple[str, str]:
            if (tool, argument) not in known:
                known[tool, argument] = ask(tool, argument)
            return known[tool, argument]

        return approval_gate(calls, harmless, remembered, run)

    return _gated(gate=gate)


def _verdicts() -> list[str]:
    """The decisions, "approve" for what is harmless."""
    desk = Desk(DECISIONS)
    return ["approve" if tool in HARMLESS else desk.ask(tool, argument)[0] for tool, argument in CALLS]


def _reasons(right: list[str]) -> list[str]:
    """What the person said in place of the fixed text."""
    desk = Desk(DECISIONS)
    answers = []
    for (tool, argument), answer in zip(CALLS, right, strict=True):
        said = "" if tool in HARMLESS else desk.ask(tool, argument)[1]
        answers.append(f"error: {said}" if answer == NO else answer)
    return answers


# --- reflection_memory ----------------------------------------------------------------------------------


def as_text(notes: Sequence[str]) -> str:
    """The heading and a line for each note; "" without a note."""
    heading = "What earlier trials taught:"
    lines = [f"- {note}" for note in notes]
    return "\n".join([heading, *lines]) if lines else ""


def reflection_memory(reflections: Sequence[str], last: int, budget: int, count: Callable[[str], int]) -> str:
    """The newest `last` different notes, fewer if they would take more than `budget` tokens."""
    kept: list[str] = []
    seen = {""}
    for note in reversed(reflections):
        plain = " ".join(note.lower().split())
        if plain not in seen and len(kept) < last:
            kept.insert(0, note.strip())
        seen.add(plain)
    while count(as_text(kept)) > budget:
        kept.pop(0)
    return as_text(kept)


HEADING = "What earlier trials taught:"
NOTES = (
    "read the order first. ",
    "USE THE CALCULATOR.",
    "DO NOT GUESS PRICES.",
    "",
    "LOOK AT THE FEE.",
    "Look  at the fee.",
    "  Look at the fee.",
)
ENOUGH = 1000


def examine_reflection_memory(yours: Attempt) -> None:
    """Seven notes of which three are kept; budgets; and no note at all."""
    inputs = (list(NOTES), 3, ENOUGH, count_words)
    yours.compare(inputs, reflection_memory(*inputs), note_mistakes(NOTES, 3))
    inputs = (["One is old.", "Two is newer, and longer than the others.", "Three is new."], 3, 20, count_words)
    yours.compare(inputs, reflection_memory(*inputs), budget_mistakes(*inputs))
    exact = "You leave out a note although it fits. Exactly `budget` tokens are allowed."
    inputs = (["One is old.", "Two is new."], 2, 12, count_words)
    yours.compare(inputs, reflection_memory(*inputs), {exact: as_text(["Two is new."])})
    alone = {
        "Your text is the heading alone. Without a note it is empty.": HEADING,
        "Your text keeps a note that is above the budget.": as_text(["A note of many words that do not fit."]),
        "Your text is None. Without a note it is empty.": None,
    }
    yours.compare((["A note of many words that do not fit."], 2, 7, count_words), "", alone)
    yours.compare((["", " "], 2, ENOUGH, count_words), "", {"A note without a word counts with you.": f"{HEADING}\n- "})


def note_mistakes(notes: Sequence[str], last: int) -> dict[str, Any]:
    """What known mistakes give for notes with doubles and an empty one, and room for all."""
    right = reflection_memory(notes, last, ENOUGH, count_words)
    kept = [line.removeprefix("- ") for line in right.split("\n")[1:]]
    normal = [" ".join(note.lower().split()) for note in kept]
    filled = [note.strip() for note in notes if note.strip()]
    return {
        "Your memory holds the same note twice. Capital letters and blanks do not make another one.": (
            as_text(filled[-last:])
        ),
        "Capital letters make another note with you. Compare in lower case.": as_text(_kept(notes, last, str.split)),
        "Blanks make another note with you. Compare the words.": as_text(_kept(notes, last, str.lower)),
        "Of the same notes you keep the oldest. The newest counts.": as_text(_kept_oldest(notes)[-last:]),
        "You cut down to the newest `last` first, and then remove what is double: too few are left.": (
            reflection_memory(notes[-last:], last, ENOUGH, count_words)
        ),
        "A note without a word counts with you.": as_text([kept[1], "", kept[2]]),
        "You keep the oldest ones. Keep the newest.": as_text(_kept(notes, ENOUGH, _words_of)[:last]),
        "Your notes come newest first. Oldest first is wanted: the newest stands nearest to the task.": (
            as_text(kept[::-1])
        ),
        "You overlook `last`.": as_text(_kept(notes, ENOUGH, _words_of)),
        "You keep one note too few.": as_text(kept[1:]),
        "Your memory holds notes in lower case or with other blanks. Compare so, but keep what was written.": (
            as_text(normal)
        ),
        "Your notes keep the blanks around them.": as_text([*kept[:-1], NOTES[-1]]),
        "Your text lacks the heading.": right.removeprefix(HEADING + "\n"),
        'Your lines lack "- ".': "\n".join([HEADING, *kept]),
        "Your text ends with a line break. Only between lines there is one.": right + "\n",
        "Your function returns the notes as a list. One text is wanted.": kept,
        "Your function returns the lines as a list. One text is wanted.": right.split("\n"),
    }


def _words_of(note: str) -> list[str]:
    return note.lower().split()


def _kept(notes: Sequence[str], last: int, plain: Callable[[str], Any]) -> list[str]:
    """The newest `last` notes that differ in `plain`, oldest first."""
    kept: list[str] = []
    seen: list[Any] = []
    for note in reversed([note.strip() for note in notes if note.strip()]):
        if plain(note) not in seen:
            kept.append(note)
        seen.append(plain(note))
    return kept[:last][::-1]


def _kept_oldest(notes: Sequence[str]) -> list[str]:
    """Every note where it first came."""
    return _kept(notes[::-1], len(notes), _words_of)[::-1]


def budget_mistakes(notes: list[str], last: int, budget: int, count: Callable[[str], int]) -> dict[str, Any]:
    """What known mistakes give where the oldest note does not fit."""
    words = as_text(notes).split()
    return {
        "You overlook `budget`.": as_text(notes),
        "You leave out the newest note. The oldest goes first.": as_text(notes[:-1]),
        "You leave out the longest note. The oldest goes first.": as_text([notes[0], notes[2]]),
        "You leave out more than you have to.": as_text(notes[2:]),
        "You cut the text in the middle of a note. Leave out whole notes.": " ".join(words[:budget]),
        "A text above the budget is thrown away with you. Leave out one note after the other.": "",
    }


# --- chunk ----------------------------------------------------------------------------------------------


def words_in(sentences: Sequence[str]) -> int:
    """The number of words in some sentences."""
    return sum(len(sentence.split()) for sentence in sentences)


def chunk(sentences: Sequence[str], size: int, overlap: int) -> list[str]:
    """Whole sentences in chunks of at most `size` words; neighbours share at most `overlap` words."""
    chunks: list[str] = []
    held: list[str] = []
    for sentence in sentences:
        if held and words_in([*held, sentence]) > size:
            chunks.append(" ".join(held))
            while words_in(held) > overlap:
                held = held[1:]
            while held and words_in([*held, sentence]) > size:
                held = held[1:]
        held = [*held, sentence]
    return [*chunks, " ".join(held)] if held else chunks


LETTER = (
    "Hello Ada.",
    "The courier will come tomorrow before noon, and he will ring the bell twice.",
    "He is never late.",
    "See you soon.",
    "It is light.",
    "Bye.",
    "Thank you.",
    "Your parcel left us today.",
    "Pay now.",
)


def examine_chunk(yours: Attempt) -> None:
    """Nine sentences where every known mistake shows; without overlap; one sentence; none."""
    inputs = (list(LETTER), 7, 3)
    yours.compare(inputs, chunk(*inputs), chunk_mistakes(*inputs))
    inputs = (["One two three.", "Four five.", "Six.", "Seven eight nine.", "Ten."], 6, 0)
    strict = "A chunk of exactly `size` words is too long for you. At most means that it may have them."
    always = "Without overlap your chunks still share a sentence. 0 words are no sentence."
    mistakes = {strict: chunk(inputs[0], 5, 0), always: _chunked(*inputs, tail=lambda held: held[-1:])}
    yours.compare(inputs, chunk(*inputs), mistakes)
    yours.compare((["One two."], 5, 2), ["One two."], {"A text of one chunk is lost with you.": []})
    yours.compare(
        ([], 5, 2), [], {"A text without a sentence gives an empty chunk with you. No chunk is wanted.": [""]}
    )


def _chunked(
    sentences: Sequence[str],
    size: int,
    overlap: int,
    tail: Callable[[list[str]], list[str]] | None = None,
    measure: Callable[[Sequence[str]], int] = words_in,
    fit: bool = True,
    none: bool = False,
) -> list[str]:
    """The reference with another overlap or measure, without making the overlap fit, or dropping it where not."""
    chunks: list[str] = []
    held: list[str] = []
    for sentence in sentences:
        if held and measure([*held, sentence]) > size:
            chunks.append(" ".join(held))
            held = tail(held) if tail else _last(held, overlap, measure)
            while fit and held and measure([*held, sentence]) > size:
                held = [] if none else held[1:]
        held = [*held, sentence]
    return [*chunks, " ".join(held)]


def _last(held: list[str], overlap: int, measure: Callable[[Sequence[str]], int]) -> list[str]:
    """The last sentences that together have at most `overlap` words."""
    while held and measure(held) > overlap:
        held = held[1:]
    return held


def _cut(sentences: Sequence[str], size: int) -> list[str]:
    """Pieces of `size` words, wherever sentences end."""
    words = " ".join(sentences).split()
    return [" ".join(words[i : i + size]) for i in range(0, len(words), size)]


def chunk_mistakes(sentences: list[str], size: int, overlap: int) -> dict[str, Any]:
    """What known mistakes give for a text with short sentences and one that is too long."""
    right = chunk(sentences, size, overlap)
    chunked = partial(_chunked, sentences, size, overlap)
    long = max(sentences, key=len)
    whole = " ".join(sentences)
    return {
        "Your chunks do not overlap.": chunk(sentences, size, 0),
        "You count sentences. `size` and `overlap` are words.": chunked(measure=len),
        "Your overlap is one sentence. It is as many of the last ones as have at most `overlap` words.": (
            chunked(tail=lambda held: held[-1:])
        ),
        "Your overlap is `overlap` sentences. It is at most that many words.": (
            chunked(tail=lambda held: held[-overlap:])
        ),
        "Your overlap is cut in the middle of a sentence. Only whole sentences are taken over.": (
            chunked(tail=lambda held: [" ".join(" ".join(held).split()[-overlap:])])
        ),
        "Your overlap is too small by one sentence. `overlap` words are allowed, not only less.": (
            chunk(sentences, size, overlap - 1)
        ),
        "Your chunks get too long: the overlap and the new sentence together may have `size` words.": (
            chunked(fit=False)
        ),
        "If the overlap does not fit before the next sentence you leave it out whole. Leave out its first sentences "
        "until it fits.": chunked(none=True),
        "The last chunk is lost with you.": right[:-1],
        "Your last chunk is overlap alone. Every chunk brings a new sentence.": [*right, sentences[-1]],
        "A sentence that is too long is lost with you. It is a chunk of its own.": (
            chunk([one for one in sentences if one != long], size, overlap)
        ),
        "You cut sentences. They stay whole, even one of more than `size` words.": _cut(sentences, size),
        "Your sentences are joined without a blank.": [_glued(one, sentences) for one in right],
        "Your chunks are lists of sentences. Join them with blanks.": [_parts(one, sentences) for one in right],
        "Each sentence is a chunk with you. A chunk takes as many as fit, and `size` counts words, not letters.": (
            list(sentences)
        ),
        "Your text is one chunk.": [whole],
        "A chunk of exactly `size` words is too long for you. At most means that it may have them.": (
            chunk(sentences, size - 1, overlap)
        ),
        "Your chunks may have one word more than `size`.": chunk(sentences, size + 1, overlap),
    }


def _parts(text: str, sentences: Sequence[str]) -> list[str]:
    """The sentences of a chunk."""
    return [sentence for sentence in sentences if f" {sentence} " in f" {text} "]


def _glued(text: str, sentences: Sequence[str]) -> str:
    return "".join(_parts(text, sentences))


# --- rank_fusion ----------------------------------------------------------------------------------------


def rank_fusion(rankings: Sequence[Sequence[str]], k: int = 60) -> list[str]:
    """All ids by reciprocal rank fusion (Cormack, Clarke and Buettcher 2009), ties by id."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, one in enumerate(ranking, start=1):
            scores[one] = scores.get(one, 0) + 1 / (k + rank)
    return sorted(scores, key=lambda one: (-scores[one], one))


# Found by trying random rankings until every known mistake gave another order.
SEARCHES = (("f", "g"), ("b", "e", "d", "c", "g"))


def examine_rank_fusion(yours: Attempt) -> None:
    """Two searches where every known mistake shows; another k; ties; an empty search."""
    inputs = ([list(ranking) for ranking in SEARCHES], 60)
    yours.compare(inputs, rank_fusion(*inputs), fusion_mistakes(*inputs))
    inputs = ([["b", "a", "d"], ["e", "a", "d"]], 1)
    fixed = "You overlook `k`, and always take 60."
    yours.compare(inputs, rank_fusion(*inputs), {fixed: rank_fusion(inputs[0], 60)})
    inputs = ([["z", "y"], ["y", "z"], []], 60)
    yours.compare(inputs, ["y", "z"], {"Ids of equal score come in any order with you. Take the alphabet.": ["z", "y"]})
    yours.compare(([], 60), [])


def fusion_mistakes(rankings: list[list[str]], k: int) -> dict[str, Any]:
    """What known mistakes give for two searches."""
    right = rank_fusion(rankings, k)
    ids = sorted(set(chain(*rankings)))
    fused = partial(_fused, rankings)
    turns = [one for one in chain(*zip_longest(*rankings)) if one]
    return {
        "You leave out ids that not every ranking lists. They count with what they have.": (
            [one for one in right if all(one in ranking for ranking in rankings)]
        ),
        "You take the mean over the rankings that list an id. Take the sum: who is found twice should gain.": (
            fused(lambda ranks: sum(1 / (k + rank) for rank in ranks) / len(ranks))
        ),
        "You take an id's best rank alone. Each ranking that lists it adds its part.": fused(lambda ranks: -min(ranks)),
        "You overlook `k`: the part is 1 / (k + rank).": fused(lambda ranks: sum(1 / rank for rank in ranks)),
        "Your ids come with the lowest score first.": fused(lambda ranks: -sum(1 / (k + rank) for rank in ranks)),
        "You add the ranks up. Then whoever is found twice loses; add 1 / (k + rank).": fused(
            lambda ranks: -sum(ranks)
        ),
        "You take the rankings in turns, and use no score.": list(dict.fromkeys(turns)),
        "You put one ranking behind the other.": list(dict.fromkeys(chain(*rankings))),
        "Ids of equal score come in the wrong order with you: the alphabet decides.": (
            fused(lambda ranks: sum(1 / (k + rank) for rank in ranks), ids[::-1])
        ),
        "Ids that are listed more often come first with you, whatever their ranks.": fused(lambda ranks: len(ranks)),
        "Your ids are sorted by the alphabet. The score comes first.": ids,
        "An id comes twice with you. Add its parts up.": sorted(chain(*rankings)),
        "Your function returns pairs of id and score. Return the ids.": [
            (one, sum(1 / (k + ranking.index(one) + 1) for ranking in rankings if one in ranking)) for one in right
        ],
    }


def _fused(
    rankings: Sequence[Sequence[str]], score: Callable[[list[int]], float], ids: Sequence[str] = ()
) -> list[str]:
    """All ids by `score` of their ranks, the highest first; equal ones in the order of `ids`."""
    ids = ids or sorted(set(chain(*rankings)))
    ranks = {one: [ranking.index(one) + 1 for ranking in rankings if one in ranking] for one in ids}
    return sorted(ids, key=lambda one: -score(ranks[one]))


# --- as_mcp ---------------------------------------------------------------------------------------------


def as_mcp(tool: dict) -> dict:
    """A tool's entry in MCP's tools/list (specification 2025-06-18, server/tools)."""
    function = tool["function"]
    entry = {"name": function["name"]}
    if function.get("description"):
        entry["description"] = function["description"]
    schema = function.get("parameters")
    entry["inputSchema"] = schema or {"type": "object", "properties": {}}
    return entry


NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
FIND_ORDER = {
    "type": "function",
    "function": {"name": "orders", "description": "Look an order up.", "parameters": NUMBER},
}
BARE = {"type": "object", "properties": {}}


def examine_as_mcp(yours: Attempt) -> None:
    """A whole tool, then one without parameters, one without a description, and both as None."""
    inputs = (copy.deepcopy(FIND_ORDER),)
    yours.compare(inputs, as_mcp(*inputs), mcp_mistakes())
    clock = {"type": "function", "function": {"name": "clock", "description": "The time."}}
    yours.compare((clock,), as_mcp(clock), bare_mistakes())
    silent = {"type": "function", "function": {"name": "orders", "parameters": NUMBER}}
    yours.compare((silent,), as_mcp(silent), silent_mistakes())
    for missing in (None, {}):
        empty = {"type": "function", "function": {"name": "clock", "description": None, "parameters": missing}}
        yours.compare((empty,), as_mcp(empty), empty_schema_mistakes(missing))


def mcp_mistakes() -> dict[str, Any]:
    """What known mistakes give for a tool with everything."""
    said = {"name": "orders", "description": "Look an order up."}
    entry = said | {"inputSchema": NUMBER}
    return {
        "Your schema stands under `parameters`. In MCP its key is `inputSchema`.": said | {"parameters": NUMBER},
        "Your schema stands under `input_schema`. MCP writes `inputSchema`, with a capital S.": (
            said | {"input_schema": NUMBER}
        ),
        "Your schema stands under `inputschema`. MCP writes `inputSchema`, with a capital S.": (
            said | {"inputschema": NUMBER}
        ),
        "Your entry is still wrapped in `function`. MCP has the three keys outside.": (
            {"type": "function", "function": entry}
        ),
        "Your entry is still wrapped in `function`, and its schema is under `parameters`.": FIND_ORDER,
        'Your entry has "type": "function". MCP knows no other kind, and does not write it.': (
            {"type": "function"} | entry
        ),
        "Your entry holds the schema twice, under `parameters`, too.": entry | {"parameters": NUMBER},
        "Your schema is its properties alone. Keep it whole.": said | {"inputSchema": NUMBER["properties"]},
        "Your schema is a text. It stays an object.": said | {"inputSchema": json.dumps(NUMBER)},
        "Your entry lacks the schema: `inputSchema`.": said,
        "Your entry lacks the description. The model chooses by it.": {"name": "orders", "inputSchema": NUMBER},
        "Your entry is in a list. One tool gives one entry.": [entry],
        "Your function returns the whole answer. One tool gives one entry.": {"tools": [entry]},
        "Your entry is a text. Return the dict; whoever sends it makes it JSON.": json.dumps(entry),
    }


def bare_mistakes() -> dict[str, Any]:
    """What known mistakes give for a tool without parameters."""
    said = {"name": "clock", "description": "The time."}
    return {
        "A tool without parameters has no `inputSchema` with you. MCP wants one: an object without properties.": said,
        "A tool without parameters has None for a schema with you. MCP wants an object without properties.": (
            said | {"inputSchema": None}
        ),
        "A tool without parameters has an empty schema with you. MCP wants its type, too: object.": (
            said | {"inputSchema": {}}
        ),
        "Your schema for a tool without parameters lacks `properties`: an empty dict.": (
            said | {"inputSchema": {"type": "object"}}
        ),
        "Your schema for a tool without parameters has `required`. Nothing is.": (
            said | {"inputSchema": BARE | {"required": []}}
        ),
    }


def silent_mistakes() -> dict[str, Any]:
    """What known mistakes give for a tool without a description."""
    entry = {"name": "orders", "inputSchema": NUMBER}
    return {
        "A tool without a description gets None with you. MCP refuses null: leave the key out.": (
            entry | {"description": None}
        ),
        "A tool without a description gets an empty one with you. Leave the key out.": entry | {"description": ""},
        "A tool without a description gets its name as one with you. Leave the key out.": (
            entry | {"description": "orders"}
        ),
    }


def empty_schema_mistakes(missing: dict | None) -> dict[str, Any]:
    """What known mistakes give where parameters and description are there, but empty."""
    return {
        f"Parameters that are {missing} go into your entry as they are. MCP wants an object without properties.": (
            {"name": "clock", "inputSchema": missing}
        ),
        "A description that is None goes into your entry. Leave the key out.": (
            {"name": "clock", "description": None, "inputSchema": BARE}
        ),
    }
