"""Every answer that prisma-lm is trained on or measured by follows from what the tools say."""

import itertools
import json
import random
import re
from collections import Counter

import pytest

from course_utils.prisma import shop, text, tools


@pytest.fixture(scope="module")
def tasks(prisma):
    return text.episodes(300, seed=11, shop=prisma)


def test_same_seed_same_tasks_of_all_kinds_and_no_question_twice(prisma, tasks):
    assert text.episodes(300, seed=11, shop=prisma) == tasks
    assert len({task.question for task in tasks}) == 300
    kinds = Counter(task.kind for task in tasks)
    assert set(kinds) == (set(text.MAKERS) - {"last order"}) | {"last contents", "last status", "last total"}


def test_unknown_kind_is_an_error(prisma):
    with pytest.raises(KeyError):
        text.episode(random.Random(0), prisma, "weather")


def last_value(task, results):
    """What the answer should be, worked out from the results of the calls alone."""
    last = results[-1].fields
    if task.kind in ("status", "last status"):
        return last["status"]
    if task.kind in ("contents", "last contents"):
        return last["product"]
    if task.kind == "policy":
        unit = {"days", "months", "euros", "percent"} & set(results[-1].text.split())
        return f"{last['number']} {unit.pop()}"
    plain = {"owner": "customer", "quantity": "quantity", "stock": "stock", "sum": "value"}
    if task.kind in plain:
        return last[plain[task.kind]]
    return f"{last['price' if task.kind == 'price' else 'value']} euros"


def test_answers_follow_from_the_calls(tasks, toolbox):
    for task in tasks:
        results = [toolbox(step.tool, step.argument) for step in task.steps]
        assert all(result.ok for result in results), task
        assert last_value(task, results) == task.answer, task


def test_arguments_are_known_when_they_are_needed(tasks, toolbox):
    """Each argument is made of words from the question or from what the tools said before."""
    for task in tasks:
        known = task.question
        for step in task.steps:
            told = set(re.findall(r"[\w*+-]+", known)) | {"*", "+", *shop.TOPICS}
            assert set(step.argument.split()) <= told, (task, step)
            known += " " + toolbox(step.tool, step.argument).text


def test_plan_placeholders_resolve_to_the_arguments(tasks, toolbox):
    for task in tasks:
        results = {}
        for number, step in enumerate(task.steps, 1):
            argument = step.planned
            for name, key in re.findall(r"#E(\d+)\.(\w+)", step.planned):
                argument = argument.replace(f"#E{name}.{key}", results[int(name)].fields[key])
            assert argument == step.argument, task
            results[number] = toolbox(step.tool, argument)


def test_plan_uses_nothing_that_the_question_does_not_say(tasks):
    for task in tasks:
        for step in task.steps:
            numbers = re.findall(r"(?<!#E)\b\d+", step.planned)
            assert all(number in task.question for number in numbers), task


def test_react_text_is_what_the_loop_rebuilds(tasks, toolbox):
    for task in tasks[:60]:
        example = text.react(random.Random(0), toolbox, task, unreliable=0)
        written = text.prompt("react", task.question)
        for step in task.steps:
            seen = toolbox(step.tool, step.argument).text
            written += f"Thought: {step.thought}\nAction: {step.tool}[{step.argument}]\nObservation: {seen}\n"
        assert example.text == f"{written}Thought: I know the answer.\nAnswer: {task.answer}<|end|>"


def test_observations_and_questions_are_read_and_not_learned(tasks, toolbox):
    for task in tasks[:60]:
        for make in (text.react, text.function_calls):
            pieces = make(random.Random(0), toolbox, task).pieces
            learned = "".join(piece for piece, learn in pieces if learn)
            assert task.question not in learned
            looked_up = [s for s in task.steps if s.tool != "calculator"]
            assert all(toolbox(s.tool, s.argument).text not in learned for s in looked_up)
            assert task.answer in learned


