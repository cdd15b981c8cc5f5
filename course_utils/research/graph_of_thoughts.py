"""Graph of thoughts (arXiv 2308.09687): split a problem, solve the parts, score, keep the best, merge (Unit 7.3)."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from course_utils.prisma import shop, text
from course_utils.research import decoding, reasoning

Item = tuple[int, str, int]  # how many, of which shape, for how many euros each


@dataclass(frozen=True)
class Bill:
    """A purchase of some items, to be added up."""

    buyer: str
    items: tuple[Item, ...]

    @property
    def question(self) -> str:
        """In prisma-lm's words; it was trained on two items."""
        parts = [f"{count} {shape}s for {price} euros each" for count, shape, price in self.items]
        listed = " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
        return f"{self.buyer} buys {listed}. What is the total?"

    @property
    def answer(self) -> int:
        return sum(count * price for count, _, price in self.items)


def bills(n: int, items: int, seed: int, prices: tuple[int, int] = (3, 49)) -> list[Bill]:
    """`n` bills of `items` different shapes, at prices from the first to the second (euros).

    ValueError for more items than there are shapes, or none.
    """
    if not 1 <= items <= len(shop.SHAPES):
        raise ValueError(f"{items} items: a bill has 1 to {len(shop.SHAPES)}, one for each shape.")
    rng = random.Random(f"bills {items} {prices} {seed}")
    drawn = []
    for _ in range(n):
        shapes = rng.sample(shop.SHAPES, items)
        bought = [(rng.randint(2, 9), shape, rng.randint(*prices)) for shape in shapes]
        drawn.append(Bill(rng.choice(shop.NAMES), tuple(bought)))
    return drawn


@dataclass(frozen=True)
class Thought:
    """A node: what was done (`kind`), in which words, the number that came out, and the nodes it was made from.

    `score` is the share of samples that agreed on the number.
    """

    kind: str
    words: str
    value: int | None = None
    parents: tuple[int, ...] = ()
    score: float = 1.0


@dataclass
class Graph:
    """All thoughts on one bill, in the order in which they came, and the tokens read and written for them."""

    bill: Bill
    thoughts: list[Thought] = field(default_factory=list)
    tokens: int = 0

    def add(self, thought: Thought) -> int:
        """Add a thought; returns its number."""
        self.thoughts.append(thought)
        return len(self.thoughts) - 1

    @property
    def answer(self) -> int | None:
        return self.thoughts[-1].value


# ---------------------------------------------------------------- the operations


def split(bill: Bill, size: int = 2) -> list[Bill]:
    """Bills of at most `size` items, which together are the whole."""
    starts = range(0, len(bill.items), size)
    return [Bill(bill.buyer, bill.items[start : start + size]) for start in starts]


@dataclass(frozen=True)
class Asked:
    """What came of one prompt: the replies, and the tokens read and written for all of them."""

    replies: tuple[str, ...]
    tokens: int


def ask(chat, prompts: Sequence[str], samples: int, temperature: float, steps: int, seed: int) -> list[Asked]:
    """`samples` replies to each prompt, drawn at `temperature` (0: greedy, and then all are the same)."""
    repeated = [prompt for prompt in prompts for _ in range(samples)]
    drawn = {"do_sample": True, "top_k": 0, "temperature": temperature}
    settings = drawn if temperature > 0 else {"do_sample": False}
    rows = decoding.generate(chat, repeated, steps, seed, **settings)
    asked = []
    for place, prompt in enumerate(prompts):
        mine = rows[place * samples : (place + 1) * samples]
        read = len(chat.tokenizer(prompt)["input_ids"])
        replies = tuple(chat.tokenizer.decode(row) for row in mine)
        asked.append(Asked(replies, samples * read + sum(map(len, mine))))
    return asked


def best_value(values: Sequence[int | None]) -> tuple[int | None, float]:
    """The number that most samples agree on (of equals the first), and the share that agrees; None is no vote."""
    votes = Counter(value for value in values if value is not None)
    if not votes:
        return None, 0.0
    value, count = votes.most_common(1)[0]
    return value, count / len(values)


def number(reply: str) -> int | None:
    """The number that a reply ends with, or None."""
    last = reasoning.last_number(reply)
    return int(last) if last else None


