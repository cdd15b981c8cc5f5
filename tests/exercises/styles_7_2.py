"""Right answers to the exercises of Unit 7.2 in many styles. All of them have to pass."""

import itertools
import json
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial, reduce

# --- act

FORM = "error: write Action: tool[argument]"


def act_lines(prompt, reply, tools):
    said = []
    for line in reply.split("\n"):
        said.append(line)
        if line.startswith("Answer:"):
            return prompt, line[len("Answer:") :].strip()
        if line.startswith("Action:"):
            break
    else:
        return prompt + reply + "\nObservation: " + FORM + "\n", ""
    action = said[-1][len("Action:") :].strip()
    name, bracket, rest = action.partition("[")
    if not bracket or not rest.endswith("]") or not name.isidentifier():
        seen = FORM
    elif name not in tools:
        seen = "error: no tool " + name
    else:
        try:
            seen = tools[name](rest[:-1])
        except Exception as problem:
            seen = "error: " + str(problem)
    return prompt + "\n".join(said) + "\nObservation: " + seen + "\n", ""


def act_match(prompt: str, reply: str, tools: dict[str, Callable[[str], str]]) -> tuple[str, str]:
    found = re.search(r"^(?P<kind>Action|Answer):(?P<rest>.*)$", reply, re.MULTILINE)
    match found and found["kind"]:
        case "Answer":
            return prompt, found["rest"].strip()
        case "Action":
            reply = reply[: found.end()]
            rest = found["rest"]
        case _:
            rest = ""
    return f"{prompt}{reply}\nObservation: {act_seen(rest, tools)}\n", ""


def act_seen(rest, tools):
    call = re.match(r"^\s*(\w+)\[(.*)\]\s*$", rest)
    if call is None:
        return FORM
    try:
        return tools.get(call[1], partial(act_missing, call[1]))(call[2])
    except Exception as error:
        return f"error: {error}"


def act_missing(name, argument):
    raise LookupError(f"no tool {name}")


def act_in_try(prompt, reply, tools):
    line = re.search(r"^(Action|Answer):", reply, re.M)
    end = len(reply)
    try:
        if line is None:
            raise ValueError("write Action: tool[argument]")
        end = (reply + "\n").index("\n", line.end())
        rest = reply[line.end() : end].strip()
        if line[1] == "Answer":
            return prompt, rest
        call = re.fullmatch(r"(\w+)\[(.*)\]", rest)
        if call is None:
            raise ValueError("write Action: tool[argument]")
        if call[1] not in tools:
            raise ValueError(f"no tool {call[1]}")
        observation = tools[call[1]](call[2])
    except Exception as error:
        observation = f"error: {error}"
    return "".join([prompt, reply[:end], "\nObservation: ", observation, "\n"]), ""


class Turn:
    def __init__(self, reply):
        self.lines = reply.splitlines()
        starts = [i for i, line in enumerate(self.lines) if line.startswith(("Action:", "Answer:"))]
        self.at = starts[0] if starts else None
        self.line = self.lines[self.at] if starts else ""

    def said(self):
        return "\n".join(self.lines if self.at is None else self.lines[: self.at + 1])


def act_class(prompt, reply, tools):
    turn = Turn(reply)
    kind, _, rest = turn.line.partition(":")
    if kind == "Answer":
        return (prompt, rest.strip())
    return (prompt + turn.said() + "\nObservation: " + act_seen(rest, tools) + "\n", "")


def act_known_tools(prompt, reply, tools):
    """A pattern of the known tools alone."""
    line = re.search(r"^(Action|Answer): *(.*?) *$", reply, re.M)
    if line and line[1] == "Answer":
        return prompt, line[2]
    said = reply if line is None else reply[: line.end(2)]
    known = "|".join(map(re.escape, tools))
    action = line[2] if line else ""
    if good := re.fullmatch(rf"({known})\[(.*)\]", action):
        try:
            seen = tools[good[1]](good[2])
        except Exception as error:
            seen = f"error: {error!s}"
    elif other := re.fullmatch(r"(\w+)\[.*\]", action):
        seen = f"error: no tool {other[1]}"
    else:
        seen = FORM
    return f"{prompt}{said}\nObservation: {seen}\n", ""