def test_a_tool_that_fails_is_called_again(tasks, toolbox):
    task = next(task for task in tasks if task.kind == "total")
    example = text.react(random.Random(0), toolbox, task, unreliable=1)
    assert example.text.count("error: timeout") == 3
    assert example.text.count("The tool failed, I try again.") == 3
    calls = re.findall(r"Action: (.*)\nObservation: (.*)", example.text)
    assert [a for a, seen in calls if "timeout" in seen] == [a for a, seen in calls if "timeout" not in seen]


def test_function_calls_are_json_that_fits_the_schemas(tasks, toolbox):
    types = {"integer": int, "string": str}
    for task in tasks[:100]:
        example = text.function_calls(random.Random(0), toolbox, task, unreliable=0)
        calls = re.findall(r"<\|call\|>(.*?)<\|end\|>", example.text)
        assert len(calls) == len(task.steps)
        for call, step in zip(map(json.loads, calls), task.steps, strict=True):
            name, kind, _ = tools.SIGNATURES[step.tool]
            assert call["name"] == step.tool
            assert type(call["arguments"][name]) is types[kind]
            assert str(call["arguments"][name]) == step.argument


def test_chat_template_writes_what_the_model_was_trained_on(tasks, toolbox):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from course_utils.prisma.lm import CHAT_TEMPLATE

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=CHAT_TEMPLATE)
    order = list(tools.SIGNATURES)
    for task in tasks[:30]:
        messages = [{"role": "user", "content": task.question}]
        for step in task.steps:
            name, kind, _ = tools.SIGNATURES[step.tool]
            arguments = {name: int(step.argument) if kind == "integer" else step.argument}
            call = {"type": "function", "function": {"name": step.tool, "arguments": arguments}}
            seen = toolbox(step.tool, step.argument).text
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            messages.append({"role": "tool", "content": seen})
        shown = tokenizer.apply_chat_template(
            messages, tools=tools.schemas(), tokenize=False, add_generation_prompt=True
        )
        trained = text.function_calls(Unshuffled(order), toolbox, task, unreliable=0)
        assert shown + f"{task.answer}<|end|>" == trained.text


class Unshuffled(random.Random):
    """Random numbers, except that the tools keep their order."""

    def __init__(self, order):
        super().__init__(0)
        self.order = order

    def sample(self, population, k):
        return self.order


def test_solve_prompt_carries_the_evidence(tasks, toolbox):
    task = next(task for task in tasks if task.kind == "bill")
    example = text.solve(random.Random(0), toolbox, task)
    for number, step in enumerate(task.steps, 1):
        seen = toolbox(step.tool, step.argument).text
        assert f"\n#E{number} = {step.tool}[{step.argument}]: {seen}" in example.text


def test_worked_steps_are_true():
    rng = random.Random(3)
    for _ in range(200):
        made = text.shopping_sum(rng)
        equations = re.findall(r"([\d *+]+) = (\d+)\.", made.steps)
        assert len(equations) == 3
        assert all(tools.calculate(left) == int(right) for left, right in equations)
        assert equations[-1][1] == made.answer
        numbers = Counter(re.findall(r"\d+", made.question))
        assert all(numbers[n] for left, _ in equations[:2] for n in re.findall(r"\d+", left))


def test_reading_answers_stand_in_the_facts(prisma):
    rng = random.Random(5)
    for _ in range(100):
        prompt, answer = (piece for piece, _ in text.reading(rng, prisma).pieces)
        answer = text.final_answer(answer.removesuffix("<|end|>"))
        assert answer in prompt.replace("There are", "")


@pytest.mark.parametrize(
    ("expected", "reply", "right"),
    [
        ("36 euros", "Answer: 36 euros", True),
        ("36 euros", "Thought: I know the answer.\nAnswer: 36 euros.\n", True),
        ("Ada", "ada", True),
        ("36 euros", "Answer: 136 euros", False),
        ("36 euros", "Answer: 36", False),
        ("36 euros", "Answer: 36 euros or 37 euros", False),
        ("36 euros", "Answer: 36 euros\nAnswer: 37 euros", False),
        ("shipped", "Answer: not shipped", False),
        ("7", "Answer: ", False),
        ("7", "", False),
    ],
)
def test_grader(expected, reply, right):
    assert text.correct(expected, reply) is right


