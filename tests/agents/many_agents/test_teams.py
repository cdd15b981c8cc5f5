"""Task queue, blackboard, group and vote, with a model that has learned one question by heart."""

import itertools
import re

import pytest

from course_utils.agents import toolboxes
from course_utils.agents.many_agents import task_queue, teams
from course_utils.measures import majority
from course_utils.prisma import text


class Script:
    """A chat whose replies are a function of the prompt."""

    tier = "bundled"

    def __init__(self, reply):
        self.reply = reply
        self.model = type("Model", (), {"config": type("Config", (), {"max_position_embeddings": 10_000})})

    def tokenizer(self, words):
        return {"input_ids": words.split()}

    def complete(self, prompt, max_new_tokens=128, stop=()):
        reply = self.reply(prompt)
        return re.split("|".join(stop), reply)[0] if stop else reply

    def complete_many(self, prompts, max_new_tokens=128, stop=()):
        return [self.complete(prompt, stop=stop) for prompt in prompts]


@pytest.fixture
def learned(task):
    """Plans and executes `task` rightly, and knows each of its ReAct turns."""

    def reply(prompt):
        if text.SYSTEM["planner"] in prompt:
            return "\n".join(f"{i}. {text.goal(step)}" for i, step in enumerate(task.steps, 1))
        if text.SYSTEM["executor"] in prompt:
            now = prompt.split("<|end|>")[-2].rsplit("\n", 1)[-1].split(". ", 1)[-1]
            goals = {text.goal(step): f"Action: {step.tool}[{step.argument}]" for step in task.steps}
            return goals.get(now, f"Answer: {task.answer}")
        raise AssertionError("no other prompt is expected")

    return Script(reply)


def test_a_plan_is_worked_off_and_answered(learned, toolbox, task):
    project = task_queue.run_queue(learned, toolbox, task.question)
    assert project.answer == task.answer and project.stopped == "answered"
    assert [(s.tool, s.argument) for s in project.steps] == [(s.tool, s.argument) for s in task.steps]


def test_a_queue_that_takes_all_tasks_grows_until_the_budget_ends_it(learned, toolbox, task):
    project = task_queue.run_queue(learned, toolbox, task.question, task_queue.from_both, unique=False, max_tasks=6)
    assert project.stopped == "step budget spent" and not project.answer
    growing = project.lengths[:-1]  # after the last task nothing is asked
    assert growing == sorted(growing) and growing[-1] > growing[0] and project.fresh == len(task.steps)


def test_refused_repeats_end_it(learned, toolbox, task):
    project = task_queue.run_queue(learned, toolbox, task.question, task_queue.from_both)
    assert project.stopped == "answered" and len(project.steps) == len(task.steps)


def test_a_message_is_cut_into_its_questions(prisma):
    for request in teams.draw_requests(10, 3, 1, prisma):
        assert teams.split_request(request.words) == [task.question for task in request.tasks]
        assert teams.all_right(request, [task.answer for task in request.tasks])
        assert not teams.all_right(request, [request.tasks[0].answer])


def test_planner_and_executor_share_a_board(learned, toolbox, task):
    [board] = teams.two_agents(learned, toolbox, [task.question])
    assert board.answers() == [task.answer] and len(board.table()) == len(task.steps) + 1


def test_a_failed_goal_stays_open_for_its_tries(learned, toolbox, task):
    broken = toolboxes.Flaky(toolbox, 1.0)
    [board] = teams.two_agents(learned, broken, [task.question], tries=3)
    assert [entry.tries for entry in board.entries] == [3] * len(task.steps) + [1]


def test_a_group_hands_over_and_every_role_uses_its_own_tools(toolbox, task):
    def reply(prompt):
        done = prompt.count("Observation:")
        if done < len(task.steps):
            step = task.steps[done]
            return f"Thought: x\nAction: {step.tool}[{step.argument}]\n"
        return f"Thought: I know.\nAnswer: {task.answer}"

    group = teams.make_group(Script(reply), toolbox)
    trace = teams.run_group(group, task.question)
    assert trace.answer == task.answer
    speakers = [who for who, _ in itertools.groupby(step.thought for step in trace.steps)]
    assert speakers == ["customer service", "warehouse", "accountant"]


def test_a_group_that_never_answers_is_stopped(toolbox):
    group = teams.make_group(Script(lambda prompt: "Thought: x\nAction: policy[fee]\n"), toolbox, max_turns=5)
    trace = teams.run_group(group, "What now?")
    assert trace.stopped == "no answer" and len(trace.log) == 5


def test_an_unknown_way_to_hand_over_is_refused(toolbox):
    with pytest.raises(ValueError, match="choose one of"):
        teams.make_group(None, toolbox, "nothing")


def test_a_majority_needs_answers():
    assert majority(["a", "b", "b", ""]) == "b" and majority(["", ""]) == ""
