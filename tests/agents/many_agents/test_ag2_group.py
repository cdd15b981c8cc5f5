"""The group of roles in AG2, with a model that knows by heart what to call."""

import asyncio
import itertools
import json
import socket

import pytest

from course_utils.agents import success
from course_utils.agents.function_calls import run_calls
from course_utils.agents.many_agents import ag2_group, teams
from course_utils.prisma.tools import SIGNATURES

SAID, FOUND = ag2_group.HANDED


class Script:
    """A chat whose replies are a function of the messages that it reads; its prompts are these messages as JSON."""

    name, tier = "script", "bundled"

    def __init__(self, reply, window=100_000):
        self.reply = reply
        self.model = type("Model", (), {"config": type("Config", (), {"max_position_embeddings": window})})

    def tokenizer(self, words):
        return {"input_ids": words.split()}

    def prompt(self, messages, tools=None):
        names = [tool["function"]["name"] for tool in tools or []]
        return json.dumps({"messages": messages, "tools": names})

    def complete(self, prompt, max_new_tokens=128):
        return self.reply(json.loads(prompt)["messages"])


def call(name, value):
    """A function call as prisma-lm writes it."""
    return json.dumps({"name": name, "arguments": {SIGNATURES[name][0]: value}})


def ask(chat, toolbox, question="What now?", handed=FOUND, **options):
    return asyncio.run(ag2_group.ask_group(chat, toolbox, question, handed, **options))


def results(messages):
    """What the tools said in a prompt."""
    return [message["content"] for message in messages if message["role"] == "tool"]


def read(trace, turn):
    """The messages that the model read in a turn."""
    return json.loads(trace.log[turn][0])["messages"]


@pytest.fixture
def learned(task):
    """Makes the next call of `task` that no result is there for, and answers after the last."""

    def reply(messages):
        done = len(results(messages))
        if done == len(task.steps):
            return task.answer
        step = task.steps[done]
        value = int(step.argument) if step.tool == "orders" else step.argument
        return "<|call|>" + call(step.tool, value)

    return Script(reply)


def test_the_group_hands_over_and_every_role_uses_its_own_tools(learned, toolbox, task):
    trace = ask(learned, toolbox, task.question)
    assert trace.answer == task.answer and trace.stopped == "answered"
    assert success.outcomes([task], [trace]) == [True]
    speakers = [who for who, _ in itertools.groupby(step.thought for step in trace.steps)]
    assert speakers == ["customer service", "warehouse", "accountant"]
    worked = [step for step in trace.steps if not step.observation.startswith("hands over")]
    assert [(step.tool, step.argument) for step in worked] == [(step.tool, step.argument) for step in task.steps]
    assert all(step.thought == teams.owner(step.tool) for step in worked)
    handed = [step for step in trace.steps if step not in worked]
    assert [step.observation for step in handed] == ["hands over to warehouse", "hands over to accountant"]


def test_each_role_is_told_of_all_tools_in_the_order_of_the_shop(learned, toolbox, task):
    trace = ask(learned, toolbox, task.question)
    told = [json.loads(prompt)["tools"] for prompt, _ in trace.log]
    assert told == [list(SIGNATURES)] * len(trace.log)


def test_with_the_record_the_last_speaker_reads_all_that_was_found(learned, toolbox, task):
    trace = ask(learned, toolbox, task.question)
    system, question, *rest = read(trace, -1)
    assert (system["role"], question["content"]) == ("system", task.question)
    seen = [toolbox(step.tool, step.argument).text for step in task.steps]
    assert results(rest) == seen and len(rest) == 2 * len(seen)
    called = [message["tool_calls"][0]["function"]["name"] for message in rest[::2]]
    assert called == [step.tool for step in task.steps]


def test_without_it_a_colleague_reads_who_handed_over_and_no_result(toolbox, task):
    order = next(step for step in task.steps if step.tool == "orders")

    def reply(messages):
        if results(messages):
            return call("calculator", "1 + 1")
        return call("orders", int(order.argument))

    trace = ask(Script(reply), toolbox, task.question, SAID, max_turns=4)
    assert [step.thought for step in trace.steps][:3] == ["customer service", "warehouse", "warehouse"]
    words = read(trace, 1)[-1]["content"]
    assert words.startswith(f"[customer service]: [Handed off via orders] orders({order.argument})")
    assert "[Handed off via calculator] calculator(1 + 1)" in read(trace, 3)[-1]["content"]
    assert not results(read(trace, 3))


