"""`course evaluate`: how good the bundled models are, on cases that a seed draws and training never saw.

This sits above the unit helpers, like the command line: it runs the very agents and scores of the lessons.
"""

import dataclasses
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.measures import Measure, bootstrap, share
from course_utils.models import bundled
from course_utils.prisma import text
from course_utils.prisma.shop import make_shop, open_database
from course_utils.prisma.tools import Toolbox
from course_utils.settings import SEED

if TYPE_CHECKING:
    from course_utils.models.roles import Chat

SAMPLES, TEMPERATURE = 15, 1.8  # at 1.8 a single sample errs often enough to leave room

# What the shipped models should reach; a negative bar is a ceiling.
BARS: dict[str, dict[str, float]] = {
    "prisma-clip": {
        "zero-shot, pairs never trained": 0.95,
        "image to text R@1": 0.8,
        "text to image R@1": 0.8,
        "time to load": -2,
    },
    "prisma-whisper": {
        "word errors, clean": -0.04,
        "word errors at 10 dB": -0.12,
        "real time factor on one core": -0.2,
        "time to load": -2,
    },
    "prisma-lm": {
        "ReAct success": 0.92,
        "function calls right": 0.97,
        "arithmetic, worked steps": 0.85,
        "arithmetic, direct": -0.5,
        "majority of 15 over one": 5,
        "strongest induction score": 0.5,
        "time to load": -2,
        "support task before QLoRA": -0.15,
        "support task after QLoRA": 0.85,
    },
}


def evaluate_all(seed: int, n: int = 500) -> dict[str, dict[str, Measure]]:
    """Every measure of the three model cards, `n` cases each where the measure counts cases."""
    import torch

    from course_utils.models import loaders

    loaders.quiet_libraries()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the threads of such small models wait longer than they work
    try:
        found = {name: measure(bundled.verify(name), seed, n) for name, measure in MEASURES.items()}
    finally:
        torch.set_num_threads(threads)
    found["prisma-lm"] |= support_task(bundled.verify("prisma-lm"), seed)
    return found


def reached(measures: dict[str, Measure], bars: dict[str, float]) -> dict[str, bool]:
    """For each measure with a bar whether it reaches it; a negative bar is a ceiling."""
    marks = {}
    for name, bar in bars.items():
        if name in measures:
            value = measures[name].value
            marks[name] = value >= bar if bar > 0 else value <= -bar
    return marks


def score(measures: dict[str, Measure], bars: dict[str, float]) -> float:
    """One number to compare two models by: the mean of all shares that have a bar, error rates subtracted."""
    shares = []
    for name, bar in bars.items():
        if name in measures and measures[name].unit == "%":
            value = measures[name].value
            shares.append(value if bar > 0 else -value)
    return sum(shares) / len(shares)


def verdict(name: str, fresh: Path, n: int = 200) -> str:
    """One line that says whether the model in `fresh` scores better than the shipped one, on the same new cases."""
    shipped = bundled.folder(name)
    adopt = f"To ship it, copy {fresh} over {shipped} and run `python -m course_utils.models.bundled`."
    if not list(shipped.glob("*.safetensors")):
        return f"No {name} is shipped yet. {adopt}"
    measure, bars = MEASURES[name], BARS[name]
    new, old = (score(measure(folder, SEED, n), bars) for folder in (fresh, bundled.verify(name)))
    line = f"than the shipped {name}: {new:.3f} against {old:.3f}, the mean of what has a bar, n = {n}"
    if new > old:
        return f"Better {line}. {adopt}"
    return f"Not better {line}. It stays in {fresh}."


def clip(folder: Path, seed: int, n: int) -> dict[str, Measure]:
    """prisma-clip's zero-shot, retrieval and binding measures."""
    from course_utils.prisma import clip as recipe

    return recipe.evaluate(folder, seed, n) | {"time to load": loading(lambda: recipe.load(folder))}


def whisper(folder: Path, seed: int, n: int) -> dict[str, Measure]:
    """prisma-whisper's word error rates and its speed."""
    from course_utils.prisma import whisper as recipe

    return recipe.evaluate(folder, seed, n) | {"time to load": loading(lambda: recipe.load(folder))}


def seconds(work: Callable[[], object]) -> list[float]:
    """How long `work` takes, five times."""
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken


