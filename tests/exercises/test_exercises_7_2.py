"""The solutions of Unit 7.2's exercises against the course's agents, MCP's own types, and what they promise."""

import importlib
import json
import random
import re
from collections import Counter

import pytest

from course_utils.agents import function_calls, react
from course_utils.agents.loop import Trace
from course_utils.exercises import check, registry, wire
from course_utils.exercises.unit_7_2 import solutions as reference
from course_utils.prisma import shop, tools

# --- results that are dicts cross over


def test_a_dict_comes_back_as_it_was_and_odd_keys_do_not() -> None:
    value = {"name": "orders", "arguments": {"numbers": [1, (2.5, None)], "deep": {"": True}}}
    assert wire.unpack(wire.pack(value)) == value
    assert isinstance(wire.unpack(wire.pack({1: "one"})), wire.Foreign)
    assert isinstance(wire.unpack(wire.pack(Counter("a"))), wire.Foreign)


def test_a_changed_dict_is_told(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_PROGRESS", "off")

    def renames(tool):
        tool["function"]["inputSchema"] = tool["function"].pop("parameters", {})
        return tool["function"]

    check("7.2.as_mcp", renames)
    assert "changes its input `tool`" in " ".join(capsys.readouterr().out.split())


# --- what does not count


@pytest.mark.parametrize(
    ("name", "place", "function_name"),
    [("7.2.rank_fusion", "ranking", "reciprocal_rank_fusion")],
)
def test_what_the_course_computes_elsewhere_does_not_count(name, place, function_name, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_PROGRESS", "off")

    def borrowed(*inputs):
        module = importlib.import_module(f"course_utils.agents.retrieval.{place}")
        return getattr(module, function_name)(*inputs)

    assert check(name, borrowed) is registry.exercise(name).reference
    assert "calls the course's own solution" in " ".join(capsys.readouterr().out.split())


# --- the step is the one of the notebook's agent


@pytest.mark.parametrize(
    "reply",
    [
        "Thought: I look.\nAction: orders[{n}]",
        "Thought: I look.\nAction: orders[{n}]\nObservation: lost\nAnswer: lost",
        "Action: policy[fee]",
        "Action: refund[{n}]",
        "Action: orders {n}",
        "Thought: I know.\nAnswer: shipped",
    ],
)
def test_a_step_is_the_one_of_run_react(reply: str) -> None:
    prisma = shop.make_shop(0)
    toolbox = tools.Toolbox(shop.open_database(prisma))
    reply = reply.replace("{n}", str(next(iter(prisma.orders))))
    trace = Trace("?", "start\n")
    react.act(trace, reply, toolbox, 8, 3)
    known = {name: (lambda argument, name=name: toolbox(name, argument).text) for name in tools.SIGNATURES}
    prompt, answer = reference.act("start\n", reply, known)
    assert (prompt, answer) == (trace.prompt, trace.answer)


# --- calls are those that the course's agent runs


@pytest.mark.parametrize("cases", ["alone_cases", "wrapped_cases", "thought_cases", "no_call_cases"])
def test_the_calls_found_are_those_that_the_courses_agent_runs(cases: str) -> None:
    for reply, wanted, _ in getattr(reference, cases)():
        ours = []
        for written in function_calls.written_calls(reply):
            try:
                ours.append(function_calls.parse_call(written))
            except function_calls.CallError:
                continue  # the agent tells the model; the exercise passes over it
        assert ours == wanted == reference.find_calls(reply), reply


def test_any_mixture_of_calls_and_chatter_is_read() -> None:
    rng = random.Random(0)
    chatter = ["I see.", "```json", "```", "{", "}", "[", "<tool_call>", "<think>{ no </think>", '{"price": 3}', "{1}"]
    for _ in range(300):
        calls, pieces = [], []
        for _ in range(rng.randrange(6)):
            pieces.append(rng.choice(chatter))
            if rng.random() < 0.6:
                calls.append((f"tool{rng.randrange(9)}", {"text": rng.choice(["}", "{", '"', "a\nb", ""])}))
                pieces.append(reference.written(calls[-1]))
        assert reference.find_calls("\n".join(pieces)) == calls


# --- circles


def test_a_circle_is_what_a_pattern_of_letters_finds() -> None:
    rng = random.Random(1)
    stopped = 0
    for _ in range(400):
        letters = "".join(rng.choices("abc", weights=(5, 5, 1), k=12))
        for repeats in (2, 3):
            pattern = re.compile(rf"(.|..)\1{{{repeats - 1}}}\Z")
            ends = [n for n in range(1, 13) if pattern.search(letters[:n])]
            steps = [(letter, "") for letter in letters]
            assert reference.loop_detector(steps, repeats) == (ends[0] if ends else 0)
            stopped += bool(ends)
    assert 200 < stopped < 800


# --- more tries


def test_no_script_of_failures_runs_a_writer_twice_or_a_reader_too_often() -> None:
    rng = random.Random(2)
    for _ in range(300):
        tries = rng.randrange(1, 5)
        outcomes = [rng.choice([TimeoutError(), ValueError("no"), "good"]) for _ in range(8)]
        for tool in ("orders", "refund"):
            box = reference.Scripted(*outcomes)
            said = reference.retrying_toolbox(box, tool, "1", ["orders"], tries)
            made = 8 - len(box.left)
            assert made <= (tries if tool == "orders" else 1)
            last = outcomes[made - 1]
            assert all(isinstance(one, TimeoutError) for one in outcomes[: made - 1])
            assert said.startswith("error") == isinstance(last, Exception)
            assert ("may have been done" in said) == (tool == "refund" and isinstance(last, TimeoutError))


# --- the gate


def test_the_gate_asks_everything_first_and_runs_only_what_was_granted() -> None:
    rng = random.Random(3)
    for _ in range(200):
        calls = [(rng.choice(["look", "pay", "mail"]), str(i)) for i in range(rng.randrange(6))]
        said = {call: rng.choice(["approve", "edit", "reject", "", "yes"]) for call in calls}
        events = []

        def ask(tool, argument, said=said, events=events):
            events.append("ask")
            return said[tool, argument], argument + "!"

        def run(tool, argument, events=events):
            events.append((tool, argument))
            return f"{tool} {argument}"

        answers = reference.approval_gate(calls, ["look"], ask, run)
        risky = [call for call in calls if call[0] != "look"]
        assert events[: len(risky)] == ["ask"] * len(risky) and "ask" not in events[len(risky) :]
        wanted = []
        for tool, argument in calls:
            kind = "approve" if tool == "look" else said[tool, argument]
            if kind in ("approve", "edit"):
                wanted.append((tool, argument + "!" * (kind == "edit")))
        assert events[len(risky) :] == wanted
        assert answers.count(reference.NO) == len(calls) - len(wanted)


# --- the memory


def test_the_memory_fits_forgets_the_oldest_and_repeats_nothing() -> None:
    rng = random.Random(4)
    for _ in range(300):
        notes = [rng.choice(["a b", "A  b", "c", " ", "d e f", "C "]) for _ in range(rng.randrange(8))]
        last, budget = rng.randrange(1, 4), rng.randrange(2, 16)
        text = reference.reflection_memory(notes, last, budget, reference.count_words)
        kept = [tuple(line[2:].lower().split()) for line in text.splitlines()[1:]]
        assert len(kept) == len(set(kept)) <= last and (not text or reference.count_words(text) <= budget)
        newest = []
        for note in reversed(notes):
            plain = tuple(note.lower().split())
            if plain and plain not in newest:
                newest.append(plain)
        assert kept[::-1] == newest[: len(kept)]


# --- chunks


def test_no_sentence_is_lost_and_no_chunk_too_long() -> None:
    rng = random.Random(5)
    shared = 0
    for _ in range(300):
        sentences = [" ".join([f"{i}"] * rng.randrange(1, 9)) for i in range(rng.randrange(1, 15))]
        size, overlap = rng.randrange(3, 12), rng.randrange(0, 6)
        chunks = reference.chunk(sentences, size, overlap)
        held = [list(dict.fromkeys(map(int, one.split()))) for one in chunks]
        assert [" ".join(sentences[i] for i in one) for one in held] == chunks  # whole sentences in a row
        assert sorted(set(sum(held, []))) == list(range(len(sentences)))
        for one, following in zip(held, held[1:], strict=False):
            again = [i for i in following if i in one]
            assert following[-1] > one[-1] and one[len(one) - len(again) :] == again
            assert sum(len(sentences[i].split()) for i in again) <= overlap
            shared += len(again)
        assert all(len(text.split()) <= size or len(one) == 1 for text, one in zip(chunks, held, strict=True))
    assert shared > 100


# --- fusion


def test_the_fused_ranking_is_cormacks() -> None:
    """The formula of the paper, with exact fractions."""
    from fractions import Fraction

    rng = random.Random(6)
    for _ in range(200):
        rankings = [rng.sample("abcdefgh", rng.randrange(9)) for _ in range(2)]
        scores: dict[str, Fraction] = {}
        for ranking in rankings:
            for rank, one in enumerate(ranking, 1):
                scores[one] = scores.get(one, Fraction(0)) + Fraction(1, 60 + rank)
        assert reference.rank_fusion(rankings) == sorted(scores, key=lambda one: (-scores[one], one))


# --- MCP


def test_entries_are_those_of_the_protocol() -> None:
    types = pytest.importorskip("mcp.types")
    bare = {"type": "function", "function": {"name": "clock"}}
    entries = [reference.as_mcp(tool) for tool in [*tools.schemas(), bare]]
    listed = types.ListToolsResult.model_validate({"tools": entries})
    assert [tool.name for tool in listed.tools] == [*tools.SIGNATURES, "clock"]
    told = json.loads(listed.model_dump_json(by_alias=True, exclude_none=True))["tools"]
    assert told == entries


def test_every_exercise_of_the_unit_stands_in_the_notebooks_order() -> None:
    names = [name for name in registry.exercises() if name.startswith("7.2.")]
    assert names[:3] == ["7.2.act", "7.2.find_calls", "7.2.loop_detector"] and len(names) == 9
    assert sum(name.startswith("7.2.") for name in registry.quizzes()) == 15