def act_next(prompt, reply, tools):
    lines = reply.split("\n")
    at = next((i for i, one in enumerate(lines) if one[:7] in ("Action:", "Answer:")), len(lines))
    line = lines[at] if at < len(lines) else ""
    if line[:7] == "Answer:":
        return prompt, line[7:].strip()
    return prompt + "\n".join([*lines[: at + 1], f"Observation: {act_seen(line[7:], tools)}", ""]), ""


def act_finditer(prompt, reply, tools):
    for line in re.finditer(r"^.*$", reply, re.M):
        word, colon, rest = line.group().partition(":")
        if colon and word == "Answer":
            return prompt, rest.strip()
        if colon and word == "Action":
            return prompt + reply[: line.end()] + f"\nObservation: {act_seen(rest, tools)}\n", ""
    return prompt + reply + f"\nObservation: {FORM}\n", ""


# --- find_calls


def sober(reply):
    reply = re.sub(r"<think>.*?(?:</think>|$(?![\r\n]))", "", reply, flags=re.DOTALL)
    return reply.split("</think>")[-1]


def no_thoughts(reply):
    """Without regular expressions."""
    while "<think>" in reply:
        before, _, rest = reply.partition("<think>")
        reply = before + rest.partition("</think>")[2]
    return reply[reply.rfind("</think>") + len("</think>") :] if "</think>" in reply else reply


def calls_loop(reply):
    text, calls, at = sober(reply), [], 0
    while True:
        at = text.find("{", at)
        if at == -1:
            return calls
        try:
            value, at = json.JSONDecoder().raw_decode(text, at)
        except json.JSONDecodeError:
            at += 1
            continue
        if isinstance(value.get("name"), str) and isinstance(value.get("arguments"), dict):
            calls.append((value["name"], value["arguments"]))


def calls_generator(reply: str) -> list[tuple[str, dict]]:
    def objects(text):
        decoder, rest = json.JSONDecoder(), text
        while "{" in rest:
            rest = rest[rest.index("{") :]
            try:
                value, end = decoder.raw_decode(rest)
                yield value
            except ValueError:
                end = 1
            rest = rest[end:]

    good = [value for value in objects(no_thoughts(reply)) if calls_good(value)]
    return [(value["name"], value["arguments"]) for value in good]


def calls_good(value):
    match value:
        case {"name": str(), "arguments": dict()}:
            return True
    return False


def calls_recursive(reply, sobered=False):
    text = reply if sobered else no_thoughts(reply)
    start = text.find("{")
    if start < 0:
        return []
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return calls_recursive(text[start + 1 :], True)
    here = [(value["name"], value["arguments"])] if calls_good(value) else []
    return here + calls_recursive(text[end:], True)


def calls_match(reply):
    calls, text, read, at = [], sober(reply), json.JSONDecoder().raw_decode, 0
    for brace in re.finditer(r"\{", text):
        if brace.start() < at:
            continue
        try:
            value, at = read(text, brace.start())
        except ValueError:
            continue
        match value:
            case {"name": str(name), "arguments": dict(arguments)}:
                calls.append((name, arguments))
    return calls


def calls_by_end(reply):
    """Tries every closing brace for every opening one."""
    text, calls, start = no_thoughts(reply), [], 0
    while (start := text.find("{", start)) >= 0:
        step = 1
        for end in [i + 1 for i, letter in enumerate(text) if letter == "}" and i > start]:
            try:
                value = json.loads(text[start:end])
            except ValueError:
                continue
            step = end - start
            if type(value.get("name")) is str and type(value.get("arguments")) is dict:
                calls.append((value["name"], value["arguments"]))
            break
        start += step
    return calls


def calls_reader(reply):
    text = sober(reply)
    return list(Reader(text))


@dataclass
class Reader:
    text: str
    at: int = 0

    def __iter__(self):
        return self

    def __next__(self):
        while (start := self.text.find("{", self.at)) != -1:
            value = self.read(start)
            if isinstance(value.get("name"), str) and isinstance(value.get("arguments"), dict):
                return value["name"], value["arguments"]
        raise StopIteration

    def read(self, start):
        try:
            value, self.at = json.JSONDecoder().raw_decode(self.text, start)
        except ValueError:
            value, self.at = {}, start + 1
        return value


