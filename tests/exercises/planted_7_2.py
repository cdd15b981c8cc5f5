"""Wrong answers to the exercises of Unit 7.2, each with words of the diagnosis that the student should read."""

import itertools
import json
import re

# --- the step


def stepped(
    prompt, reply, tools, words=("Action", "Answer"), keep=None, said=None, note="\nObservation: {}\n", none="",
    unknown="error: no tool {}", failed="error: {}", form=r"\s*(\w+)\[(.*)\]\s*", match=re.fullmatch, start="^",
    strip=str.strip, grows=False, missing="error: write Action: tool[argument]",
):  # fmt: skip
    line = None
    for word in words if isinstance(words, list) else [f"(?:{'|'.join(words)})"]:
        line = line or re.search(rf"{start}({word}):(.*)$", reply, re.M)
    if line and line.group(1) == "Answer":
        return (prompt + reply if grows else prompt), strip(line.group(2))
    end = line.end() if line else len(reply)
    call = match(form, line.group(2)) if line else None
    if not call:
        seen = missing
    elif call.group(1) not in tools:
        seen = unknown.format(*call.groups())
    else:
        try:
            seen = tools[call.group(1)](call.group(2))
        except Exception as error:
            seen = failed.format(error, type(error).__name__)
    kept = reply[:end] if keep is None else keep(reply, end)
    return prompt + kept + note.format(seen), none


def changed(**how):
    return lambda prompt, reply, tools: stepped(prompt, reply, tools, **how)


def after(change):
    """The right step, and then a change of (prompt, answer)."""
    return lambda prompt, reply, tools: change(*stepped(prompt, reply, tools))


def observed(prompt, reply, tools):
    new, answer = stepped(prompt, reply, tools)
    return new, answer or new.rsplit("Observation: ")[-1].rstrip("\n")


def trusting(prompt, reply, tools):
    tool, argument = re.search(r"Action: (\w+)\[(.*)\]", reply).groups()
    return f"{prompt}{reply}\nObservation: {tools[tool](argument)}\n", ""


def looks_up_blindly(prompt, reply, tools):
    if "[" not in reply or "Answer:" in reply:
        return stepped(prompt, reply, tools)
    tool, argument = re.search(r"Action: (\w+)\[(.*)\]", reply).groups()
    try:
        seen = tools[tool](argument)
    except Exception as error:
        seen = f"error: {error}"
    return stepped(prompt, reply, tools)[0].rsplit("Observation:", 1)[0] + f"Observation: {seen}\n", ""


def ends_without_form(prompt, reply, tools):
    return stepped(prompt, reply, tools) if re.search("Action:|Answer:", reply) else (prompt, reply)


def keeps_silent(prompt, reply, tools):
    return stepped(prompt, reply, tools) if re.search("Action:|Answer:", reply) else (prompt, "")


def catches_values_only(prompt, reply, tools):
    new, answer = stepped(prompt, reply, tools)
    if "locked" in new:
        tools["stock"]("cube")
    return new, answer


def ends_on_unknown(prompt, reply, tools):
    new, answer = stepped(prompt, reply, tools)
    found = re.search("error: no tool.*", new)
    return (prompt, found.group()) if found else (new, answer)


# --- the calls


def read_json(text, at):
    return json.JSONDecoder().raw_decode(text, at)


def sober(reply, first=False, greedy=False, open_too=True, before=True):
    pattern = r"<think>.*</think>" if greedy else r"<think>.*?</think>"
    reply = re.sub(pattern, "", reply, count=1 if first else 0, flags=re.S)
    reply = re.sub(r"<think>.*", "", reply, flags=re.S) if open_too else reply
    return reply.split("</think>")[-1] if before else reply


def found(reply, prepare=sober, good=None, skip=True, read=read_json, inner=False):
    text, calls, at = prepare(reply), [], 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, end = read(text, at)
        except ValueError:
            if not skip:
                return calls
            at += 1
            continue
        if good(value) if good else isinstance(value.get("name"), str) and isinstance(value.get("arguments"), dict):
            calls.append((value.get("name"), value.get("arguments")))
        at = at + 1 if inner else end
    return calls


def parsing(**how):
    return lambda reply: found(reply, **how)


