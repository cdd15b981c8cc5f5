"""Reflexion with a scripted actor: trials, verdicts, memory, places of a reflection, rules, failing toolboxes."""

import re

import pytest
from test_agents import Lines, Scripted

from course_utils.agents import reflexion, toolboxes
from course_utils.agents.loop import Step, Trace
from course_utils.prisma import text, tools

QUESTION = "Where is order 4812?"


def shop_of(**orders):
    """A toolbox that knows these orders by number, each with a status."""

    def box(name, argument):
        status = orders.get(f"n{argument}")
        return tools.Result(f"order {argument}: {status}") if status else tools.failed(f"no order {argument}")

    return box


def asking(prompt):
    """An actor that asks for the number in the question, and answers what it read last."""
    question = re.findall(r"order (\d{4})\?", prompt)[-1]
    seen = re.findall(r"Observation: order \d{4}: (\w+)", prompt)
    return f"Thought: known.\nAnswer: {seen[-1]}" if seen else f"Thought: look.\nAction: orders[{question}]"


def attempt(retell, trials=3):
    box = shop_of(n4822="packed", n4815="shipped")
    return reflexion.run_reflexion(
        Scripted(asking),
        box,
        [QUESTION],
        lambda place, trace: trace.answer == "packed",
        reflexion.NearMisses([4822, 4815]),
        retell,
        trials,
        max_repeats=2,
    )[0]


def test_a_rewritten_question_reaches_the_second_candidate_at_the_third_trial():
    done = attempt(reflexion.rewritten)
    assert [trace.answer for trace in done.traces] == ["", "shipped", "packed"]
    assert done.right == [False, False, True]
    assert [said.instead for said in done.reflections] == ["4815", "4822"]
    solved = [reflexion.solved_within([done], n) for n in (1, 2, 3)]
    assert solved == [[False], [False], [True]]


def test_two_trials_are_not_enough_for_it_and_a_plain_retry_never_is():
    assert not attempt(reflexion.rewritten, trials=2).solved
    control = attempt(reflexion.as_before)
    assert not control.solved and len(control.traces) == 3


def test_a_reflection_below_stands_in_the_prompt_of_the_next_trial():
    done = attempt(reflexion.below)
    assert "Reflection: I asked for 4812, not for 4815. Next time I use 4815." in done.traces[1].question
    assert not done.solved  # this actor reads the question alone


def test_a_solved_task_is_not_tried_again_and_a_first_trial_is_kept():
    chat = Lines("Answer: nothing")
    first = [Trace(QUESTION, answer="packed", stopped="answered")]
    [done] = reflexion.run_reflexion(
        chat, shop_of(), [QUESTION], lambda place, trace: True, lambda *_: None, reflexion.below, first=first
    )
    assert done.traces == first and chat.batches == []


@pytest.mark.parametrize(
    ("trials", "first", "said"), [(0, [], "one at least"), (2, [Trace("a"), Trace("b")], "one each")]
)
def test_bad_trials_and_first_traces_are_refused(trials, first, said):
    with pytest.raises(ValueError, match=said):
        reflexion.run_reflexion(
            Lines(), shop_of(), [QUESTION], lambda *_: True, lambda *_: None, reflexion.below, trials, first
        )


def failed_at(observation):
    return Trace(QUESTION, steps=[Step("", "orders", "4812", observation)], stopped="loop")


def test_the_rules_have_patience_with_a_time_out_and_give_up_when_no_order_is_near():
    rules = reflexion.NearMisses([9999, 4811])
    assert rules(failed_at("error: timeout"), []).words == "The tool failed. Next time I try again."
    named = rules(failed_at("error: no order 4812"), [])
    assert (named.wrong, named.instead) == ("4812", "4811")
    assert rules(failed_at("error: no order 4812"), [named]) is None
    assert rules(Trace(QUESTION), []) is None


def test_own_words_are_asked_for_in_the_form_that_prisma_lm_learned():
    asked = []
    chat = Scripted(lambda prompt: asked.append(prompt) or "Reflection: Next time I look.")
    assert reflexion.own_words(chat, [failed_at("error: no order 4812")]) == ["Next time I look."]
    assert asked == [text.reflect_prompt(QUESTION, [("orders[4812]", "error: no order 4812")], "unknown")]


def test_a_mistyped_number_differs_in_one_digit_and_is_no_order(prisma):
    numbers = list(prisma.orders)
    for task in text.episodes(60, seed=5, shop=prisma):
        if not re.search(r"\d{4}", task.question):
            with pytest.raises(ValueError, match="choose a question about an order"):
                reflexion.mistyped(task, numbers, seed=1)
            continue
        changed = reflexion.mistyped(task, numbers, seed=1)
        wrong, true = (re.search(r"\d{4}", one.question).group() for one in (changed, task))
        assert reflexion.digits_apart(wrong, true) == 1 and int(wrong) not in prisma.orders
        assert changed.answer == task.answer and changed == reflexion.mistyped(task, numbers, seed=1)


def test_an_outage_ends_and_hits_only_its_orders():
    box = toolboxes.Outage(shop_of(n1="packed", n2="packed"), ["1"], calls=2)
    assert [box("orders", "1").ok for _ in range(3)] == [False, False, True]
    assert box("orders", "2").ok


def test_a_remark_changes_the_text_alone_and_tidied_takes_it_back(toolbox, prisma):
    number = str(next(iter(prisma.orders)))
    calls = [("orders", number), ("catalogue", "small red cube"), ("customer", "Ada"), ("policy", "fee")]
    talking = toolboxes.Remarking(toolbox, " (last checked today)")
    for name, argument in [*calls, ("calculator", "3 * 4"), ("orders", "0")]:
        plain, spoken = toolbox(name, argument), talking(name, argument)
        assert spoken.fields == plain.fields
        assert (spoken.text == plain.text + " (last checked today)") == ((name, argument) in calls)
        assert toolboxes.Tidied(talking)(name, argument) == plain


def test_retrying_outlasts_time_outs_but_takes_other_errors_as_an_answer():
    asked = []

    def box(name, argument):
        asked.append(argument)
        return tools.failed("timeout") if len(asked) < 3 else tools.Result("fine")

    assert toolboxes.Retrying(box, 2)("orders", "1").text == "error: timeout" and len(asked) == 2
    assert toolboxes.Retrying(box, 3)("orders", "1").text == "fine"
    unknown = []
    assert not toolboxes.Retrying(lambda *call: unknown.append(call) or tools.failed("no order 1"))("orders", "1").ok
    assert len(unknown) == 1
    with pytest.raises(ValueError, match="one at least"):
        toolboxes.Retrying(box, 0)
