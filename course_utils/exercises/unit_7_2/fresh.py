"""Unit 7.2: fresh examples for grading. Who learned the notebook's by heart fails here.

Each function draws a few inputs and compares a student's results with those of the course's solution. What is drawn
keeps to the stub's promises. An input that remembers what it was asked is made twice, once for each of both.
"""

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from random import Random

from course_utils.exercises.diagnosis import Attempt
from course_utils.exercises.unit_7_2 import solutions
from course_utils.exercises.unit_7_2.inputs import Broken, Desk, Known, Scripted, count_letters, count_words

TOOLS = ("orders", "stock", "policy", "refund", "customer", "weather", "calculator", "mail")
WORDS = ("red", "cube", "cone", "late", "paid", "lost", "fee", "Ada", "Monday", "two", "blue", "return")


def _words(draw: Random, count: int) -> str:
    words = draw.sample(WORDS, count)
    return " ".join(words)


def _number(draw: Random) -> str:
    number = draw.randint(1000, 9999)
    return str(number)


# --- act ------------------------------------------------------------------------------------------------


def fresh_act(yours: Attempt, draw: Random) -> None:
    """Good steps, answers, and what models do wrong, with other tools."""
    good, bare, broken, absent = draw.sample(TOOLS, 4)
    argument, told = _words(draw, 2), _words(draw, 3)
    error = draw.choice([RuntimeError, ValueError, OSError, ConnectionError])(_words(draw, 3))
    tools = {
        good: Known({argument: f"{told}, shipped"}),
        bare: Known({"": _words(draw, 3)}),
        broken: Broken(error),
    }
    prompt = f"Question: What of {_words(draw, 2)}?\n"
    thought = f"Thought: Is it {_words(draw, 2)}?\n"
    action = f"Action: {good}[{argument}]"
    answer = f"Answer:  {told} "
    other_forms = (
        f"Action: {good} {argument}",
        f"{action} and then I wait",
        f"Action: {argument}",
    )
    for reply in (
        f"{thought}{action}\nObservation: {_words(draw, 2)}\n{answer}",
        f"{thought}{answer}\n{action}",
        f"{thought}Action: {bare}[]",
        f"{thought}Action: {absent}[{argument}]",
        f"Action: {broken}[{argument}]\n{thought}",
        f"Then I write {action}",
        f"It was {told}.",
        draw.choice(other_forms),
    ):
        inputs = (prompt, reply, tools)
        wanted = solutions.act(*inputs)
        yours.compare(inputs, wanted)


# --- find_calls -----------------------------------------------------------------------------------------


def fresh_find_calls(yours: Attempt, draw: Random) -> None:
    """Calls in all wrappings; between thoughts; beside what is no call, and beside broken ones; none."""
    beside = (_in_wrappings(draw), _beside_no_calls(draw), _beside_broken(draw), _chatter(draw))
    for reply in (*beside, *_with_thoughts(draw)):
        wanted = solutions.find_calls(reply)
        yours.compare((reply,), wanted)


def _call(draw: Random) -> str:
    """A call as a model writes it, with arguments that mislead whoever counts braces."""
    values = [draw.randint(1, 99), _words(draw, 2), "{", "} or }", [1, {"a": None}], {"deep": {"er": True}}, 0.5]
    keys = draw.sample(WORDS, draw.randint(0, 2))
    arguments = {key: draw.choice(values) for key in keys}
    call = {"name": draw.choice(TOOLS), "arguments": arguments}
    indent = draw.choice([None, None, 2])
    return json.dumps(call, indent=indent)


def _chatter(draw: Random) -> str:
    return f"I look for {_words(draw, 3)}."


def _in_wrappings(draw: Random) -> str:
    """Several calls, each in another wrapping."""
    bare, fenced, tagged, listed, last = (_call(draw) for _ in range(5))
    wrapped = [
        f"{_chatter(draw)} {bare}",
        f"```json\n{fenced}\n```",
        f"<tool_call>\n{tagged}\n</tool_call>",
        f"[{listed}, {fenced}]",
        f"The set {{1, 2}} is none, {last} is",
    ]
    draw.shuffle(wrapped)
    return "\n".join(wrapped)


def _with_thoughts(draw: Random) -> Iterator[str]:
    """Calls that count, and calls that a model only thinks of."""
    said, more, thought, other = (_call(draw) for _ in range(4))
    think = f"<think>Perhaps {thought}\nor not.</think>"
    again = f"<think>{_chatter(draw)} {other}</think>"
    yield f"{think}\n{said}{again}\n{more}"
    yield f"{said}{think}{more}{again}"
    yield f"{said}\n<think>Or {thought}"
    yield f"{_chatter(draw)} {thought}? No.</think>\n{said}"