def whole(reply):
    try:
        value = json.loads(sober(reply))
    except ValueError:
        return []
    return [(value["name"], value["arguments"])]


def after_a_sentence(reply):
    text = sober(reply)
    try:
        value = json.loads(text[text.index("{") :])
        return [(value["name"], value["arguments"])]
    except ValueError:
        return []


def by_line(reply):
    calls = []
    for line in sober(reply).splitlines():
        calls += found(line)
    return calls


def flat(reply):
    calls = found(reply)
    for piece in re.findall(r"\{[^{}]*\{[^{}]*\}[^{}]*\}", sober(reply)):
        try:
            value = json.loads(piece)
        except ValueError:
            continue
        if value.get("name") == "refund":
            calls = [("refund", value["arguments"])]
    return calls


def counted(reply):
    text, calls, depth, start = sober(reply), [], 0, 0
    for i, letter in enumerate(text):
        if letter == "{":
            start = i if depth == 0 else start
            depth += 1
        if letter == "}":
            depth -= 1
            if depth == 0:
                calls += found(text[start : i + 1])
    return calls


def mended(text, at):
    mended_text = text[at:].replace(",}", "}")
    value, end = read_json(mended_text, 0)
    return value, at + end + text[at : at + end + 1].count(",}")


def python(text, at):
    value, end = read_json(text[at:].replace("None", "null"), 0)
    return value, at + end


# --- circles


def circling(steps, repeats, lengths=(1, 2), see=lambda step: step, more=0):
    seen = [see(step) for step in steps]
    for n in range(1, len(seen) + 1):
        for length in lengths:
            size = length * repeats + more
            tail = seen[n - size : n] if n >= size else []
            if tail and all(tail[i] == tail[i % length] for i in range(size)):
                return n
    return 0


def counting(steps, repeats):
    for n in range(1, len(steps) + 1):
        if steps[:n].count(steps[n - 1]) >= repeats:
            return n
    return 0


def two_after(size):
    def detect(steps, repeats):
        most = size(repeats)
        for n in range(1, len(steps) + 1):
            tail, short = steps[max(0, n - most) : n], steps[max(0, n - repeats) : n]
            if len(short) == repeats and len(set(short)) == 1:
                return n
            if len(tail) == most and all(a == b for a, b in zip(tail, tail[2:], strict=False)):
                return n
        return 0

    return detect


def paired(steps, repeats):
    one = circling(steps, repeats, lengths=(1,))
    pairs = [tuple(steps[i : i + 2]) for i in range(0, len(steps), 2)]
    return one or 2 * circling(pairs, repeats, lengths=(1,))


def eager(steps, repeats):
    return circling(steps, repeats) or len(steps)


# --- once more


def retried(
    box, tool, argument, read_only, tries, writes=1, again=(TimeoutError,), told="error: {}", late="error: timeout",
    unsure="error: timeout, it may have been done", after_answer=0, extra=0,
):  # fmt: skip
    reads = tool in read_only
    for _ in range(tries + extra if reads else writes):
        try:
            answer = box(tool, argument)
            for _again in range(after_answer):
                answer = box(tool, argument)
            return answer
        except again:
            continue
        except Exception as error:
            return told.format(error, type(error).__name__)
    return late if reads else unsure


def trying(**how):
    return lambda *inputs: retried(*inputs, **how)


def once(box, tool, argument, read_only, tries):
    return retried(box, tool, argument, read_only, 1)


def timeout_is_an_error(box, tool, argument, read_only, tries):
    try:
        return box(tool, argument)
    except Exception as error:
        return f"error: {error}"


def all_errors_late(box, tool, argument, read_only, tries):
    answer = retried(box, tool, argument, read_only, tries)
    return answer if not answer.startswith("error") or "timeout" in answer else "error: timeout"


def unsure_of_all(box, tool, argument, read_only, tries):
    answer = retried(box, tool, argument, read_only, tries)
    unsure = answer.startswith("error") and tool not in read_only
    return "error: timeout, it may have been done" if unsure else answer


def refuses_writers(box, tool, argument, read_only, tries):
    return retried(box, tool, argument, read_only, tries) if tool in read_only else f"error: no tool {tool}"


