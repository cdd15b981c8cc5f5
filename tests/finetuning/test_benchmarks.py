"""The benchmarks ask what they say, mark what they should, and run nothing that a model wrote."""

import re
import sys
import tomllib

import pytest

from course_utils.finetuning import benchmarks
from course_utils.models import bundled
from course_utils.prisma import conversations, lm
from course_utils.settings import ROOT


@pytest.fixture(scope="module")
def tokenizer():
    return lm.load(bundled.folder("prisma-lm"))[1]


def test_the_right_choice_is_the_messages_topic(tokenizer):
    docs = benchmarks.choices(20, tokenizer)
    assert len(docs) == 20 and len({doc["right"] for doc in docs}) > 4
    for doc in docs:
        assert f"(topic: {doc['choices'][doc['right']]})" in doc["text"]
        assert doc["text"].endswith("<|assistant|>")


@pytest.mark.parametrize(
    "written, mark",
    [
        ("Thought: I calculate it.\nAction: calculator[3 * 4]\n", 1.0),
        ("Action: calculator[4 + 4 + 4]", 1.0),  # another program, the same result
        ("Action: calculator[3 * 5]", 0.0),
        ("The answer is 12.", 0.0),
        ("Action: calculator[__import__('os').system('true')]", 0.0),
        ("Action: calculator[9 ** 9 ** 9]", 0.0),
    ],
)
def test_sums_are_marked_by_their_result_and_never_run(written, mark):
    assert benchmarks.runs_right({"value": 12}, [written]) == {"passed": mark}


def test_the_judge_counts_the_parts_that_are_right():
    talk = conversations.by_split(conversations.make_conversations())["test"][-3:][1]
    judge = benchmarks.judged(3)
    assert judge({"index": 1}, [talk.reply]) == {"points": 10.0}
    assert judge({"index": 1}, [""]) == {"points": 0.0}
    half = " ".join(list(talk.required.values())[:3])
    assert judge({"index": 1}, [half]) == {"points": 5.0}


def test_the_harness_scores_the_shipped_model(tokenizer):
    pytest.importorskip("lm_eval")
    from course_utils.models import loaders, roles

    model = lm.load(bundled.folder("prisma-lm"))[0]
    found = benchmarks.evaluate(roles.Chat(loaders.greedy_by_default(model), tokenizer, "prisma-lm", "bundled"), 8)
    run, judge = found["run (as HumanEval): passed"], found["judge (as MT-Bench): points of 10"]
    assert run.n == judge.n == 8 and run.value > 0.6  # it knows sums
    assert judge.value < 5  # and not the house style


def test_a_task_that_would_execute_code_is_refused(tokenizer):
    pytest.importorskip("lm_eval")
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask

    task = benchmarks.tasks(1, tokenizer)[1]
    unsafe = ConfigurableTask(config={**task.config.to_dict(keep_callable=True), "unsafe_code": True})
    with pytest.raises(ValueError, match="unsafe"):
        simple_evaluate(model="dummy", tasks=[unsafe], confirm_run_unsafe_code=False)


def test_without_the_harness_it_says_which_extra_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError):
        benchmarks.evaluate(None, 1)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (extra,) = re.findall(r"\[(\w+)\]", benchmarks.missing())
    assert any(one.startswith("lm_eval") or one.startswith("lm-eval") for one in extras[extra])