def _beside_no_calls(draw: Random) -> str:
    """Good calls beside objects that are none, and one with a call inside."""
    name, number = draw.choice(TOOLS), draw.randint(1, 99)
    inner = {"name": draw.choice(TOOLS), "arguments": {"number": number}}
    objects = [
        {"price": number},
        {"name": name},
        {"name": number, "arguments": {}},
        {"arguments": {"number": number}},
        {"name": name, "arguments": {}},  # a good one
        {"name": "remember", "arguments": {"call": inner}},  # and another
    ]
    objects += [{"name": name, "arguments": odd} for odd in (str(number), [number], None, number)]
    draw.shuffle(objects)
    return "\n".join(map(json.dumps, objects))


def _beside_broken(draw: Random) -> str:
    """Good calls behind broken ones."""
    name, number = draw.choice(TOOLS), draw.randint(1, 99)
    broken = [
        f'{{"name": "{name}", "arguments": {{"number": {number}}},}}',
        f'{{"name": "{name}", "arguments": {{"number": None}}}}',
        f'{{"name": "{name}", "argum',
    ]
    draw.shuffle(broken)
    return "\n".join(f"{one}\n{_call(draw)}" for one in broken)


# --- loop_detector --------------------------------------------------------------------------------------


def fresh_loop_detector(yours: Attempt, draw: Random) -> None:
    """A circle of one, a circle of two, progress, and runs of few different steps."""
    repeats = draw.randint(2, 4)
    a, b, c = _steps(draw)
    changing = [(a[0], f"{a[1]} {n}") for n in range(repeats + 1)]  # the same question, another answer each time
    before = [*changing, a, b, c, a]
    other = repeats % 3 + 2
    for steps, times in (
        ([*before, *[b] * (repeats - 1), c, *[b] * (repeats + 1), a], repeats),
        ([*before, *[c, b] * (repeats + 1), a], repeats),
        ([*before, *[b, c] * (repeats - 1), b, a], repeats),
        (draw.choices([a, b], k=5 * other), other),
        (draw.choices([a, b, changing[0]], k=8 * other), other),
    ):
        wanted = solutions.loop_detector(steps, times)
        yours.compare((steps, times), wanted)


def _steps(draw: Random) -> list[tuple[str, str]]:
    """Three steps; two of them see the same."""
    seen, other = _words(draw, 2), _words(draw, 3)
    tools = draw.sample(TOOLS, 3)
    number = _number(draw)
    return [(f"{tool}[{number}]", text) for tool, text in zip(tools, (seen, seen, other), strict=True)]


# --- retrying_toolbox -----------------------------------------------------------------------------------


def fresh_retrying_toolbox(yours: Attempt, draw: Random) -> None:
    """Time-outs and errors, of tools that read and of tools that write."""
    *read_only, writes = draw.sample(TOOLS, 3)
    reads = draw.choice(read_only)
    number, tries = _number(draw), draw.randint(3, 5)
    late = [TimeoutError()] * (tries - 1)
    more = [_words(draw, 2) for _ in range(tries + 1)]  # what comes if the tool is called too often
    error = draw.choice([ValueError, RuntimeError, ConnectionError])(_words(draw, 3))
    for tool, outcomes in (
        (reads, [*late, *more]),
        (reads, [*late, TimeoutError(), *more]),
        (reads, [*late[1:], error, *more]),
        (writes, [TimeoutError(), *more]),
        (draw.choice([reads, writes]), more),
        (writes, [error, *more]),
    ):
        rest = (tool, number, read_only, tries)
        wanted = solutions.retrying_toolbox(Scripted(*outcomes), *rest)
        yours.compare((Scripted(*outcomes), *rest), wanted)


# --- approval_gate --------------------------------------------------------------------------------------


def fresh_approval_gate(yours: Attempt, draw: Random) -> None:
    """Replies with several calls, some of them equal; with harmless ones alone; with none."""
    tools = draw.sample(TOOLS, 4)
    harmless = tools[:2]
    look_ups = [(tool, _number(draw)) for tool in harmless]
    twice = (tools[3], _number(draw))
    risky = [(tools[2], _number(draw)) for _ in range(draw.randint(4, 6))]
    risky += [twice, (f"{harmless[0]}_all", _number(draw)), twice]
    many = [*look_ups, *risky]
    draw.shuffle(many)
    for calls in (many, many[::-1], look_ups, []):
        decisions = _decisions(draw, risky)
        desk, ours = Desk(decisions), Desk(decisions)
        wanted = solutions.approval_gate(calls, harmless, ours.ask, ours.run)
        yours.compare((calls, harmless, desk.ask, desk.run), wanted)