def calls_reduce(reply):
    text = no_thoughts(reply)

    def look(state, place):
        calls, at = state
        if place < at:
            return state
        try:
            value, end = json.JSONDecoder().raw_decode(text, place)
        except ValueError:
            return state
        more = [(value["name"], value["arguments"])] if calls_good(value) else []
        return calls + more, end

    braces = [i for i, letter in enumerate(text) if letter == "{"]
    return reduce(look, braces, ([], 0))[0]


def calls_letters(reply):
    """Any type that JSON gives, and the kinds asked at the end."""
    text, at, values = sober(reply), 0, []
    while at < len(text):
        try:
            value, at = json.JSONDecoder().raw_decode(text, at) if text[at] == "{" else (None, at + 1)
        except ValueError:
            value, at = None, at + 1
        values.append(value)
    objects = [value for value in values if isinstance(value, dict)]
    named = [value for value in objects if isinstance(value.get("name"), str)]
    return [(value["name"], value["arguments"]) for value in named if isinstance(value.get("arguments"), dict)]


# --- loop_detector


def loop_tail(steps, repeats):
    for n in range(len(steps) + 1):
        for length in 1, 2:
            tail = steps[:n][-length * repeats :]
            if len(tail) == length * repeats and tail == tail[:length] * repeats:
                return n
    return 0


def loop_runs(steps, repeats):
    """Counts how long the last step and the last pair have gone on."""
    same = alternating = 1
    for n, step in enumerate(steps, 1):
        same = same + 1 if n > 1 and step == steps[n - 2] else 1
        alternating = alternating + 1 if n > 2 and step == steps[n - 3] else min(n, 2)
        if same >= repeats or alternating >= 2 * repeats:
            return n
    return 0


def loop_sets(steps: Sequence[tuple[str, str]], repeats: int) -> int:
    for n in range(repeats, len(steps) + 1):
        if len(set(steps[n - repeats : n])) == 1:
            return n
        tail = steps[max(0, n - 2 * repeats) : n]
        if len(tail) == 2 * repeats and len(set(tail[::2])) == len(set(tail[1::2])) == 1:
            return n
    return 0


def loop_deque(steps, repeats):
    one, two = deque(maxlen=repeats), deque(maxlen=2 * repeats)
    for n, step in enumerate(steps, 1):
        one.append(step)
        two.append(step)
        if len(one) == repeats and one.count(step) == repeats:
            return n
        if len(two) == 2 * repeats and all(two[i] == two[i % 2] for i in range(2 * repeats)):
            return n
    return 0


def loop_next(steps, repeats):
    def circle(n):
        return any(
            n >= size * repeats and all(steps[n - 1 - i] == steps[n - 1 - i % size] for i in range(size * repeats))
            for size in (1, 2)
        )

    return next((n for n in range(1, len(steps) + 1) if circle(n)), 0)


def loop_text(steps, repeats):
    """As a regular expression over letters."""
    letters = {step: chr(97 + i) for i, step in enumerate(dict.fromkeys(steps))}
    text = "".join(letters[step] for step in steps)
    ends = [n for n in range(len(text) + 1) if re.search(rf"(.|..)\1{{{repeats - 1}}}$", text[:n])]
    return min(ends, default=0)


def loop_ends(steps, repeats):
    found = []
    for length in (1, 2):
        size = length * repeats
        for start in range(len(steps) - size + 1):
            window = steps[start : start + size]
            if all(window[i : i + length] == window[:length] for i in range(0, size, length)):
                found.append(start + size)
    return min(found) if found else 0


def loop_strings(steps, repeats):
    seen = [f"{action}\n{observation}" for action, observation in steps]
    for n in range(1, len(seen) + 1):
        back = seen[:n][::-1]
        for length in (2, 1):
            if n >= length * repeats and back[: length * repeats] == back[:length] * repeats:
                return n
    return 0


# --- retrying_toolbox


def retry_while(toolbox, tool, argument, read_only, tries):
    left = tries if tool in read_only else 1
    while left:
        left -= 1
        try:
            return toolbox(tool, argument)
        except TimeoutError:
            pass
        except Exception as error:
            return "error: " + str(error)
    if tool in read_only:
        return "error: timeout"
    return "error: timeout, it may have been done"


def retry_recursive(toolbox, tool, argument, read_only, tries):
    try:
        return toolbox(tool, argument)
    except TimeoutError:
        if tool not in read_only:
            return "error: timeout, it may have been done"
        return retry_recursive(toolbox, tool, argument, read_only, tries - 1) if tries > 1 else "error: timeout"
    except Exception as error:
        return f"error: {error}"