def test_mixture_is_the_same_from_the_same_seed_and_has_every_share():
    first = list(itertools.islice(text.mixture(4), 400))
    assert first == list(itertools.islice(text.mixture(4), 400))
    assert {e.kind for e in first} >= {"react", "function", "worked", "copying", "recall", "reading"}
    assert abs(sum(text.SHARES.values()) - 1) < 1e-9 and abs(sum(text.DRILLS.values()) - 1) < 1e-9
    drills = {e.kind for e in itertools.islice(text.mixture(4, text.DRILLS), 200)}
    assert drills == set(text.DRILLS)


def test_training_never_sees_the_shop_of_the_notebooks(prisma):
    """`mixture` draws its shops from seeds of six digits and more; the notebooks' shop has seed 7."""
    numbers = {str(n) for n in prisma.orders}
    asked = [re.findall(r"order (\d{4})", e.text) for e in itertools.islice(text.mixture(4), 400)]
    share = sum(number in numbers for found in asked for number in found) / sum(map(len, asked))
    assert share < 0.1  # by chance 400 of 9000


# ---------------------------------------------------------------- planner and executor, reflections


def test_a_plan_in_words_names_every_tool_and_nothing_that_only_tools_know(prisma, toolbox, tasks):
    for task in tasks[:60]:
        (_, _), (steps, learn) = text.planner(random.Random(1), toolbox, task).pieces
        lines = steps.removesuffix("<|end|>").split("\n")
        assert learn and [line.split()[2] for line in lines] == [step.tool for step in task.steps]
        told = set(re.findall(r"[0-9]+", task.question)) | {str(i) for i in range(1, 9)}
        assert set(re.findall(r"[0-9]+", steps)) <= told, steps


def test_the_executor_calls_the_right_tool_and_answers_at_the_end(prisma, toolbox, tasks):
    rng, replies = random.Random(2), set()
    for task in tasks[:80]:
        (asked, _), (reply, _) = text.executor(rng, toolbox, task).pieces
        calls = [f"Action: {step.tool}[{step.argument}]<|end|>" for step in task.steps]
        assert reply in (*calls, f"Answer: {task.answer}<|end|>") and task.question in asked
        replies.add(reply.split(":")[0])
    assert replies == {"Action", "Answer"}


def test_a_slip_fails_and_its_reflection_names_what_went_wrong(prisma, toolbox, tasks):
    rng, kinds = random.Random(3), Counter()
    for task in tasks[:120]:
        made = text.slip(rng, toolbox, task)
        right = [(step.tool, step.argument) for step in task.steps]
        assert list(made.calls) != right and made.answer != task.answer
        if "too early" in made.reflection:
            kinds["early"] += 1
            assert right[-1][0] in made.reflection and list(made.calls) == right[:-1]
        elif "I asked for" in made.reflection:
            kinds["number"] += 1
            assert made.calls[0][1] != right[0][1] and right[0][1] in made.reflection
        else:
            kinds["tool"] += 1
            assert not toolbox(*made.calls[0]).ok and f"I use {right[0][0]}," in made.reflection
    assert min(kinds.values()) > 10 and len(kinds) == 3


def test_the_next_attempt_reads_the_reflection_and_is_a_whole_trace(prisma, toolbox, tasks):
    made = text.retry(random.Random(4), toolbox, tasks[0])
    assert "\nReflection: " in made.pieces[0][0] and not made.pieces[0][1]
    assert made.pieces[-1][0].endswith(f"Answer: {tasks[0].answer}<|end|>") and made.kind == "retry"


def test_the_last_part_of_the_curriculum_has_every_kind():
    assert set(text.SKILLS) == set(text.SHARES) | {"planner", "executor", "reflect", "retry"}
    drawn = {one.kind for one in itertools.islice(text.mixture(3, text.SKILLS), 800)}
    assert drawn == set(text.SKILLS)
