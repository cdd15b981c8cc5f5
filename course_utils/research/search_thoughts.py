"""Many answers instead of one: samples, the vote over them, and a search over steps."""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from course_utils.measures import majority

if TYPE_CHECKING:
    from course_utils.models.roles import Chat

ROWS = 96  # sequences that are written together; a small model is fastest with many
STEP = ". "  # what ends a thought of prisma-lm: the end of a sentence

# Takes the texts so far, prompt included, and gives each a number: higher is more promising.
Value = Callable[[Sequence[str]], Sequence[float]]


@torch.inference_mode()
def samples(
    chat: "Chat", prompts: Sequence[str], n: int, temperature: float, seed: int, new: int = 72
) -> list[list[str]]:
    """`n` replies to each prompt, of at most `new` tokens: one list for each prompt. The same seed, the same texts.

    All tokens stay possible, however unlikely. ValueError without prompts, for n below 1, or without heat.
    """
    if not prompts or n < 1 or temperature <= 0:
        raise ValueError("samples needs a prompt, n of at least 1 and a temperature above 0.")
    together = max(1, ROWS // n)
    replies: list[list[str]] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), together):
            part = list(prompts[start : start + together])
            texts = _written(chat, part, n, temperature, new)
            replies += [texts[i : i + n] for i in range(0, len(texts), n)]
    return replies


def _written(chat: "Chat", prompts: list[str], n: int, temperature: float, new: int) -> list[str]:
    """n replies to each prompt, one after the other in a flat list."""
    inputs = chat.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    inputs = inputs.to(chat.model.device)
    length = inputs["input_ids"].shape[1]
    rows = chat.model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=True,
        temperature=temperature,
        top_k=0,
        num_return_sequences=n,
        max_new_tokens=new,
        pad_token_id=chat.tokenizer.pad_token_id,
    )  # (prompts * n, length + new)
    return chat.tokenizer.batch_decode(rows[:, length:], skip_special_tokens=True)


def tokens_of(tokenizer, texts: Sequence[str]) -> list[int]:
    """How many tokens each text has, and one more: the end mark, which was written, too."""
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [len(row) + 1 for row in rows]


# ---------------------------------------------------------------- choosing among samples


def voted_right(answers: Sequence[str], truth: str, n: int, seed: int, draws: int = 40) -> float:
    """How often the majority of `n` of these answers is right: the share of `draws` random choices of n.

    ValueError if there are fewer than n answers.
    """
    if not 1 <= n <= len(answers):
        raise ValueError(f"A vote of {n} needs as many answers, and there are {len(answers)}.")
    rng = random.Random(seed)
    right = 0
    for _ in range(draws):
        drawn = rng.sample(list(answers), n)
        right += majority(drawn) == truth
    return right / draws


def chosen_of(scores: Sequence[float], worth: Sequence[float], n: int) -> float:
    """The mean worth of the best-scored of `n` samples, over all choices of n of these: no luck of the draw.

    The i-th best is the best of those n in comb(i-th from the end, n - 1) of comb(all, n) choices. Ties keep their
    order. ValueError if there are fewer than n samples, or not one worth for each score.
    """
    if len(scores) != len(worth) or not 1 <= n <= len(scores):
        raise ValueError(f"{len(scores)} scores, {len(worth)} worths: no best of {n} among them.")
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    total = math.comb(len(order), n)
    mean = 0.0
    for place, i in enumerate(order):
        worse = len(order) - place - 1
        mean += worth[i] * math.comb(worse, n - 1) / total
    return mean


# ---------------------------------------------------------------- a search over steps


@dataclass(frozen=True)
class Thoughts:
    """A text that grows step by step: the prompt, what is written so far, and its value."""

    prompt: str
    written: str
    value: float
    done: bool

    @property
    def text(self) -> str:
        return self.prompt + self.written


@dataclass(frozen=True)
class Searched:
    """The reply that a search chose, and how many tokens were written on the way to it."""

    reply: str
    tokens: int


def next_steps(chat: "Chat", texts: Sequence[str], n: int, temperature: float, seed: int, new: int = 24) -> list[str]:
    """`n` next steps for each text, up to the end of a sentence; a reply that ended has no such end. A flat list."""
    written = samples(chat, texts, n, temperature, seed, new)
    steps = []
    for replies in written:
        for reply in replies:
            step, end, _ = reply.partition(STEP)
            steps.append(step + end)
    return steps


def beam(
    chat: "Chat",
    prompts: Sequence[str],
    value: Value,
    width: int = 2,
    children: int = 4,
    temperature: float = 1.0,
    seed: int = 0,
    depth: int = 6,
) -> list[Searched]:
    """Tree of thoughts, breadth first (arXiv 2305.10601, algorithm 1): for each prompt the best
    reply found.

    In each round every text on the beam gets `children` next steps; of a prompt's texts the `width`
    with the highest `value` stay. It ends when all have ended, or after `depth` rounds. All prompts
    search together, so that their steps are written in one batch.
    """
    kept = [(number, Thoughts(prompt, "", 0.0, False)) for number, prompt in enumerate(prompts)]
    spent = [0] * len(prompts)
    for level in range(depth):
        growing = [pair for pair in kept if not pair[1].done]
        if not growing:
            break
        texts = [thoughts.text for _, thoughts in growing]
        steps = next_steps(chat, texts, children, temperature, seed + level)
        parents: list[tuple[int, Thoughts]] = []
        for pair in growing:
            parents += [pair] * children
        counted = tokens_of(chat.tokenizer, steps)
        for (number, _), step, tokens in zip(parents, steps, counted, strict=True):
            no_end_mark = step.endswith(STEP)  # cut off, not ended: none was written
            spent[number] += tokens - no_end_mark
        finished = [pair for pair in kept if pair[1].done]
        kept = _best(finished + _grown(parents, steps, value), width)
    first = {}
    for number, thoughts in kept:
        first.setdefault(number, thoughts.written)
    return [Searched(first[number], tokens) for number, tokens in enumerate(spent)]


def _grown(parents: Sequence[tuple[int, Thoughts]], steps: Sequence[str], value: Value) -> list[tuple[int, Thoughts]]:
    """Each parent with its step, valued; the number says to which prompt it belongs."""
    texts = [parent.text + step for (_, parent), step in zip(parents, steps, strict=True)]
    values = value(texts)
    children = []
    for (number, parent), step, worth in zip(parents, steps, values, strict=True):
        done = not step.endswith(STEP)
        child = Thoughts(parent.prompt, parent.written + step, float(worth), done)
        children.append((number, child))
    return children


def _best(texts: Sequence[tuple[int, Thoughts]], width: int) -> list[tuple[int, Thoughts]]:
    """For each prompt the `width` texts of highest value, best first, each wording once."""
    groups: dict[int, dict[str, Thoughts]] = defaultdict(dict)
    for number, thoughts in texts:
        groups[number][thoughts.written] = thoughts
    kept = []
    for number, different in groups.items():
        ranked = sorted(different.values(), key=lambda thoughts: -thoughts.value)
        kept += [(number, thoughts) for thoughts in ranked[:width]]
    return kept
