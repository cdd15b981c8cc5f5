"""What agents make of what models and tools really return: calls in every wrapping, thoughts, errors, floods."""

import json
import time

import pytest
from test_agents import Lines, Scripted

from course_utils.agents import function_calls, langchain_chat, react, rewoo
from course_utils.prisma import tools

ORDER = '{"name": "orders", "arguments": {"number": 4821}}'
FEE = '{"name": "policy", "arguments": {"topic": "fee"}}'


def in_langchain(toolbox, *replies):
    return langchain_chat.run_langchain(langchain_chat.make_agent(Lines(*replies), toolbox), "?")


# ---------------------------------------------------------------- calls


@pytest.mark.parametrize(
    "reply",
    [
        f"```json\n{ORDER}\n```",
        f"```\n{ORDER}\n```\nI wait for the result.",
        f"I look the order up.\n{ORDER}",
        f"I look {{it}} up: {ORDER} and then I answer.",
        f"<think>I could guess {{}}, or say Answer: 7.\n{FEE}</think>\n{ORDER}",
        f"The template opened the block.</think>\n\n{ORDER}",
        f"<think>hm</think>I call it: <tool_call>\n{ORDER}\n</tool_call>",
        f"[TOOL_CALLS] [{ORDER}]",
        json.dumps(json.loads(ORDER), indent=2),
        ORDER.replace("arguments", "parameters"),
    ],
    ids="fence fence-and-words line sentence thoughts half-thoughts marker list indented parameters".split(),
)
def test_a_call_is_found_and_run_in_every_form(reply, toolbox):
    assert function_calls.parse_call(reply) == ("orders", {"number": 4821})
    [ours] = function_calls.run_calls(Lines(reply, "<think>7?</think>done."), toolbox, ["?"])
    seen = toolbox("orders", "4821").text
    assert [(s.tool, s.argument, s.observation) for s in ours.steps] == [("orders", "4821", seen)]
    assert (ours.answer, ours.log[0][1]) == ("done", reply)
    theirs = in_langchain(toolbox, reply, "<think>7?</think>done.")
    assert (theirs.steps, theirs.answer, theirs.stopped) == (ours.steps, "done", "answered")


@pytest.mark.parametrize(
    "reply",
    [
        f"{ORDER}\n{FEE}",
        f"<|call|>{ORDER}<|call|>{FEE}",
        f"<tool_call>{ORDER}</tool_call>\n<tool_call>{FEE}</tool_call>",
        f"[{ORDER}, {FEE}]",
        f"Both. ```json\n{ORDER}\n```\nand\n```json\n{FEE}\n```",
    ],
    ids="lines markers qwen list fences".split(),
)
def test_several_calls_are_run_in_the_order_written(reply, toolbox):
    [ours] = function_calls.run_calls(Lines(reply, "done"), toolbox, ["?"])
    assert [(s.tool, s.argument) for s in ours.steps] == [("orders", "4821"), ("policy", "fee")]
    assert [m["role"] for m in ours.messages[2:]] == ["assistant", "tool"] * 2 and ours.answer == "done"
    theirs = in_langchain(toolbox, reply, "done")
    assert (theirs.steps, theirs.answer) == (ours.steps, "done")


def test_a_broken_call_among_others_is_told_and_the_others_run(toolbox):
    [trace] = function_calls.run_calls(Lines(f'{ORDER}\n{{"name": "policy", "argu\n{FEE}', "done"), toolbox, ["?"])
    assert [step.tool for step in trace.steps] == ["orders", "", "policy"]
    assert "bad JSON" in trace.steps[1].observation
    [trace] = function_calls.run_calls(Lines("\n".join([ORDER] * 9), "done"), toolbox, ["?"], max_steps=2)
    assert len(trace.steps) == 2 and trace.stopped == "step budget spent"


@pytest.mark.parametrize(
    "reply",
    ['The order is {"price": 36}.', "A set {1, 2}, {3}.", '```json\n{"price": 36}\n```', "<think>" + ORDER],
)
def test_braces_in_an_answer_are_no_call(reply):
    assert function_calls.written_calls(f"It costs 36. {reply}") == []


@pytest.mark.parametrize("reply", ["{" * 10_000, '{"a":' * 40_000, "x [{" * 10_000, '{"name":' * 5_000 + "\n{" * 5_000])
def test_no_reply_takes_long_to_read(reply):
    started = time.process_time()
    function_calls.written_calls("Look: " + reply)
    assert time.process_time() - started < 2


def test_a_number_of_5000_digits_is_told_and_not_raised(toolbox):
    reply = '{"name": "orders", "arguments": {"number": ' + "1" * 5_000 + "}}"
    [ours] = function_calls.run_calls(Lines(reply, "done"), toolbox, ["?"])
    assert ours.steps[0].observation == "error: bad JSON: a number is too long" and ours.answer == "done"
    theirs = in_langchain(toolbox, reply)
    assert (theirs.answer, theirs.stopped) == ("", "a call that can't be read")
    trace = react.run_react(Lines(f"Action: orders[{'1' * 5_000}]", "Answer: 7"), toolbox, "?")
    assert trace.answer == "7"