def all_three(box, tool, argument, read_only, tries):
    answer = retried(box, tool, argument, read_only, tries)
    while box.left and not isinstance(box.left[0], Exception) or len(box.left) > 1:
        try:
            answer = box(tool, argument)
        except TimeoutError:
            continue
    return answer


# --- the gate

NO = "error: a person said no"


def gated(calls, harmless, ask, run, decide=None, safe=None, no=NO):
    decide = decide or {"approve": lambda old, new: old, "edit": lambda old, new: new}
    safe = safe or (lambda tool: tool in harmless)
    granted = []
    for tool, old in calls:
        decision, new = ("approve", old) if safe(tool) else ask(tool, old)
        granted.append(decide[decision](old, new) if decision in decide else None)
    pairs = zip(calls, granted, strict=True)
    return [no if argument is None else run(tool, argument) for (tool, _), argument in pairs]


def gate(**how):
    return lambda calls, harmless, ask, run: gated(calls, harmless, ask, run, **how)


def old(before, now):
    return before


def new(before, now):
    return now


def one_by_one(calls, harmless, ask, run):
    return [gated([call], harmless, ask, run)[0] for call in calls]


def harmless_first(calls, harmless, ask, run):
    answers = [run(*call) if call[0] in harmless else None for call in calls]
    risky = [i for i, call in enumerate(calls) if call[0] not in harmless]
    for i, answer in zip(risky, gated([calls[i] for i in risky], (), ask, run), strict=True):
        answers[i] = answer
    return answers


def unclear_is_yes(calls, harmless, ask, run):
    def judge(tool, argument):
        decision, text = ask(tool, argument)
        return (decision, text) if decision in ("edit", "reject") else ("approve", "")

    return gated(calls, harmless, judge, run)


def runs_all_or_nothing(calls, harmless, ask, run):
    asked = []

    def judge(tool, argument):
        asked.append(ask(tool, argument))
        return asked[-1]

    kept = gated(calls, harmless, judge, lambda tool, argument: "")
    return [NO] * len(calls) if NO in kept else gated(calls, [tool for tool, _ in calls], ask, run)


def stops_at_the_first_no(calls, harmless, ask, run):
    answers = gated(calls, harmless, ask, run)
    first = answers.index(NO) if NO in answers else len(answers)
    return answers[:first] + [NO] * (len(answers) - first)


def remembers(calls, harmless, ask, run):
    known = {}

    def judge(tool, argument):
        if (tool, argument) not in known:
            known[tool, argument] = ask(tool, argument)
        return known[tool, argument]

    return gated(calls, harmless, judge, run)


def asks_again(calls, harmless, ask, run):
    def judge(tool, argument):
        decision, text = ask(tool, argument)
        return ask(tool, text) if decision == "edit" else (decision, text)

    return gated(calls, harmless, judge, run)


def sorted_answers(calls, harmless, ask, run):
    return sorted(gated(calls, harmless, ask, run), key=lambda answer: answer == NO)


def truthy(calls, harmless, ask, run):
    return gated(calls, harmless, ask, lambda tool, argument: run(tool, argument) if argument else NO)


# --- the memory

HEADING = "What earlier trials taught:"


def noted(lines, bullet="- ", heading=HEADING):
    return "\n".join([heading, *[bullet + line for line in lines]]) if lines else ""


def normal(note):
    return tuple(note.lower().split())


def remembered(notes, last, plain=normal, newest=True, blank=False, write=str.strip):
    kept, seen = [], set() if blank else {()}
    for note in reversed(notes) if newest else notes:
        if plain(note) in seen or (not note.strip() and not blank):
            continue
        seen.add(plain(note))
        kept.append(write(note))
    kept = kept[::-1] if newest else kept
    return kept[-last:] if last else kept


def fitted(kept, budget, count, drop=0, write=noted, most=lambda budget: budget):
    while kept and count(write(kept)) > most(budget):
        kept = kept[:drop] + kept[drop + 1 :] if drop >= 0 else kept[:drop]
    return write(kept)


def memory(last=lambda last: last, **how):
    def text(notes, most, budget, count):
        return fitted(remembered(notes, last(most), **how), budget, count)

    return text


