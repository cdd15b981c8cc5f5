"""Unit 7.5: three kinds of benchmark as tasks of EleutherAI's lm-evaluation-harness, small and about Prisma.

Needs the extra `benchmarks` (lm_eval). Choosing, as in MMLU (arXiv 2009.03300); writing something that is run, as in
HumanEval (arXiv 2107.03374); answering in words that a judge marks, as in MT-Bench (arXiv 2306.05685).
Nothing that a model writes is executed: the "programs" are sums, and the shop's calculator walks their syntax tree.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from course_utils import colab
from course_utils.measures import Measure, bootstrap, share
from course_utils.prisma import conversations, text
from course_utils.prisma.shop import make_shop
from course_utils.prisma.tools import calculate
from course_utils.settings import SEED

if TYPE_CHECKING:
    from course_utils.models.roles import Chat


def missing() -> str:
    """What is said where lm_eval is not installed, and what brings it."""
    why = "lm_eval is not installed, so no benchmark is run. It brings about thirty packages. To get it:"
    return f"{why}\n  {colab.how_to_add_extra('benchmarks')}, then restart the kernel."


# ---------------------------------------------------------------- the questions


def choices(n: int, tokenizer: Any) -> list[dict]:
    """Customers' messages, ten topics to choose from: `text`, `choices`, and the right one's index."""
    names = list(conversations.INTENTS)
    talks = _talks()[:n]
    return [
        {"text": _asked(tokenizer, talk.prompt), "choices": names, "right": names.index(talk.intent)} for talk in talks
    ]


def sums(n: int) -> list[dict]:
    """Questions that need a calculator: `text` for the model, `value` of the right result."""
    rng, shop = random.Random(SEED), make_shop()
    made = [text.episode(rng, shop, "sum") for _ in range(n)]
    return [{"text": text.prompt("react", one.question), "value": int(one.answer)} for one in made]


def replies(n: int, tokenizer: Any) -> list[dict]:
    """Customers' messages to answer in the house style, with what the answer must contain."""
    talks = _talks()[-n:]
    return [{"text": _asked(tokenizer, talk.prompt), "index": i} for i, talk in enumerate(talks)]


@cache
def _talks() -> list[conversations.Conversation]:
    """The conversations that nobody trains on."""
    return conversations.by_split(conversations.make_conversations())["test"]


def _asked(tokenizer: Any, turns: Sequence[dict]) -> str:
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


# ---------------------------------------------------------------- the marks


def runs_right(doc: dict, written: Sequence[str]) -> dict[str, float]:
    """1 if the calculator call in the answer gives the right value, else 0 (HumanEval's pass@1)."""
    call = re.search(r"Action: calculator\[([^\]]*)\]", written[0])
    try:
        return {"passed": float(bool(call) and calculate(call.group(1)) == doc["value"])}
    except ValueError:
        return {"passed": 0.0}


def judged(n: int) -> Callable[[dict, Sequence[str]], dict[str, float]]:
    """A judge by rules: 0 to 10 points for the parts of the house style that are right.

    MT-Bench's judge is a large language model, and it looks at two turns.
    """
    talks = _talks()[-n:]

    def points(doc: dict, written: Sequence[str]) -> dict[str, float]:
        parts = conversations.parts_right(talks[doc["index"]], written[0]).values()
        return {"points": 10 * sum(parts) / len(parts)}

    return points


# ---------------------------------------------------------------- the harness


def tasks(n: int, tokenizer: Any) -> list[Any]:
    """The three tasks, `n` questions each, in lm_eval's own terms."""
    until = {"until": ["<|end|>", "Observation:"], "max_gen_toks": 120, "do_sample": False}
    writing = {"output_type": "generate_until", "doc_to_target": "", "generation_kwargs": until}
    pick = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "right"}
    return [
        _task("choose", choices(n, tokenizer), "acc", **pick),
        _task("run", sums(n), "passed", process_results=runs_right, **writing),
        _task("judge", replies(n, tokenizer), "points", process_results=judged(n), **writing),
    ]


def _task(name: str, docs: list[dict], metric: str, **settings: Any) -> Any:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    metrics = [{"metric": metric, "aggregation": "mean", "higher_is_better": True}]
    common = {"task": name, "test_split": "test", "doc_to_text": "{{text}}", "target_delimiter": ""}
    common |= {"num_fewshot": 0, "metric_list": metrics}
    return ConfigurableTask(
        config=common | settings | {"custom_dataset": lambda **_: {"test": Dataset.from_list(docs)}}
    )


def evaluate(chat: Chat, n: int = 40) -> dict[str, Measure]:
    """The three benchmarks for a model that is loaded. ImportError without lm_eval."""
    import contextlib
    import io
    import logging

    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars, about ten
        found = simple_evaluate(
            model=HFLM(pretrained=chat.model, tokenizer=chat.tokenizer, batch_size=16, max_length=1024),
            tasks=tasks(n, chat.tokenizer),
            bootstrap_iters=0,  # the intervals are worked out below
            confirm_run_unsafe_code=False,  # tasks that execute what a model wrote are refused
            random_seed=SEED,
        )
    marks = {}
    for name, metric in METRICS.items():
        marks[name] = [sample[metric] for sample in found["samples"][name]]
    return {
        "choose (as MMLU): right": share([mark == 1 for mark in marks["choose"]]),
        "run (as HumanEval): passed": share([mark == 1 for mark in marks["run"]]),
        "judge (as MT-Bench): points of 10": bootstrap(marks["judge"], "points"),
    }


METRICS = {"choose": "acc", "run": "passed", "judge": "points"}