def test_schemas_of_others_are_held_against_calls():
    def tool(**parameters):
        return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]

    wanted = {"n": {"type": "number"}, "all": {"type": "array"}, "any": {"anyOf": []}}
    function_calls.check_call("f", {"n": 3, "all": [1], "any": None}, tool(properties=wanted))
    function_calls.check_call("f", {}, tool())
    for arguments, told in (({"n": True}, "n must be of type number"), ({"all": {}}, "all must be of type array")):
        with pytest.raises(function_calls.CallError, match=told):
            function_calls.check_call("f", arguments, tool(properties=wanted))


# ---------------------------------------------------------------- ReAct


def test_thoughts_are_no_lines_of_react(toolbox):
    reply = "<think>Answer: 7\nAction: policy[fee]</think>\n```\nThought: I look.\nAction: `orders[4821]`\n```"
    trace = react.run_react(Lines(reply, "<think>so</think>Answer: done"), toolbox, "?")
    assert [(s.thought, s.tool, s.argument) for s in trace.steps] == [("I look.", "orders", "4821")]
    assert trace.answer == "done" and "<think>" not in trace.prompt and "<think>" in trace.log[0][1]


def test_what_was_made_up_after_an_action_is_not_read_again(toolbox):
    made_up = "Thought: a\nAction: calculator[1 + 1]\nAction: calculator[2 + 2]\nAnswer: 5"
    trace = react.run_react(Lines(made_up, "Answer: 2"), toolbox, "?")
    assert trace.log[1][0].endswith("Action: calculator[1 + 1]\nObservation: 2\n")
    assert trace.log[0][1] == made_up and trace.answer == "2"


# ---------------------------------------------------------------- tools


def closed(name, argument):
    raise ConnectionError("the shop is closed")


CALLING = {"react": "Action: orders[1]", "calls": ORDER, "rewoo": "#E1 = orders[1]"}
LOOPS = {"react": react.run_many, "calls": function_calls.run_calls, "rewoo": rewoo.run_rewoo}


@pytest.mark.parametrize("loop", list(LOOPS))
def test_a_tool_that_raises_is_read_by_the_model(loop):
    [trace] = LOOPS[loop](Lines(CALLING[loop], "Answer: closed"), closed, ["?"])
    assert trace.steps[0].observation == "error: ConnectionError: the shop is closed" and trace.answer == "closed"
    [trace] = LOOPS[loop](Lines(CALLING[loop], "Answer: closed"), lambda name, argument: "7", ["?"])
    assert "returned str where a tools.Result belongs" in trace.steps[0].observation


def test_a_tool_that_raises_does_not_end_langchains_loop():
    trace = in_langchain(closed, FEE, "It is closed.")
    assert trace.steps[0].observation == "error: ConnectionError: the shop is closed"
    assert (trace.answer, trace.stopped) == ("It is closed", "answered")


def test_a_huge_result_stops_both_loops_alike():
    def talkative(name, argument):
        return tools.Result("word " * 20_000)

    [ours] = function_calls.run_calls(Lines(FEE, "never asked"), talkative, ["?"])
    theirs = in_langchain(talkative, FEE, "never asked")
    assert (ours.stopped, len(ours.steps), ours.answer) == ("window full", 1, "")
    assert (theirs.stopped, theirs.steps, theirs.answer) == (ours.stopped, ours.steps, "")
    with pytest.raises(langchain_chat.WindowFull, match="leaves no room for 96 more: shorten it"):
        langchain_chat.PrismaChatModel(chat=Lines()).invoke("word " * 20_000)


# ---------------------------------------------------------------- LangChain's own ways


def test_blocks_of_text_are_joined_and_others_refused():
    from langchain_core.messages import HumanMessage

    seen = []
    model = langchain_chat.PrismaChatModel(chat=Scripted(lambda prompt: seen.append(prompt) or "hello"))
    model.invoke([HumanMessage([{"type": "text", "text": "Where is "}, "order 4821?"])])
    assert "<user>Where is order 4821?" in seen[0] and "type" not in seen[0]
    with pytest.raises(ValueError, match="a block of type image_url: this model reads text alone"):
        model.invoke([HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}])])


def test_tool_choice_is_kept_or_refused(toolbox):
    seen = []
    model = langchain_chat.PrismaChatModel(chat=Scripted(lambda prompt: seen.append(prompt) or "hello"))
    box = langchain_chat.shop_tools(toolbox)
    for choice in ("any", "required", "orders", True, {"type": "function", "function": {"name": "orders"}}):
        with pytest.raises(ValueError, match="would force a call.*leave it out"):
            model.bind_tools(box, tool_choice=choice)
    with pytest.raises(ValueError, match="would force a call"):
        model.bind_tools(box).invoke("?", tool_choice="any")
    for choice in ("auto", None, "none"):
        model.bind_tools(box, tool_choice=choice).invoke("?")
    assert [prompt.startswith("[") for prompt in seen] == [True, True, False]