def first_number(reply: str) -> int | None:
    """The number that a reply begins with, or None."""
    begun = re.match(r"\s*(\d+)", reply)
    return int(begun[1]) if begun else None


# ---------------------------------------------------------------- the whole


def chain(chat, asked: Sequence[Bill], samples: int = 1, temperature: float = 0.0, seed: int = 0) -> list[Graph]:
    """One chain of thought for each bill as a whole; of several samples the majority counts."""
    prompts = [text.prompt("steps", bill.question) for bill in asked]
    graphs = []
    for bill, got in zip(asked, ask(chat, prompts, samples, temperature, 80, seed), strict=True):
        value, agreed = best_value([number(reply) for reply in got.replies])
        graph = Graph(bill, tokens=got.tokens)
        graph.add(Thought("chain", got.replies[0], value, score=agreed))
        graphs.append(graph)
    return graphs


def solve(
    chat,
    asked: Sequence[Bill],
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    exact_merge: bool = False,
) -> list[Graph]:
    """Split each bill into pairs, solve each pair by chain of thought, keep the best, and merge two by two.

    A merge is asked of the model as "a + b =", or computed exactly with `exact_merge`.
    """
    graphs = [Graph(bill) for bill in asked]
    open_ends: list[list[int]] = []  # for each graph the numbers of the thoughts that wait for a merge
    for graph in graphs:
        root = graph.add(Thought("bill", graph.bill.question))
        parts = [Thought("part", part.question, parents=(root,)) for part in split(graph.bill)]
        open_ends.append([graph.add(part) for part in parts])
    jobs = [(graph, part) for graph, parts in zip(graphs, open_ends, strict=True) for part in parts]
    prompts = [text.prompt("steps", graph.thoughts[part].words) for graph, part in jobs]
    got = ask(chat, prompts, samples, temperature, 60, seed)
    solved = _kept(jobs, got, "subtotal", number)
    open_ends = [[solved[id(graph), part] for part in parts] for graph, parts in zip(graphs, open_ends, strict=True)]
    while any(len(ends) > 1 for ends in open_ends):
        open_ends = _merge_round(chat, graphs, open_ends, (samples, temperature, seed), exact_merge)
    return graphs


def _kept(jobs: Sequence[tuple[Graph, int]], got: Sequence[Asked], kind: str, read) -> dict[tuple[int, int], int]:
    """Add the best of each job's samples as a thought; its number by graph and job."""
    numbers = {}
    for (graph, part), asked in zip(jobs, got, strict=True):
        value, agreed = best_value([read(reply) for reply in asked.replies])
        graph.tokens += asked.tokens
        thought = Thought(kind, asked.replies[0].strip(), value, (part,), agreed)
        numbers[id(graph), part] = graph.add(thought)
    return numbers


def _merge_round(chat, graphs, open_ends, settings, exact: bool) -> list[list[int]]:
    """Merge neighbours of each graph once; one that is left over waits for the next round."""
    samples, temperature, seed = settings
    jobs = []
    for graph, ends in zip(graphs, open_ends, strict=True):
        for left, right in zip(ends[::2], ends[1::2], strict=False):
            jobs.append((graph, left, right))
    values = [(graph.thoughts[left].value or 0, graph.thoughts[right].value or 0) for graph, left, right in jobs]
    prompts = [f"{a} + {b} =" for a, b in values]
    got = [Asked((f" {a + b}",), 0) for a, b in values]
    if not exact:
        got = ask(chat, prompts, samples, temperature, 6, seed)
    merged: dict[int, list[int]] = {id(graph): [] for graph in graphs}
    for (graph, left, right), prompt, asked in zip(jobs, prompts, got, strict=True):
        value, agreed = best_value([first_number(reply) for reply in asked.replies])
        graph.tokens += asked.tokens
        thought = Thought("merge", prompt, value, (left, right), agreed)
        merged[id(graph)].append(graph.add(thought))
    alone = [ends[-1:] if len(ends) % 2 else [] for ends in open_ends]
    return [merged[id(graph)] + rest for graph, rest in zip(graphs, alone, strict=True)]