def retry_isinstance(toolbox, tool, argument, read_only, tries):
    harmless = set(read_only)
    for attempt in range(1, tries + 1):
        try:
            answer = toolbox(tool, argument)
        except Exception as error:
            if not isinstance(error, TimeoutError):
                return f"error: {error}"
            if tool not in harmless:
                return "error: timeout, it may have been done"
            if attempt == tries:
                return "error: timeout"
        else:
            return answer


def retry_two_ways(toolbox, tool, argument, read_only, tries):
    def one() -> tuple[bool, str]:
        try:
            return True, toolbox(tool, argument)
        except TimeoutError:
            return False, "error: timeout"
        except Exception as error:
            return True, f"error: {error}"

    if tool not in read_only:
        done, answer = one()
        return answer if done else answer + ", it may have been done"
    done, count = False, 0
    while not done and count < tries:
        done, answer = one()
        count += 1
    return answer


def retry_for_else(toolbox, tool, argument, read_only, tries):
    reads = any(tool == one for one in read_only)
    for _ in range(max(1, tries * reads)):
        try:
            result = toolbox(tool, argument)
            break
        except TimeoutError:
            continue
        except Exception as error:
            result = f"error: {error}"
            break
    else:
        result = "error: timeout" + ("" if reads else ", it may have been done")
    return result


class Retrying:
    def __init__(self, inner, read_only, tries):
        self.inner, self.read_only, self.tries = inner, frozenset(read_only), tries

    def __call__(self, tool, argument):
        last = "error: timeout" if tool in self.read_only else "error: timeout, it may have been done"
        for _ in range(self.tries if tool in self.read_only else 1):
            try:
                return self.inner(tool, argument)
            except Exception as error:
                if type(error) is not TimeoutError:
                    return f"error: {error}"
        return last


def retry_class(toolbox: Callable[[str, str], str], tool: str, argument: str, read_only: Sequence[str], tries: int):
    return Retrying(toolbox, read_only, tries)(tool, argument)


def retry_tenacity(toolbox, tool, argument, read_only, tries):
    import tenacity

    most = tenacity.stop_after_attempt(tries if tool in read_only else 1)
    again = tenacity.Retrying(stop=most, retry=tenacity.retry_if_exception_type(TimeoutError), reraise=True)
    try:
        return again(toolbox, tool, argument)
    except TimeoutError:
        return {True: "error: timeout"}.get(tool in read_only, "error: timeout, it may have been done")
    except Exception as error:
        return f"error: {error}"


def retry_iter(toolbox, tool, argument, read_only, tries):
    answers = (retry_once(toolbox, tool, argument) for _ in range(tries if tool in read_only else 1))
    late = "error: timeout" if tool in read_only else "error: timeout, it may have been done"
    return next((answer for answer in answers if answer is not None), late)


def retry_once(toolbox, tool, argument):
    try:
        return toolbox(tool, argument)
    except TimeoutError:
        return None
    except Exception as error:
        return f"error: {error}"


# --- approval_gate

NO = "error: a person said no"


def gate_lists(calls, harmless, ask, run):
    plan = []
    for tool, argument in calls:
        if tool in harmless:
            plan.append(argument)
            continue
        decision, new = ask(tool, argument)
        if decision == "approve":
            plan.append(argument)
        elif decision == "edit":
            plan.append(new)
        else:
            plan.append(None)
    answers = []
    for i in range(len(calls)):
        if plan[i] is None:
            answers.append(NO)
        else:
            answers.append(run(calls[i][0], plan[i]))
    return answers


def gate_match(calls, harmless, ask, run):
    def granted(tool, argument):
        if tool in harmless:
            return tool, argument
        match ask(tool, argument):
            case ("approve", _):
                return tool, argument
            case ("edit", new):
                return tool, new
        return None

    plan = [granted(*call) for call in calls]
    return [run(*call) if call else NO for call in plan]


def gate_functions(calls, harmless, ask, run):
    """Notes what is to be done, and does it at the end."""
    todo = []
    for tool, argument in calls:
        decision, new = ask(tool, argument) if tool not in harmless else ("approve", None)
        if decision == "edit":
            argument = new
        if decision in ("approve", "edit"):
            todo.append(partial(run, tool, argument))
        else:
            todo.append(lambda: NO)
    return [do() for do in todo]