def finished(change):
    return lambda notes, last, budget, count: change(fitted(remembered(notes, last), budget, count))


def budgeted(**how):
    return lambda notes, last, budget, count: fitted(remembered(notes, last), budget, count, **how)


def cut_first(notes, last, budget, count):
    return fitted(remembered(notes[-last:], last), budget, count)


def cut_in_words(notes, last, budget, count):
    text = noted(remembered(notes, last))
    return text if count(text) <= budget else " ".join(text.split()[:budget])


def drops_the_longest(notes, last, budget, count):
    kept = remembered(notes, last)
    while kept and count(noted(kept)) > budget:
        kept.remove(max(kept, key=len))
    return noted(kept)


def throws_away(notes, last, budget, count):
    text = noted(remembered(notes, last))
    return text if count(text) <= budget else ""


def heading_alone(notes, last, budget, count):
    return fitted(remembered(notes, last), budget, count) or HEADING


# --- chunks


def words(sentences):
    return len(" ".join(sentences).split())


def chunked(sentences, size, overlap, measure=words, tail=None, fit=True, whole=False, rest=True, keep=None):
    chunks, held = [], []
    for sentence in sentences:
        if held and measure([*held, sentence]) > size:
            chunks.append(held)
            held = tail(held, overlap) if tail else list(held)
            while tail is None and held and measure(held) > overlap:
                held.pop(0)
            while fit and held and measure([*held, sentence]) > size:
                held = [] if whole else held[1:]
        held = [*held, sentence]
    return [" ".join(chunk) for chunk in (chunks + [held] if rest and held else chunks)]


def chunker(**how):
    return lambda sentences, size, overlap: chunked(sentences, size, overlap, **how)


def with_last_overlap(sentences, size, overlap):
    chunks = chunked(sentences, size, overlap)
    return [*chunks, sentences[-1]] if len(chunks) > 1 else chunks


def in_pieces(sentences, size, overlap):
    every = " ".join(sentences).split()
    return [" ".join(every[i : i + size]) for i in range(0, len(every), size)]


def without_the_long(sentences, size, overlap):
    return chunked([one for one in sentences if words([one]) <= size], size, overlap)


# --- fusion


def ranked(rankings, k, score=None, ids=None, reverse=False):
    score = score or (lambda ranks, k: sum(1 / (k + rank) for rank in ranks))
    places = {}
    for ranking in rankings:
        for rank, one in enumerate(ranking, 1):
            places.setdefault(one, []).append(rank)
    order = sorted(places) if ids is None else ids(places)
    return sorted(order, key=lambda one: -score(places[one], k), reverse=reverse)


def fusing(score=None, **how):
    return lambda rankings, k=60: ranked(rankings, k, score, **how)


def in_turns(rankings, k=60):
    turns = itertools.chain(*itertools.zip_longest(*rankings))
    return list(dict.fromkeys(one for one in turns if one is not None))


def with_scores(rankings, k=60):
    total = {}
    for ranking in rankings:
        for rank, one in enumerate(ranking, 1):
            total[one] = total.get(one, 0) + 1 / (k + rank)
    return [(one, total[one]) for one in ranked(rankings, k)]


# --- MCP


def entry(tool, key="inputSchema", default=None, description=None):
    inner = tool["function"]
    made = {"name": inner["name"]}
    if inner.get("description") or description:
        made["description"] = inner.get("description") or description(inner)
    made[key] = inner.get("parameters") or default or {"type": "object", "properties": {}}
    return made


def described_as(value):
    def made(tool):
        return entry(tool) | {"description": tool["function"].get("description") or value}

    return made


def no_schema(tool):
    made = entry(tool)
    return made if tool["function"].get("parameters") else {k: v for k, v in made.items() if k != "inputSchema"}


def as_it_is(tool):
    inner = tool["function"]
    made = {"name": inner["name"]} | ({"description": inner["description"]} if inner.get("description") else {})
    return made | {"inputSchema": inner.get("parameters", {"type": "object", "properties": {}})}


def described_as_it_is(tool):
    inner = tool["function"]
    made = entry(tool)
    return made | ({"description": inner["description"]} if "description" in inner else {})


