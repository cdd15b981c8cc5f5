"""Many clients of one gate: each its key, its limits and its turn; the files of keys are read strictly."""

import asyncio
import json

import pytest
from test_serving_gate import send_one

from course_utils.serving.clients import Turns, hashed, read_keys
from course_utils.serving.gate import Gate

HELLO = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()


# --- turns ----------------------------------------------------------------------------------------------


async def served(turns, names, holds=0.01):
    """The order in which those who came at the same moment got their places; the most that each held at once."""
    order, held, most = [], {name: 0 for name in names}, {name: 0 for name in names}

    async def visit(name):
        async with turns.turn(name):
            order.append(name)
            held[name] += 1
            most[name] = max(most[name], held[name])
            await asyncio.sleep(holds)
            held[name] -= 1

    await asyncio.gather(*map(visit, names))
    return order, most


def test_one_who_asks_ten_times_does_not_come_before_those_who_ask_once():
    names = ["greedy"] * 10 + ["anna", "ben", "cleo"]
    order, _ = asyncio.run(served(Turns(1), names))
    assert len(order) == 13
    assert set(order[:4]) == {"greedy", "anna", "ben", "cleo"}


def test_nobody_holds_more_than_half_of_the_places():
    turns = Turns(4)
    _, most = asyncio.run(served(turns, ["greedy"] * 10))
    assert most == {"greedy": 2} and turns.free == 4


def test_two_who_ask_much_take_turns():
    order, _ = asyncio.run(served(Turns(1), ["a"] * 5 + ["b"] * 5))
    assert all({order[i], order[i + 1]} == {"a", "b"} for i in range(0, 10, 2))


@pytest.mark.parametrize("holder_first", [True, False])
def test_who_leaves_the_queue_or_fails_leaves_its_place_to_the_next(holder_first):
    async def leave():
        turns = Turns(1)
        entered = asyncio.Event()

        async def hold():
            async with turns.turn("a"):
                entered.set()
                await asyncio.sleep(5)

        holder = asyncio.create_task(hold())
        await entered.wait()
        waiter = asyncio.create_task(hold())
        await asyncio.sleep(0)
        for task in (holder, waiter) if holder_first else (waiter, holder):
            task.cancel()
        return turns, await asyncio.gather(holder, waiter, return_exceptions=True)

    turns, ends = asyncio.run(leave())
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 2
    assert turns.free == 1 and not turns.waiting and not turns.held


def test_a_server_without_places_is_refused():
    with pytest.raises(ValueError, match="places is 0"):
        Turns(0)


# --- the gate -------------------------------------------------------------------------------------------


def class_gate(app, **limits):
    keys = {name: f"key-of-{name}" for name in ("anna", "ben")}
    names = {hashed(key.encode()): name for name, key in keys.items()}
    rows = []
    return Gate(app, names, "m", log=rows.append, **limits), rows


async def ask(gate, key):
    """One question with a student's key."""
    return await send_one(gate, key=key, chunks=(HELLO,))


def slow(seconds):
    """A model server that takes its time; it notes how many answers were in work at once."""
    state = {"now": 0, "most": 0}

    async def app(scope, receive, send):
        state["now"] += 1
        state["most"] = max(state["most"], state["now"])
        await asyncio.sleep(seconds)
        state["now"] -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    return app, state


def test_each_key_is_its_students_and_no_other_is_taken():
    gate, rows = class_gate(slow(0)[0])
    assert asyncio.run(ask(gate, "key-of-anna")).status == 200
    assert asyncio.run(ask(gate, "key-of-carl")).status == 401
    assert asyncio.run(ask(gate, hashed(b"key-of-anna"))).status == 401  # the file of hashes opens nothing
    assert rows[0]["client"] == "anna" and "client" not in rows[1]


def test_a_students_limits_are_no_limits_of_another():
    gate, _ = class_gate(slow(0)[0], per_minute=2)
    greedy = [asyncio.run(ask(gate, "key-of-anna")) for _ in range(3)]
    assert [answer.status for answer in greedy] == [200, 200, 429]
    assert "More than 2 requests in a minute" in greedy[-1].reason
    assert asyncio.run(ask(gate, "key-of-ben")).status == 200


def test_a_student_may_have_so_many_in_work_and_is_told():
    async def crowd(gate):
        return await asyncio.gather(*(ask(gate, "key-of-anna") for _ in range(6)), ask(gate, "key-of-ben"))

    gate, _ = class_gate(slow(0.1)[0], each_at_once=4)
    answers = asyncio.run(crowd(gate))
    statuses = [answer.status for answer in answers]
    assert sorted(statuses[:6]) == [200] * 4 + [429] * 2 and statuses[6] == 200
    assert "4 requests of yours are in work" in next(answer.reason for answer in answers if answer.status == 429)
    assert not gate.in_work and not gate.in_work_of


def test_with_turns_the_server_never_has_more_in_work_than_places():
    async def crowd(gate):
        names = ["anna", "ben"] * 6
        return await asyncio.gather(*(ask(gate, f"key-of-{name}") for name in names))

    app, state = slow(0.02)
    gate, _ = class_gate(app, turns=Turns(3))
    answers = asyncio.run(crowd(gate))
    assert {answer.status for answer in answers} == {200} and state["most"] <= 3
    assert gate.turns.free == 3


def test_whoever_waits_too_long_for_a_turn_is_told_and_leaves_no_place_taken():
    async def two(gate):
        return await asyncio.gather(ask(gate, "key-of-anna"), ask(gate, "key-of-ben"))

    gate, _ = class_gate(slow(30)[0], turns=Turns(1), answer_seconds=0.2)
    answers = asyncio.run(two(gate))
    assert [answer.status for answer in answers] == [503, 503]
    assert gate.turns.free == 1 and not gate.turns.waiting


# --- the file of keys -----------------------------------------------------------------------------------


def test_the_file_of_keys_is_read(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"anna": hashed(b"a"), "ben": hashed(b"b")}), "utf-8")
    assert read_keys(path) == {hashed(b"a"): "anna", hashed(b"b"): "ben"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no file of keys"),
        ("[" * 100_000, "no file of keys"),
        ("[]", "holds no keys"),
        ("{}", "holds no keys"),
        ('{"anna": "secret"}', "'anna' is no hash"),
        ('{"anna": 5}', "'anna' is no hash"),
        (json.dumps({"": hashed(b"a")}), "is no hash"),
        (json.dumps({"anna": hashed(b"a"), "ben": hashed(b"a")}), "two names share a key"),
    ],
)
def test_another_file_is_refused_in_words(tmp_path, content, words):
    path = tmp_path / "keys.json"
    path.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=words):
        read_keys(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="There is no file of keys at .*course keys"):
        read_keys(tmp_path / "keys.json")