def gate_places(calls, harmless, ask, run):
    answers = [NO] * len(calls)
    may = {}
    for place, (tool, argument) in enumerate(calls):
        if tool in harmless:
            may[place] = argument
        else:
            said, new = ask(tool, argument)
            if said in {"approve", "edit"}:
                may[place] = argument if said == "approve" else new
    for place in sorted(may):
        answers[place] = run(calls[place][0], may[place])
    return answers


@dataclass
class Pending:
    tool: str
    argument: str
    allowed: bool = False


def gate_dataclass(calls, harmless, ask, run):
    pending = [Pending(tool, argument, tool in harmless) for tool, argument in calls]
    for one in pending:
        if not one.allowed:
            decision, new = ask(one.tool, one.argument)
            one.allowed = decision in ("approve", "edit")
            one.argument = new if decision == "edit" else one.argument
    return [run(one.tool, one.argument) if one.allowed else NO for one in pending]


def gate_recursive(calls, harmless, ask, run):
    def go(rest):
        """A function that runs the rest, when all is asked."""
        if not rest:
            return list
        (tool, argument), *more = rest
        decision, new = ("approve", "") if tool in harmless else ask(tool, argument)
        later = go(more)
        use = {"approve": argument, "edit": new}.get(decision)

        def runs():
            mine = NO if use is None else run(tool, use)
            return [mine, *later()]

        return runs

    return go(list(calls))()


def gate_deque(calls, harmless, ask, run):
    questions = [call for call in calls if call[0] not in harmless]
    decisions = deque([ask(tool, argument) for tool, argument in questions])
    answers = []
    for tool, argument in calls:
        decision, new = ("approve", "") if tool in harmless else decisions.popleft()
        if decision == "approve":
            answers.append(run(tool, argument))
        elif decision == "edit":
            answers.append(run(tool, new))
        else:
            answers.append(NO)
    return answers


def gate_generator(calls: Sequence[tuple[str, str]], harmless: Sequence[str], ask: Callable, run: Callable):
    safe = frozenset(harmless)

    def decided():
        for tool, argument in calls:
            said = (None, None) if tool in safe else ask(tool, argument)
            yes = said[0] in (None, "approve", "edit")
            yield tool, (said[1] if said[0] == "edit" else argument), yes

    return [run(tool, argument) if yes else NO for tool, argument, yes in list(decided())]


# --- reflection_memory

HEADING = "What earlier trials taught:"


def written(notes):
    return HEADING + "".join(f"\n- {note}" for note in notes) if notes else ""


def memory_reversed(reflections, last, budget, count):
    newest, seen = [], set()
    for note in reflections[::-1]:
        key = " ".join(note.split()).lower()
        if not key or key in seen:
            continue
        seen.add(key)
        newest.append(note.strip())
    kept = newest[:last][::-1]
    while kept and count(written(kept)) > budget:
        kept = kept[1:]
    return written(kept)


def memory_dict(reflections, last, budget, count):
    """A dict whose keys are moved to the end."""
    notes: dict[tuple, str] = {}
    for note in reflections:
        key = tuple(note.casefold().split())
        notes.pop(key, None)
        notes[key] = note.strip()
    notes.pop((), None)
    kept = list(notes.values())[-last:]
    for first in range(len(kept)):
        text = written(kept[first:])
        if count(text) <= budget:
            return text
    return ""


def memory_last_place(reflections: Sequence[str], last: int, budget: int, count: Callable[[str], int]) -> str:
    keys = [note.lower().split() for note in reflections]
    places = [i for i, key in enumerate(keys) if key and key not in keys[i + 1 :]]
    notes = deque((reflections[i].strip() for i in places), maxlen=last)
    while notes:
        text = "\n".join([HEADING] + ["- " + note for note in notes])
        if count(text) <= budget:
            return text
        notes.popleft()
    return ""


def memory_options(reflections, last, budget, count):
    unique = {re.sub(r"\s+", " ", note.strip().lower()): note.strip() for note in reflections if note.strip()}
    order = sorted(
        unique, key=lambda key: max(i for i, n in enumerate(reflections) if n.lower().split() == key.split())
    )
    kept = [unique[key] for key in order][-last:]
    options = [written(kept[i:]) for i in range(len(kept) + 1)]
    return next(text for text in options if not text or count(text) <= budget)