def test_a_role_that_calls_its_own_tool_for_ever_is_stopped(toolbox):
    trace = ask(Script(lambda messages: call("policy", "fee")), toolbox, max_turns=5)
    assert (trace.stopped, trace.answer, len(trace.log)) == ("step budget spent", "", 5)
    assert [step.thought for step in trace.steps] == ["customer service"] * 5


def test_roles_that_only_hand_over_are_stopped_by_ag2(toolbox):
    def reply(messages):
        last = messages[-1]["content"]
        return call("policy", "fee") if "[Handed off via orders]" in last else call("orders", 4821)

    trace = ask(Script(reply), toolbox, handed=SAID, max_turns=5)
    assert (trace.stopped, trace.answer, len(trace.log)) == ("max_turns", "", 5)
    assert {step.observation for step in trace.steps} == {"hands over to warehouse", "hands over to customer service"}


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("", "nothing written"),
        ("<think>so</think>", "nothing written"),
        ('{"name": "policy", "arguments": {"topic"', "a call that can't be read"),
    ],
)
def test_a_reply_without_words_ends_it_where_ag2_would_wait(toolbox, reply, why):
    trace = ask(Script(lambda messages: reply), toolbox)
    assert (trace.stopped, trace.answer, len(trace.log)) == (why, "", 1)


def test_a_full_window_ends_it(toolbox):
    trace = ask(Script(lambda messages: "2", window=100), toolbox)
    assert (trace.stopped, trace.answer, trace.log) == ("window full", "", [])


def test_thoughts_stay_out_of_the_answer(toolbox):
    assert ask(Script(lambda messages: "<think>1 + 1</think>Answer: 2."), toolbox).answer == "2"


def test_an_error_of_a_tool_reaches_the_model_and_the_group_goes_on(toolbox):
    def broken(name, argument):
        raise TimeoutError("the shop is closed")

    def reply(messages):
        return "I can't tell." if results(messages) else call("policy", "fee")

    for handed in ag2_group.HANDED:
        trace = ask(Script(reply), broken, handed=handed)
        assert results(read(trace, -1)) == ["error: TimeoutError: the shop is closed"]
        assert trace.answer == "I can't tell" and len(trace.log) == 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ('{"name": "refund", "arguments": {"number": 4821}}', "Tool `refund` not found"),
        ('{"name": "policy", "arguments": {"topic": [1]}}', "Input should be a valid string"),
        ('{"name": "orders", "arguments": {"number": "mine"}}', "Input should be a valid integer"),
    ],
)
def test_a_call_that_does_not_fit_gets_a_short_error_to_read(toolbox, wrong, words):
    trace = ask(Script(lambda messages: "no" if results(messages) else wrong), toolbox)
    [error] = results(read(trace, -1))
    assert error.startswith("error: ") and words in error and len(error) <= ag2_group.LONGEST_ERROR
    assert trace.answer == "no" and not trace.steps


def test_what_a_model_raises_is_raised(toolbox):
    def reply(messages):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        ask(Script(reply), toolbox)


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (ValueError, "choose one of what is said, what was found", {"handed": "nothing"}),
        (ValueError, "max_turns is 0: a group needs one turn", {"max_turns": 0}),
        (TypeError, "each has to be a string", {"question": 7}),
    ],
)
def test_bad_inputs_get_a_sentence(toolbox, error, words, options):
    with pytest.raises(error, match=words):
        ask(Script(lambda messages: "2"), toolbox, **options)


def test_nothing_is_sent(monkeypatch, learned, toolbox, task):
    tried = []

    def refuse(*where, **_):
        tried.append(where)
        raise OSError("no network here")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert ask(learned, toolbox, task.question).answer == task.answer
    assert not tried


def test_prisma_reads_in_the_group_what_it_reads_alone(toolbox, task):
    from course_utils.models.loaders import load

    chat = load("chat", tier="bundled")
    trace = ask(chat, toolbox, task.question)
    [alone] = run_calls(chat, toolbox, [task.question])
    assert trace.answer == alone.answer == task.answer
    assert trace.log[-1] == alone.log[-1] and len(trace.log) > len(alone.log)