def takes_out(tool):
    tool.pop("type")
    return entry(tool)


PLANTED = {
    "7.2.act": [
        (changed(keep=lambda reply, end: "", note="Observation: {}\n"), "loses the reply"),
        (lambda p, r, t: stepped("", r, t), "loses what stood there before"),
        (changed(keep=lambda reply, end: reply[:end].split("\n")[-1]), "loses the thought"),
        (changed(note="\n{}\n"), 'lacks "Observation: "'),
        (changed(note="\nObservation: {}"), "lacks the line break at its end"),
        (changed(note="Observation: {}\n"), 'lacks the line break before "Observation:"'),
        (observed, "What the tool says is your answer"),
        (changed(none=None), "Your answer is None"),
        (after(lambda prompt, answer: (answer, prompt)), "the other way round"),
        (after(lambda prompt, answer: [prompt, answer]), "returns a list. A pair is wanted"),
        (after(lambda prompt, answer: prompt), "returns the prompt alone"),
        (changed(form=r"\s*(\w+)(\[.*\])\s*"), "with its brackets"),
        (changed(words=["Answer", "Action"]), "look for an answer first"),
        (changed(words=["Action", "Answer"]), "look for an action first"),
        (changed(keep=lambda reply, end: reply), "keeps what the model wrote after its action"),
        (changed(grows=True), "grows with the answer"),
        (changed(strip=str), "keeps the blanks around it"),
        (changed(form=r"\s*(\w+)\[(.+)\]\s*"), "An empty argument is a mistake"),
        (looks_up_blindly, "the text of Python's KeyError"),
        (changed(unknown="no tool {}"), 'Your message lacks "error: "'),
        (changed(unknown="error: no tool"), "does not say which tool"),
        (changed(unknown="error: no tool {}[{}]"), "names the argument, too"),
        (changed(unknown="error: write Action: tool[argument]"), "a complaint about the form. The form is right"),
        (ends_on_unknown, "An unknown tool ends the run"),
        (changed(failed="{}"), 'Your message lacks "error: "'),
        (changed(failed="error: {1}: {0}"), "names the kind of the exception"),
        (changed(failed="error: {1}('{0}')"), "as Python code"),
        (changed(failed="error: no tool stock"), "A tool that fails is unknown to you"),
        (changed(match=re.match), "run an action of another form"),
        (changed(start=""), "in the middle of a line"),
        (ends_without_form, "ends the run with you"),
        (keeps_silent, "leaves the prompt as it was"),
        (catches_values_only, "stopped with RuntimeError: the database is locked"),
        (trusting, "keeps what the model wrote after its action"),
    ],
    "7.2.find_calls": [
        (lambda r: [{"name": n, "arguments": a} for n, a in found(r)], "Your calls are dicts"),
        (lambda r: [list(call) for call in found(r)], "Your calls are lists"),
        (lambda r: [name for name, _ in found(r)], "returns names alone"),
        (lambda r: [arguments for _, arguments in found(r)], "returns arguments alone"),
        (lambda r: [(n, json.dumps(a)) for n, a in found(r)], "Your arguments are a text"),
        (lambda r: [(n, list(a.values())) for n, a in found(r)], "the values alone"),
        (lambda r: [call[::-1] for call in found(r)], "the wrong way round"),
        (lambda r: (found(r) or [None])[0], "returns the call itself"),
        (lambda r: found(r) or None, "returns None if there is no call"),
        (whole, "A call after a sentence is not found"),
        (after_a_sentence, "A call before a sentence is not found"),
        (lambda r: found(r) if "```" not in r else [], "A call in a fence"),
        (lambda r: found(r) if "<tool" not in r else [], "between <tool_call> tags"),
        (by_line, "over several lines"),
        (lambda r: found(r)[:1], "the first call only"),
        (lambda r: found(r)[-1:], "the last call only"),
        (lambda r: found(r)[::-1], "in the wrong order"),
        (lambda r: found(r) if len(found(r)) < 2 else [], "if there are several calls"),
        (counted, "Do not count braces"),
        (parsing(skip=False), "A brace in a sentence stops you"),
        (parsing(prepare=str), "inside of thoughts count"),
        (parsing(prepare=lambda r: sober(r, greedy=True)), "from the first <think> to the last"),
        (parsing(prepare=lambda r: sober(r, first=True, open_too=False, before=False)), "the first thought only"),
        (parsing(prepare=lambda r: sober(r, open_too=False)), "A thought without an end counts"),
        (parsing(prepare=lambda r: sober(r, before=False)), "stood in the prompt counts"),
        (parsing(inner=True), "in another one's arguments counts"),
        (flat, "You find the inner object"),
        (parsing(good=lambda v: True), 'An object without "name" counts'),
        (parsing(good=lambda v: "name" in v), "with None"),
        (parsing(good=lambda v: "name" in v and "arguments" in v), "A name that is no text"),
        (parsing(good=lambda v: isinstance(v.get("name"), str) and "arguments" in v), "Arguments that are a text"),
        (
            parsing(good=lambda v: isinstance(v.get("name"), str) and isinstance(v.get("arguments"), dict | list)),
            "Arguments that are a list count",
        ),
        (parsing(good=lambda v: v.get("name") and v.get("arguments") and type(v["arguments"]) is dict
                 and type(v["name"]) is str), "A call without any argument"),
        (parsing(read=mended), "You repair broken JSON"),
        (parsing(read=python), "You read a call as Python"),
    ],
    "7.2.loop_detector": [
        (counting, "count all equal steps"),
        (lambda s, n: circling(s, n - 1), "one step too early"),
        (lambda s, n: circling(s, n, more=1), "one step too late"),
        (lambda s, n: circling(s, n, see=lambda step: step[0]), "compare actions alone"),
        (lambda s, n: circling(s, n, see=lambda step: step[1]), "compare observations alone"),
        (lambda s, n: circling(s, n) and circling(s, n) - n, "where the circle begins"),
        (lambda s, n: len(s) if circling(s, n) else 0, "the number of all steps"),
        (lambda s, n: bool(circling(s, n)), "returns True or False"),
        (lambda s, n: circling(s, n, lengths=(2,)), "no circle of one step"),
        (lambda s, n: circling(s, n, lengths=(1,)), "no circle of two steps"),
        (two_after(lambda n: 2 * n - 1), "stop a circle of two too early"),
        (two_after(lambda n: 2 * n + 2), "one round too late"),
        (two_after(lambda n: 2 * n + 1), "one step too late"),
        (paired, "cut the run into pairs"),
        (lambda s, n: circling(s, 3), "always ask for three"),
        (eager, "never goes round in circles"),
        (lambda s, n: circling(s, n) or None, "returns None for an agent"),
    ],
    "7.2.retrying_toolbox": [
        (trying(after_answer=1), "call a tool again that has answered"),
        (all_three, "three times whatever it says"),
        (once, "give up after the first time-out"),
        (lambda *x: retried(*x[:3], (), x[4]), "as one that writes"),
        (timeout_is_an_error, "A time-out is an error like all others"),
        (trying(extra=-1), "once less than `tries`"),
        (trying(extra=1), "once more than `tries`"),
        (trying(late="error: timeout, it may have been done"), "A look-up may have been done"),
        (trying(late="error: "), "which is empty"),
        (trying(late="timeout"), 'Your message lacks "error: "'),
        (refuses_writers, "You refuse tools"),
        (trying(writes=3), "repeat a call that changes something"),
        (trying(unsure="error: timeout"), "does not tell that a refund may have been done"),
        (trying(again=(Exception,)), "try again after every error"),
        (all_errors_late, "Every error is a time-out with you"),
        (trying(told="{}"), 'Your message lacks "error: "'),
        (trying(told="error: {1}: {0}"), "names the kind"),
        (trying(told="error: {1}('{0}')"), "as Python code"),
        (trying(again=(TimeoutError, RuntimeError)), "after an error that is no time-out"),
        (unsure_of_all, "Every error of a tool that writes is a time-out"),
        (lambda box, tool, argument, read_only, tries: box(tool, argument), "stopped with TimeoutError"),
    ],
    "7.2.approval_gate": [
        (one_by_one, "run each call before the next question"),
        (harmless_first, "harmless calls run before"),
        (gate(safe=lambda tool: True), "You ask about nothing"),
        (gate(safe=lambda tool: False), "You ask about harmless calls, too"),
        (gate(decide={"approve": old, "edit": old}), "An edited call runs with the old argument"),
        (gate(decide={"approve": old}), "An edit counts as a no"),
        (gate(decide={"approve": new, "edit": new}), "An approved call runs with the new argument"),
        (unclear_is_yes, "neither approve nor edit nor reject is a yes"),
        (gate(decide={"approve": old, "edit": new, "reject": old}), "A rejected call runs"),
        (lambda *x: [one for one in gated(*x) if one != NO], "have no answer"),
        (runs_all_or_nothing, "One no stops all calls"),
        (stops_at_the_first_no, "After the first no you run nothing"),
        (remembers, "ask once about equal calls"),
        (lambda c, h, a, r: gated(c, h, a, r, safe=lambda t: t.startswith(tuple(h))), "the beginning of a tool's name"),
        (asks_again, "ask again about an edited call"),
        (sorted_answers, "Your answers are sorted"),
        (truthy, "An edit to an empty argument is a no"),
        (gate(decide={"approve": old, "edit": lambda before, now: now or before}), "you run the old one"),
        (lambda *x: tuple(gated(*x)), "returns a tuple. A list is wanted"),
    ],
    "7.2.reflection_memory": [
        (memory(plain=lambda note: id(note)), "holds the same note twice"),
        (memory(plain=lambda note: tuple(note.split())), "Capital letters make another note"),
        (memory(plain=lambda note: note.strip().lower()), "Blanks make another note"),
        (memory(newest=False), "you keep the oldest. The newest counts"),
        (cut_first, "cut down to the newest `last` first"),
        (memory(blank=True), "A note without a word counts"),
        (lambda n, last, b, c: fitted(remembered(n, 0)[:last], b, c), "You keep the oldest ones"),
        (lambda n, last, b, c: noted(remembered(n, last)[::-1]), "newest first"),
        (memory(last=lambda last: 0), "overlook `last`"),
        (memory(last=lambda last: last - 1), "one note too few"),
        (memory(write=lambda note: " ".join(note.lower().split())), "in lower case or with other blanks"),
        (memory(write=str), "keep the blanks around them"),
        (finished(lambda text: text.removeprefix(HEADING + "\n")), "lacks the heading"),
        (finished(lambda text: text.replace("\n- ", "\n")), 'Your lines lack "- "'),
        (finished(lambda text: text + "\n" if text else ""), "ends with a line break"),
        (lambda n, last, b, c: remembered(n, last), "the notes as a list"),
        (finished(lambda text: text.split("\n")), "the lines as a list"),
        (lambda n, last, b, c: noted(remembered(n, last)), "overlook `budget`"),
        (budgeted(drop=-1), "leave out the newest note"),
        (drops_the_longest, "leave out the longest note"),
        (cut_in_words, "cut the text in the middle"),
        (throws_away, "is thrown away with you"),
        (budgeted(most=lambda budget: budget - 1), "although it fits"),
        (heading_alone, "the heading alone"),
    ],
    "7.2.chunk": [
        (lambda s, size, o: chunked(s, size, 0), "Your chunks do not overlap"),
        (chunker(measure=lambda held: len(" ".join(held))), "Each sentence is a chunk"),
        (chunker(measure=len), "You count sentences"),
        (chunker(tail=lambda held, o: held[-1:]), "Your overlap is one sentence"),
        (chunker(tail=lambda held, o: held[-o:]), "Your overlap is `overlap` sentences"),
        (chunker(tail=lambda held, o: [" ".join(" ".join(held).split()[-o:])]), "in the middle of a sentence"),
        (lambda s, size, o: chunked(s, size, o - 1), "too small by one sentence"),
        (chunker(fit=False), "get too long"),
        (chunker(whole=True), "leave it out whole"),
        (chunker(rest=False), "The last chunk is lost"),
        (with_last_overlap, "Your last chunk is overlap alone"),
        (without_the_long, "A sentence that is too long is lost"),
        (in_pieces, "You cut sentences"),
        (lambda s, size, o: [one.replace(". ", ".") for one in chunked(s, size, o)], "without a blank"),
        (lambda s, size, o: [re.findall(r"[^.]+\.", one) for one in chunked(s, size, o)], "The result is not right"),
        (lambda s, size, o: [" ".join(s)], "Your text is one chunk"),
        (lambda s, size, o: chunked(s, size - 1, o), "A chunk of exactly `size` words is too long"),
        (lambda s, size, o: chunked(s, size + 1, o), "one word more than `size`"),
        (lambda s, size, o: chunked(s, size, o) or [""], "gives an empty chunk"),
    ],
    "7.2.rank_fusion": [
        (lambda r, k=60: [x for x in ranked(r, k) if all(x in one for one in r)], "leave out ids"),
        (fusing(lambda ranks, k: sum(1 / (k + rank) for rank in ranks) / len(ranks)), "take the mean"),
        (fusing(lambda ranks, k: max(1 / (k + rank) for rank in ranks)), "best rank alone"),
        (fusing(lambda ranks, k: sum(1 / rank for rank in ranks)), "overlook `k`: the part"),
        (fusing(lambda ranks, k: -sum(1 / (k + rank) for rank in ranks)), "lowest score first"),
        (fusing(lambda ranks, k: -sum(ranks)), "add the ranks up"),
        (in_turns, "in turns"),
        (lambda r, k=60: list(dict.fromkeys(itertools.chain(*r))), "one ranking behind the other"),
        (fusing(ids=lambda places: sorted(places)[::-1]), "in the wrong order"),
        (fusing(lambda ranks, k: len(ranks)), "listed more often come first"),
        (lambda r, k=60: sorted(ranked(r, k)), "sorted by the alphabet"),
        (lambda r, k=60: sorted(itertools.chain(*r)), "An id comes twice"),
        (with_scores, "returns pairs"),
        (lambda r, k=60: ranked(r, 60), "always take 60"),
        (lambda r, k=60: tuple(ranked(r, k)), "returns a tuple. A list is wanted"),
        (lambda r, k=60: r.pop() and [] if r else [], "changes its input `rankings`"),
    ],
    "7.2.as_mcp": [
        (lambda t: entry(t, key="parameters"), "under `parameters`. In MCP"),
        (lambda t: entry(t, key="input_schema"), "under `input_schema`"),
        (lambda t: entry(t, key="inputschema"), "under `inputschema`"),
        (lambda t: {"type": "function", "function": entry(t)}, "still wrapped in `function`"),
        (lambda t: t, "and its schema is under `parameters`"),
        (lambda t: {"type": "function"} | entry(t), 'has "type": "function"'),
        (lambda t: entry(t) | {"parameters": entry(t)["inputSchema"]}, "the schema twice"),
        (lambda t: entry(t) | {"inputSchema": entry(t)["inputSchema"]["properties"]}, "its properties alone"),
        (lambda t: entry(t) | {"inputSchema": json.dumps(entry(t)["inputSchema"])}, "Your schema is a text"),
        (lambda t: {k: v for k, v in entry(t).items() if k != "inputSchema"}, "lacks the schema"),
        (lambda t: {k: v for k, v in entry(t).items() if k != "description"}, "lacks the description"),
        (lambda t: [entry(t)], "is in a list"),
        (lambda t: {"tools": [entry(t)]}, "the whole answer"),
        (lambda t: json.dumps(entry(t)), "Your entry is a text"),
        (no_schema, "has no `inputSchema`"),
        (lambda t: entry(t) | {"inputSchema": t["function"].get("parameters")}, "has None for a schema"),
        (lambda t: entry(t) | {"inputSchema": t["function"].get("parameters") or {}}, "an empty schema"),
        (lambda t: entry(t, default={"type": "object"}), "lacks `properties`"),
        (lambda t: entry(t, default={"type": "object", "properties": {}, "required": []}), "has `required`"),
        (described_as(None), "gets None with you"),
        (described_as(""), "gets an empty one"),
        (lambda t: entry(t, description=lambda inner: inner["name"]), "gets its name as one"),
        (as_it_is, "Parameters that are None go into your entry"),
        (described_as_it_is, "A description that is None goes into your entry"),
        (takes_out, "changes its input `tool`"),
    ],
}  # fmt: skip