def memory_recursive(reflections, last, budget, count):
    def fit(notes):
        return written(notes) if not notes or count(written(notes)) <= budget else fit(notes[1:])

    kept = []
    for note in reversed(reflections):
        if note.split() and note.lower().split() not in [one.lower().split() for one in kept] and len(kept) < last:
            kept = [note.strip(), *kept]
    return fit(kept)


class Memory:
    def __init__(self, last):
        self.last, self.notes = last, []

    def add(self, note):
        same = [one for one in self.notes if one.lower().split() == note.lower().split()]
        for one in same:
            self.notes.remove(one)
        if note.strip():
            self.notes.append(note.strip())

    def text(self, budget, count):
        notes = self.notes[-self.last :]
        while notes and count(written(notes)) > budget:
            del notes[0]
        return written(notes)


def memory_class(reflections, last, budget, count):
    memory = Memory(last)
    for note in reflections:
        memory.add(note)
    return memory.text(budget, count)


def memory_grows(reflections, last, budget, count):
    """From the newest back, as long as it fits."""
    text_of, seen, kept = written, {""}, []
    for note in reflections[::-1]:
        key = " ".join(note.lower().split())
        if key in seen or len(kept) == last:
            continue
        seen.add(key)
        if count(text_of([note.strip(), *kept])) > budget:
            break
        kept.insert(0, note.strip())
    return text_of(kept)


def memory_reduce(reflections, last, budget, count):
    def add(kept, note):
        new = note.lower().split()
        return [*(one for one in kept if one.lower().split() != new), note.strip()] if new else kept

    kept = reduce(add, reflections, [])[-last:]
    fits = itertools.dropwhile(lambda i: kept[i:] and count(written(kept[i:])) > budget, range(len(kept) + 1))
    return written(kept[next(fits) :])


# --- chunk


def size_of(sentences):
    return len(" ".join(sentences).split())


def chunk_plain(sentences, size, overlap):
    chunks, held = [], []
    for sentence in sentences:
        if held and size_of(held) + len(sentence.split()) > size:
            chunks.append(" ".join(held))
            while held and (size_of(held) > overlap or size_of(held) + len(sentence.split()) > size):
                held.pop(0)
        held.append(sentence)
    if held:
        chunks.append(" ".join(held))
    return chunks


def chunk_places(sentences: Sequence[str], size: int, overlap: int) -> list[str]:
    """By first and last place of each chunk."""
    lengths = [len(sentence.split()) for sentence in sentences]
    chunks, start, new = [], 0, 0
    while new < len(sentences):
        end = new + 1
        while end < len(sentences) and sum(lengths[start : end + 1]) <= size:
            end += 1
        chunks.append(" ".join(sentences[start:end]))
        new = start = end
        if end == len(sentences):
            break
        room = min(overlap, size - lengths[end])
        while start > 0 and sum(lengths[start - 1 : end]) <= room:
            start -= 1
    return chunks


def chunk_deque(sentences, size, overlap):
    window, words, chunks = deque(), 0, []
    for sentence in sentences:
        more = len(sentence.split())
        if window and words + more > size:
            chunks.append(" ".join(window))
            while window and (words > overlap or words + more > size):
                words -= len(window.popleft().split())
        window.append(sentence)
        words += more
    return [*chunks, " ".join(window)] if window else []


def chunk_recursive(sentences, size, overlap, held=()):
    if not sentences:
        return [" ".join(held)] if held else []
    first, *rest = sentences
    if not held or size_of([*held, first]) <= size:
        return chunk_recursive(rest, size, overlap, (*held, first))
    tails = [held[i:] for i in range(1, len(held) + 1)]
    tail = next(t for t in tails if not t or (size_of(t) <= overlap and size_of([*t, first]) <= size))
    return [" ".join(held), *chunk_recursive(rest, size, overlap, (*tail, first))]


def chunk_generator(sentences, size, overlap):
    def pieces():
        held = []
        for sentence in sentences:
            if held and size_of(held + [sentence]) > size:
                yield held
                held = tail_of(held, min(overlap, size - size_of([sentence])))
            held = held + [sentence]
        if held:
            yield held

    return [" ".join(piece) for piece in pieces()]