def loading(load: Callable[[], object]) -> Measure:
    """Seconds to read a model, once its libraries are imported."""
    load()
    return bootstrap(seconds(load), "s")


def lm(folder: Path, seed: int, n: int) -> dict[str, Measure]:
    """prisma-lm's tool use, function calls, arithmetic, induction and speed."""
    from course_utils.models import catalogue, hardware, loaders

    model, machine = catalogue.find("chat", "bundled"), hardware.detect()
    chat = loaders.from_folder(model, folder, machine)
    return {
        **tool_use(chat, seed, n),
        "function calls right": calls_right(chat, seed, n),
        **arithmetic(chat, seed, n),
        **exact_turns(chat, seed, n // 3),
        "majority of 15 over one": majority(chat, seed, n // 5),
        "strongest induction score": induction(chat, seed),
        "greedy tokens": speed(chat),
        **speed_llama_cpp(chat, folder),
        "time to load": loading(lambda: loaders.from_folder(model, folder, machine)),
    }


def tool_use(chat: "Chat", seed: int, n: int) -> dict[str, Measure]:
    """Success on `n` questions about a fresh shop, with tools (ReAct) and without."""
    from course_utils.agents import react, success

    shop = make_shop(seed)
    tasks = text.episodes(n, seed, shop)
    questions = [task.question for task in tasks]
    toolbox = Toolbox(open_database(shop))
    with_tools = react.run_many(chat, toolbox, questions)
    without_tools = react.run_direct(chat, questions)
    return {
        "ReAct success": success.success(tasks, with_tools),
        "same questions without tools": success.success(tasks, without_tools),
    }


def calls_right(chat: "Chat", seed: int, n: int) -> Measure:
    """How often the first reply is valid JSON that names the right function and the right argument."""
    tasks = text.episodes(n, seed, make_shop(seed))
    functions = text.tool_system(list(text.SIGNATURES))
    system = text.turn("system", functions)
    prompts = [system + text.turn("user", task.question) + "<|assistant|>" for task in tasks]
    replies = chat.complete_many(prompts, max_new_tokens=48)
    right = [_right_call(reply, task.steps[0]) for reply, task in zip(replies, tasks, strict=True)]
    return share(right)


def _right_call(reply: str, step: text.Step) -> bool:
    from course_utils.agents import function_calls

    try:
        name, arguments = function_calls.parse_call(reply)
    except function_calls.CallError:
        return False
    values = [str(value) for value in arguments.values()]
    return name == step.tool and values == [step.argument]


def support_task(folder: Path, seed: int, n: int = 200) -> dict[str, Measure]:
    """Unit 7.5's measure: whole replies right before and after its QLoRA run, on conversations grown from `seed`."""
    from course_utils.finetuning import four_bit, qlora, scoring, sft
    from course_utils.models import catalogue, hardware, loaders
    from course_utils.prisma import conversations

    machine = hardware.detect()
    talks = conversations.by_split(conversations.make_conversations(seed=seed))
    test = talks["test"][:n]
    model = catalogue.find("chat", "bundled")
    chat = four_bit.quantised(loaders.from_folder(model, folder, machine), machine)
    before = scoring.score(test, scoring.replies(chat, test))
    with tempfile.TemporaryDirectory() as place:
        recipe = dataclasses.replace(qlora.RECIPES["bundled"], seed=seed)
        trainer = sft.make_trainer(chat, talks, recipe, machine, Path(place))
        sft.train(trainer)
    trained = dataclasses.replace(chat, model=trainer.model)
    after = scoring.score(test, scoring.replies(trained, test))
    return {"support task before QLoRA": before["all"], "support task after QLoRA": after["all"]}


def exact_turns(chat: "Chat", seed: int, n: int) -> dict[str, Measure]:
    """How often a turn is word for word what it should be, in the formats of other agents and in reading."""
    shop = make_shop(seed)
    rng = random.Random(f"evaluate {seed}")
    toolbox = Toolbox(open_database(shop))
    kinds = {
        "planner": "plans in words",
        "executor": "executor's turns",
        "reflect": "reflections",
        "reading": "reading",
    }
    measures = {}
    for kind, name in kinds.items():
        examples = [text.example(rng, shop, toolbox, kind) for _ in range(n)]
        measures[f"{name}, exact"] = _exact(chat, examples)
    return measures


def _exact(chat: "Chat", examples: list[text.Example]) -> Measure:
    """How often the model continues the first piece of an example with its second."""
    prompts = [example.pieces[0][0] for example in examples]
    wanted = [example.pieces[1][0].removesuffix("<|end|>") for example in examples]
    replies = chat.complete_many(prompts, max_new_tokens=96)
    right = [reply.strip() == truth for reply, truth in zip(replies, wanted, strict=True)]
    return share(right)


def arithmetic(chat: "Chat", seed: int, n: int) -> dict[str, Measure]:
    """Shopping sums with worked steps, and answered at once."""
    sums = _sums(seed, n)

    def right(mode: str) -> Measure:
        prompts = [text.prompt(mode, task.question) for task in sums]
        replies = chat.complete_many(prompts, max_new_tokens=64)
        marks = [text.correct(task.answer, reply) for task, reply in zip(sums, replies, strict=True)]
        return share(marks)

    return {"arithmetic, worked steps": right("steps"), "arithmetic, direct": right("direct")}


def _sums(seed: int, n: int) -> list[text.Sum]:
    rng = random.Random(f"evaluate {seed}")
    return [text.shopping_sum(rng) for _ in range(n)]


def majority(chat: "Chat", seed: int, n: int) -> Measure:
    """Gain in points of the most frequent of 15 sampled answers over one sample (arXiv 2203.11171)."""
    sums = _sums(seed + 1, n)
    prompts: list[str] = []
    for task in sums:
        prompts += [text.prompt("steps", task.question)] * SAMPLES
    replies = chat.complete_many(prompts, max_new_tokens=64, temperature=TEMPERATURE, seed=seed)
    gains = []
    for i, task in enumerate(sums):
        start = i * SAMPLES
        answers = [text.final_answer(reply) for reply in replies[start : start + SAMPLES]]
        single = answers.count(task.answer) / SAMPLES
        [(most_frequent, _)] = Counter(answers).most_common(1)
        gain = (most_frequent == task.answer) - single
        gains.append(100 * gain)
    return bootstrap(gains, "points", seed)


def induction(chat: "Chat", seed: int) -> Measure:
    """The induction score of the head with the highest one, over rows of random words (arXiv 2209.11895)."""
    from course_utils.research import inside

    rows, asks = inside.repeated_rows(chat.tokenizer, text.LEXICON, count=16, rows=24, seed=seed)
    scores = []  # of all heads, (layers * heads,) each
    for row in rows:
        maps = inside.attention_maps(chat.model, row[None])
        scores.append(inside.induction_scores(maps, asks).flatten())
    best = sum(scores).argmax()
    return bootstrap([row_scores[best].item() for row_scores in scores], "", seed)


NEW = 200  # tokens written to measure a speed


def speed(chat: "Chat") -> Measure:
    """Tokens a second, batch of one, greedy."""
    import torch

    inputs = chat.tokenizer(text.prompt("react", "What does order 1234 cost?"), return_tensors="pt")

    @torch.inference_mode()
    def write() -> None:
        chat.model.generate(**inputs.to(chat.model.device), min_new_tokens=NEW, max_new_tokens=NEW, do_sample=False)

    return bootstrap([NEW / taken for taken in seconds(write)], "tokens/s")


def speed_llama_cpp(chat: "Chat", folder: Path) -> dict[str, Measure]:
    """The same in llama.cpp, float16, with one thread; nothing where `xllamacpp` is missing."""
    from course_utils.models import llama_cpp

    if not llama_cpp.is_installed():
        return {}
    ids = chat.tokenizer(text.prompt("react", "What does order 1234 cost?"))["input_ids"]
    wanted = {"prompt": ids, "max_tokens": NEW, "temperature": 0.0, "ignore_eos": True}
    fast = llama_cpp.through_llama_cpp(chat, folder)
    taken = seconds(lambda: fast.engine.server.handle_completions(wanted))
    return {"greedy tokens, llama.cpp": bootstrap([NEW / one for one in taken], "tokens/s")}


MEASURES: dict[str, Callable[[Path, int, int], dict[str, Measure]]] = {
    "prisma-clip": clip,
    "prisma-whisper": whisper,
    "prisma-lm": lm,
}