def _decisions(draw: Random, calls: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """What the person says about each call; each kind of decision comes before any comes twice."""
    kinds = ["approve", "edit", "edit", "reject", *draw.sample(["", "later", "yes", "Approve"], 2)]
    draw.shuffle(kinds)
    decisions: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for place, call in enumerate(calls):
        kind = kinds[place % len(kinds)]
        new = draw.choice(["", _number(draw)])
        decisions.setdefault(call, []).append((kind, new))
    return decisions


# --- reflection_memory ----------------------------------------------------------------------------------


def fresh_reflection_memory(yours: Attempt, draw: Random) -> None:
    """Many notes and room for all; several budgets; another counter; no note."""
    first, second = _notes(draw), _notes(draw)
    doubled = _with_doubles(draw, first)
    whole = solutions.reflection_memory(second, 5, 1000, count_letters)
    exact = count_letters(whole)
    for inputs in (
        (doubled, 5, 1000, count_words),
        (doubled[::-1], draw.randint(2, 3), 1000, count_words),
        (first, 5, draw.randint(9, 18), count_words),
        (second, 5, draw.randint(50, 65), count_letters),
        (second, 5, exact, count_letters),
        ([first[0], " "], 2, 5, count_words),
    ):
        wanted = solutions.reflection_memory(*inputs)
        yours.compare(inputs, wanted)


def _notes(draw: Random) -> list[str]:
    """Five notes, with blanks around some."""
    lengths = draw.choices(range(2, 6), k=5)
    notes = [f"{_words(draw, length)}." for length in lengths]
    return [f"{draw.choice(['', ' '])}{note} " for note in notes]


def _with_doubles(draw: Random, notes: Sequence[str]) -> list[str]:
    """With three of them again, in other letters or with other blanks, and with one that is empty."""
    first, second, *others = draw.sample(notes, len(notes))
    newest = [first, first.upper(), second, second.replace(" ", "  "), others[0].title()]
    draw.shuffle(newest)
    empty = draw.choice(["", "  "])
    return [*others, *newest[:-1], empty, newest[-1]]


# --- chunk ----------------------------------------------------------------------------------------------


def fresh_chunk(yours: Attempt, draw: Random) -> None:
    """Texts of short sentences and some that are too long, with several overlaps; one sentence."""
    for overlap in (0, draw.randint(2, 3), draw.randint(4, 5)):
        size = draw.randint(7, 9)
        lengths = [*draw.choices(range(1, 5), k=12), size + draw.randint(1, 3)]
        draw.shuffle(lengths)
        sentences = [_sentence(draw, length) for length in lengths]
        wanted = solutions.chunk(sentences, size, overlap)
        yours.compare((sentences, size, overlap), wanted)
    for sentences in ([_sentence(draw, 8)], []):
        wanted = solutions.chunk(sentences, 5, 2)
        yours.compare((sentences, 5, 2), wanted)


def _sentence(draw: Random, length: int) -> str:
    return f"{_words(draw, length)}."


# --- rank_fusion ----------------------------------------------------------------------------------------


def fresh_rank_fusion(yours: Attempt, draw: Random) -> None:
    """Two searches, and several values of k; ties; one search, and an empty one."""
    ids = [f"{word.lower()}-{_number(draw)}" for word in WORDS]  # whether B comes before a, the stub leaves open
    draw.shuffle(ids)
    few, small = ids[:3], draw.randint(1, 2)
    for rankings, k in (
        (_searches(draw, ids, 60), 60),
        (_searches(draw, ids, small), small),
        ([few, few[::-1]], draw.randint(1, 60)),
        ([[], ids[:4]], draw.randint(10, 60)),
    ):
        wanted = solutions.rank_fusion(rankings, k)
        yours.compare((rankings, k), wanted)


def _searches(draw: Random, ids: Sequence[str], k: int) -> list[list[str]]:
    """Two rankings in which only ids of the same ranks have the same score: no tie hangs on how sums are rounded."""
    while True:
        rankings = [draw.sample(ids[:9], 7), draw.sample(ids[3:], 8)]
        ranks = {_ranks(one, rankings) for one in ids}
        scores = {_score(places, k) for places in ranks}
        if len(scores) == len(ranks):
            return rankings


def _ranks(one: str, rankings: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """The places of an id, the best first."""
    ranks = [ranking.index(one) + 1 for ranking in rankings if one in ranking]
    return tuple(sorted(ranks))


def _score(ranks: Sequence[int], k: int) -> Fraction:
    """The score without any rounding."""
    parts = [Fraction(1, k + rank) for rank in ranks]
    return sum(parts, Fraction())


# --- as_mcp ---------------------------------------------------------------------------------------------


def fresh_as_mcp(yours: Attempt, draw: Random) -> None:
    """Whole tools, and tools of which something is missing, None or empty."""
    absent = object()
    for description, parameters in (
        (f"Looks up {_words(draw, 3)}.", _schema(draw)),
        (draw.choice([absent, None, ""]), _schema(draw)),
        (_words(draw, 4), absent),
        (draw.choice([absent, None, ""]), draw.choice([None, {}])),
    ):
        function = {"name": draw.choice(TOOLS), "description": description, "parameters": parameters}
        given = {key: value for key, value in function.items() if value is not absent}
        tool = {"type": "function", "function": given}
        wanted = solutions.as_mcp(tool)
        yours.compare((tool,), wanted)


def _schema(draw: Random) -> dict:
    """The JSON schema of a tool's parameters."""
    names = draw.sample(WORDS, draw.randint(1, 3))
    kinds = ("string", "integer", "number", "boolean")
    properties = {name: {"type": draw.choice(kinds), "description": _words(draw, 2)} for name in names}
    return {"type": "object", "properties": properties, "required": names[:1]}