def tail_of(held, most):
    for i in range(len(held)):
        if size_of(held[i:]) <= most:
            return held[i:]
    return []


@dataclass
class Chunker:
    size: int
    overlap: int
    held: list = field(default_factory=list)
    done: list = field(default_factory=list)

    def add(self, sentence):
        if self.held and size_of([*self.held, sentence]) > self.size:
            self.close()
            self.held = tail_of(self.held, min(self.overlap, self.size - size_of([sentence])))
        self.held = [*self.held, sentence]

    def close(self):
        if self.held:
            self.done.append(" ".join(self.held))


def chunk_class(sentences, size, overlap):
    chunker = Chunker(size, overlap)
    for sentence in sentences:
        chunker.add(sentence)
    chunker.close()
    return chunker.done


def chunk_backwards(sentences, size, overlap):
    """The overlap is gathered from behind."""
    chunks = []
    current: list[str] = []
    for sentence in sentences:
        need = len(sentence.split())
        if current and size_of(current) + need > size:
            chunks.append(current)
            shared: list[str] = []
            for old in reversed(current):
                if size_of([old, *shared]) > overlap or size_of([old, *shared]) + need > size:
                    break
                shared.insert(0, old)
            current = shared
        current = current + [sentence]
    chunks += [current] if current else []
    return list(map(" ".join, chunks))


def chunk_reduce(sentences, size, overlap):
    def add(chunks, sentence):
        if not chunks:
            return [[sentence]]
        *before, last = chunks
        if size_of([*last, sentence]) <= size:
            return [*before, [*last, sentence]]
        return [*chunks, [*tail_of(last, min(overlap, size - size_of([sentence]))), sentence]]

    return [" ".join(one) for one in reduce(add, sentences, [])]


# --- rank_fusion


def fusion_default(rankings, k=60):
    scores = defaultdict(float)
    for ranking in rankings:
        for place, one in enumerate(ranking):
            scores[one] += 1 / (k + place + 1)
    return [one for one, _ in sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))]


def fusion_counter(rankings, k=60):
    scores = Counter()
    for ranking in rankings:
        scores.update({one: 1 / (k + rank) for rank, one in enumerate(ranking, start=1)})
    return [one for one, _ in Counter(dict(sorted(scores.items()))).most_common()]


def fusion_fractions(rankings, k=60):
    def score(one):
        return sum(Fraction(1, k + ranking.index(one) + 1) for ranking in rankings if one in ranking)

    ids = sorted({one for ranking in rankings for one in ranking})
    return sorted(ids, key=score, reverse=True)


def fusion_stable(rankings: Sequence[Sequence[str]], k: int = 60) -> list[str]:
    scores = {}
    for ranking in rankings:
        for i in range(len(ranking)):
            scores[ranking[i]] = scores.get(ranking[i], 0.0) + 1.0 / (k + i + 1)
    order = list(scores)
    order.sort()
    order.sort(key=lambda one: scores[one], reverse=True)
    return order


def fusion_numpy(rankings, k=60):
    import numpy as np

    ids = sorted(set(itertools.chain.from_iterable(rankings)))
    if not ids:
        return []
    parts = np.zeros((len(rankings), len(ids)))
    for row, ranking in enumerate(rankings):
        for rank, one in enumerate(ranking, 1):
            parts[row, ids.index(one)] = 1 / (k + rank)
    return [ids[i] for i in np.argsort(-parts.sum(0), kind="stable")]


def fusion_groupby(rankings, k=60):
    pairs = sorted((one, 1 / (k + rank)) for ranking in rankings for rank, one in enumerate(ranking, 1))
    scores = []
    for one, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
        scores.append((-sum(part for _, part in group), one))
    return [one for _, one in sorted(scores)]


def fusion_maps(rankings, k=60):
    ranks = [{one: rank for rank, one in enumerate(ranking, 1)} for ranking in rankings]
    ids = set().union(*ranks) if ranks else set()
    return sorted(ids, key=lambda one: (-sum(1 / (k + known[one]) for known in ranks if one in known), one))


def fusion_infinite(rankings, k=60):
    """Missing ranks are infinite: their part is 0."""
    ids = dict.fromkeys(itertools.chain(*rankings))
    total = {}
    for one in ids:
        places = [ranking.index(one) + 1 if one in ranking else float("inf") for ranking in rankings]
        total[one] = sum(1 / (k + place) for place in places)
    return sorted(total, key=lambda one: (total[one] * -1, one))


# --- as_mcp

NOTHING = {"type": "object", "properties": {}}


def mcp_plain(tool):
    function = tool["function"]
    result = {}
    result["name"] = function["name"]
    if "description" in function and function["description"]:
        result["description"] = function["description"]
    if "parameters" in function and function["parameters"]:
        result["inputSchema"] = function["parameters"]
    else:
        result["inputSchema"] = {"type": "object", "properties": {}}
    return result


def mcp_filter(tool):
    inner = tool["function"]
    entry = {
        "name": inner["name"],
        "description": inner.get("description"),
        "inputSchema": inner.get("parameters") or {"type": "object", "properties": {}},
    }
    return {key: value for key, value in entry.items() if value}


def mcp_merge(tool: dict) -> dict:
    inner = tool["function"]
    said = {"description": inner["description"]} if inner.get("description") else {}
    return {"name": inner["name"]} | said | {"inputSchema": inner.get("parameters") or NOTHING}


def mcp_copy(tool):
    entry = dict(tool["function"])
    entry["inputSchema"] = entry.pop("parameters", None) or dict(NOTHING)
    if not entry.get("description"):
        entry.pop("description", None)
    return entry


def mcp_match(tool):
    match tool["function"]:
        case {"parameters": dict(schema)} if schema:
            pass
        case _:
            schema = NOTHING
    match tool["function"]:
        case {"name": name, "description": str(said)} if said:
            return {"name": name, "description": said, "inputSchema": schema}
        case {"name": name}:
            return {"name": name, "inputSchema": schema}


def mcp_renamed(tool):
    names = {"name": "name", "description": "description", "parameters": "inputSchema"}
    entry = {names[key]: value for key, value in tool["function"].items() if value and key in names}
    return {**entry, "inputSchema": entry.get("inputSchema", NOTHING)}


@dataclass
class McpTool:
    name: str
    description: str | None = None
    parameters: dict | None = None

    def entry(self):
        entry = {"name": self.name, "inputSchema": self.parameters or NOTHING}
        if self.description:
            entry["description"] = self.description
        return entry


def mcp_class(tool):
    return McpTool(**tool["function"]).entry()


def mcp_json(tool):
    inner = json.loads(json.dumps(tool))["function"]
    entry = {"name": inner["name"], "inputSchema": NOTHING}
    for old, new in (("description", "description"), ("parameters", "inputSchema")):
        if inner.get(old):
            entry[new] = inner[old]
    return entry


STYLES: dict[str, list[Callable]] = {
    "7.2.act": [
        act_lines, act_match, act_in_try, act_class, act_known_tools, act_next, act_finditer,
        lambda prompt, reply, tools: tuple(act_lines(prompt, reply, tools)),
    ],
    "7.2.find_calls": [
        calls_loop, calls_generator, calls_recursive, calls_match, calls_by_end, calls_reader, calls_reduce,
        calls_letters,
    ],
    "7.2.loop_detector": [
        loop_tail, loop_runs, loop_sets, loop_deque, loop_next, loop_text, loop_ends, loop_strings,
    ],
    "7.2.retrying_toolbox": [
        retry_while, retry_recursive, retry_isinstance, retry_two_ways, retry_for_else, retry_class, retry_tenacity,
        retry_iter,
    ],
    "7.2.approval_gate": [
        gate_lists, gate_match, gate_functions, gate_places, gate_dataclass, gate_recursive, gate_deque, gate_generator,
    ],
    "7.2.reflection_memory": [
        memory_reversed, memory_dict, memory_last_place, memory_options, memory_recursive, memory_class, memory_grows,
        memory_reduce,
    ],
    "7.2.chunk": [
        chunk_plain, chunk_places, chunk_deque, chunk_recursive, chunk_generator, chunk_class, chunk_backwards,
        chunk_reduce,
    ],
    "7.2.rank_fusion": [
        fusion_default, fusion_counter, fusion_fractions, fusion_stable, fusion_numpy, fusion_groupby, fusion_maps,
        fusion_infinite,
    ],
    "7.2.as_mcp": [
        mcp_plain, mcp_filter, mcp_merge, mcp_copy, mcp_match, mcp_renamed, mcp_class, mcp_json,
    ],
}  # fmt: skip
